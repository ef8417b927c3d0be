//! A drain from the outside: `interp_guard.drain`, and `InterpGuard_Drain` of `pep788.h`.

use super::interrupt::Watch;
use super::residents::{self, Asks, LOOK_EVERY, STAY_AT_MOST};
use super::wait::{SLICE, names_to_show};
use super::{on_close, report};
use crate::ground::helpers::{detached, keeping_exception, say};
use crate::ground::registry;
use crate::ground::status;
use crate::ground::threads::{Names, in_main_thread};
use crate::holding::holds;
use crate::inside::here;
use crate::{attach, keeper};
use interp_guard::{CloseError, DrainError, DrainOptions, InterpreterId};
use pyo3_ffi as ffi;
use std::ffi::c_int;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What became of [`drain`].
pub enum Drained {
    Done,
    NotFound,
    AlreadyClosing,
    WouldDeadlock,
    /// With the report.
    TimedOut(String),
    /// More guards were closed than taken, or the kernel refused: with the report.
    Failed(String),
    /// A Python exception is set: what a signal handler raised.
    Raised,
}

impl Drained {
    /// What a call answers, and the report.
    pub fn answer(self) -> (c_int, String) {
        match self {
            Self::Done => (status::OK, String::new()),
            Self::NotFound => (status::NOT_FOUND, String::new()),
            Self::AlreadyClosing => (status::ALREADY_CLOSING, String::new()),
            Self::WouldDeadlock => (status::WOULD_DEADLOCK, String::new()),
            Self::TimedOut(report) => (status::TIMEOUT, report),
            Self::Failed(report) => (status::INTERNAL, report),
            Self::Raised => (status::INTERNAL, String::new()),
        }
    }
}

/// Closes and drains an interpreter from the outside. `timeout_ns`: if negative, without limit. `raises`: the caller takes
/// what Python's handlers raise, which run now and then if it is attached to the main interpreter. Else, in the process's
/// main thread, Ctrl-C is as in a hook: the first asks who holds the guards, the second ends the process.
///
/// Context: normal; attached or not.
pub fn drain(id: i64, timeout_ns: i64, raises: bool) -> Drained {
    let Ok(id) = InterpreterId::try_from(id) else { return Drained::NotFound };
    if holds(id) {
        return Drained::WouldDeadlock;
    }
    let timeout = u64::try_from(timeout_ns).ok().map(Duration::from_nanos);
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let here = here();
    let in_main = here.is_some() && here == registry::main_id();
    if raises && in_main {
        return drain_until(id, end, true, None);
    }
    let watch = in_main_thread().then(|| Watch::begin(in_main)).flatten();
    let drained = drain_until(id, end, false, watch.as_ref());
    Watch::end(watch);
    drained
}

/// `signals` and `watch`: how it hears of Ctrl-C, if at all. See [`drain`].
fn drain_until(id: InterpreterId, end: Option<Instant>, signals: bool, watch: Option<&Watch>) -> Drained {
    let mut closing = match on_close::close(id) {
        Ok((closing, guard)) => {
            on_close::tell(id, guard);
            closing
        }
        Err(CloseError::NotFound) => return Drained::NotFound,
        Err(CloseError::AlreadyClosing) => return Drained::AlreadyClosing,
    };
    let (is_attached, began) = (!attach::attached().is_null(), Instant::now());
    let mut asked = 0;
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let slice = if signals { Some(left.map_or(SLICE, |left| left.min(SLICE))) } else { left };
        let mut options = DrainOptions::new().timeout(slice);
        if let Some(watch) = watch {
            options = options.interrupt(|| match watch.pressed() > asked {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            });
        }
        let result = match is_attached {
            true => detached(|| closing.drain_with(options)),
            false => closing.drain_with(options),
        };
        closing = match result {
            Ok(interpreter) => {
                keeper::end(interpreter);
                return match is_attached {
                    true => until_threads_have_left(id, end, signals),
                    false => Drained::Done, // the interpreter's own hook waits for them
                };
            }
            Err(DrainError::Timeout(timeout)) if end.is_some_and(|end| Instant::now() >= end) => {
                let names = names(is_attached, signals);
                // SAFETY: with `signals` the caller is attached.
                if signals && unsafe { !ffi::PyErr_Occurred().is_null() } {
                    return Drained::Raised;
                }
                return Drained::TimedOut(report::timed_out(&timeout, id, began.elapsed(), &names));
            }
            Err(DrainError::Timeout(timeout)) => timeout.into_closing(),
            Err(DrainError::Interrupted(timeout)) => {
                asked += 1;
                let (out, waited) =
                    (report::still_out(id, timeout.outstanding()), began.elapsed().as_secs_f64());
                let lines = report::holder_lines(&timeout, &names(is_attached, false));
                say(&format!("the drain waits: {out} ({waited:.1} s){lines}"));
                timeout.into_closing()
            }
            Err(DrainError::Unbalanced(timeout)) => {
                return Drained::Failed(report::unbalanced(&timeout, id, &names(is_attached, false)));
            }
            Err(other) => return Drained::Failed(other.to_string()),
        };
        // SAFETY: with `signals` the caller is attached.
        if signals && unsafe { ffi::Py_MakePendingCalls() } != 0 {
            return Drained::Raised;
        }
    }
}

/// The names of threads. With `raises`, what a signal handler raises meanwhile is set afterwards; without, the
/// caller's own exception stays as it is.
fn names(is_attached: bool, raises: bool) -> Names {
    if !is_attached {
        return Names::said();
    }
    // SAFETY: attached.
    unsafe {
        if raises {
            return Names::of_interpreter();
        }
        keeping_exception(names_to_show)
    }
}

/// Waits, for a while, until the threads that had a guard of `id`, which is drained, have left it. To be called
/// attached.
fn until_threads_have_left(id: InterpreterId, end: Option<Instant>, signals: bool) -> Drained {
    let until = Instant::now() + STAY_AT_MOST;
    let until = end.map_or(until, |end| end.min(until));
    // SAFETY: attached.
    while let Some(still) = unsafe { residents::still_in(id, Asks::Drain) } {
        if Instant::now() >= until {
            let lines = still.lines(&names(true, false));
            say(&format!("the drain is over, although {}{lines}", still.what(id)));
            break;
        }
        detached(|| std::thread::sleep(LOOK_EVERY));
        // SAFETY: attached.
        if signals && unsafe { ffi::PyErr_CheckSignals() } != 0 {
            return Drained::Raised;
        }
    }
    Drained::Done
}
