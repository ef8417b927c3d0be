// May import: signal_safe, unwind.
//! What operators are told, by the feature `tracing`: of an interpreter's beginning and of its end.
//!
//! | event | level | its fields |
//! |---|---|---|
//! | `registered` | DEBUG | `interpreter`, `name` |
//! | `closed` | DEBUG | `interpreter`, `name`, `outstanding` |
//! | `drain begun` | DEBUG | `interpreter`, `name`, `outstanding` |
//! | `drain still waiting` | WARN | `interpreter`, `name`, `outstanding`, `seconds` |
//! | `drain timed out` | WARN | `interpreter`, `name`, `outstanding`, `seconds` |
//! | `drain not finished` | WARN | `interpreter`, `name`, `outstanding`, `seconds`, `why` |
//! | `over-release: more guards were released than taken` | ERROR | `interpreter`, `name`, `seconds` |
//! | `over-release: guards were released twice` | ERROR | `times` |
//! | `drain done` | DEBUG | `interpreter`, `name`, `seconds` |
//!
//! Told in normal context, by the thread whose call it is, with no lock of this library held: a subscriber may lock,
//! allocate and print, and use the registry. Nothing of the signal-safe part comes here. What a signal handler finds out, a
//! guard that is released twice, is counted there (`Ledger::take_twice`) and told by the next close or drain.
//!
//! Without the feature nothing of this does anything.

use crate::signal_safe::word::InterpreterId;
use std::time::{Duration, Instant};

/// Is anybody told? Where it costs something to know what to tell.
pub(crate) const ON: bool = cfg!(feature = "tracing");

/// Why a drain has ended with the interpreter not handed over.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "tracing"), allow(dead_code))]
pub(crate) enum Failure {
    TimedOut,
    OverRelease,
    /// Another one, by its name.
    Other(&'static str),
}

#[cfg(not(feature = "tracing"))]
mod told {
    use super::*;

    pub(crate) fn registered(_: InterpreterId, _: Option<&str>) {}
    pub(crate) fn closed(_: InterpreterId, _: Option<&str>, _: u64) {}
    pub(crate) fn drain_begun(_: InterpreterId, _: Option<&str>, _: u64) {}
    pub(crate) fn drain_waits(_: InterpreterId, _: Option<&str>, _: u64, _: Duration) {}
    pub(crate) fn drain_failed(_: InterpreterId, _: Option<&str>, _: u64, _: Duration, _: Failure) {}
    pub(crate) fn drain_done(_: InterpreterId, _: Option<&str>, _: Duration) {}
    pub(crate) fn released_twice(_: u64) {}
}

#[cfg(feature = "tracing")]
mod told {
    use super::*;
    use crate::unwind;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use tracing::{debug, error, warn};

    /// A subscriber's panic goes no further: what is told of has happened, and its caller has to know.
    fn tell(event: impl FnOnce()) {
        // Unwind-safe: the event is consumed.
        if let Err(thrown) = catch_unwind(AssertUnwindSafe(event)) {
            unwind::discard(thrown);
        }
    }

    pub(crate) fn registered(id: InterpreterId, name: Option<&str>) {
        tell(|| debug!(target: "interp_guard", interpreter = i64::from(id), name, "registered"));
    }

    pub(crate) fn closed(id: InterpreterId, name: Option<&str>, outstanding: u64) {
        tell(|| debug!(target: "interp_guard", interpreter = i64::from(id), name, outstanding, "closed"));
    }

    pub(crate) fn drain_begun(id: InterpreterId, name: Option<&str>, outstanding: u64) {
        tell(
            || debug!(target: "interp_guard", interpreter = i64::from(id), name, outstanding, "drain begun"),
        );
    }

    pub(crate) fn drain_waits(id: InterpreterId, name: Option<&str>, outstanding: u64, waited: Duration) {
        let (interpreter, seconds) = (i64::from(id), waited.as_secs_f64());
        tell(
            || warn!(target: "interp_guard", interpreter, name, outstanding, seconds, "drain still waiting"),
        );
    }

    pub(crate) fn drain_failed(
        id: InterpreterId,
        name: Option<&str>,
        outstanding: u64,
        waited: Duration,
        failure: Failure,
    ) {
        let (interpreter, seconds) = (i64::from(id), waited.as_secs_f64());
        tell(|| match failure {
            Failure::TimedOut => {
                warn!(target: "interp_guard", interpreter, name, outstanding, seconds, "drain timed out");
            }
            Failure::OverRelease => {
                error!(
                    target: "interp_guard", interpreter, name, seconds,
                    "over-release: more guards were released than taken"
                );
            }
            Failure::Other(why) => {
                warn!(target: "interp_guard", interpreter, name, outstanding, seconds, why, "drain not finished");
            }
        });
    }

    pub(crate) fn drain_done(id: InterpreterId, name: Option<&str>, took: Duration) {
        let (interpreter, seconds) = (i64::from(id), took.as_secs_f64());
        tell(|| debug!(target: "interp_guard", interpreter, name, seconds, "drain done"));
    }

    pub(crate) fn released_twice(times: u64) {
        tell(|| error!(target: "interp_guard", times, "over-release: guards were released twice"));
    }
}

pub(crate) use told::*;

/// When a waiting drain says that it waits: after a second, then always twice as late, up to once in a minute.
pub(crate) struct Pace {
    /// `None`: never.
    began: Option<Instant>,
    next: Duration,
    step: Duration,
}

impl Pace {
    pub fn new() -> Self {
        let second = Duration::from_secs(1);
        Self { began: ON.then(Instant::now), next: second, step: second }
    }

    /// Is it time? Then for how long the drain has waited.
    pub fn is_due(&mut self) -> Option<Duration> {
        let waited = self.began?.elapsed();
        self.is_due_after(waited).then_some(waited)
    }

    /// How long until it is; `None`: for ever.
    pub fn until_due(&self) -> Option<Duration> {
        Some(self.next.saturating_sub(self.began?.elapsed()))
    }

    fn is_due_after(&mut self, waited: Duration) -> bool {
        let is_due = waited >= self.next;
        if is_due {
            self.step = (self.step * 2).min(Duration::from_secs(60));
            self.next = waited + self.step;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_that_it_waits_ever_less_often() {
        let mut pace = Pace::new();
        let said = (0..400).filter(|&second| pace.is_due_after(Duration::from_secs(second)));
        assert_eq!(said.collect::<Vec<_>>(), [1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]);
    }

    #[test]
    fn without_operators_a_drain_is_not_woken_for_them() {
        let mut pace = Pace::new();
        assert_eq!((pace.is_due(), pace.until_due().is_some()), (None, ON));
    }
}
