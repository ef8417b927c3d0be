//! Waiting until no guard is out, and handing the interpreter over.
//!
//! A drain sums the counters and, while guards are out, sleeps on the slot's wake word. No lock is held meanwhile: a
//! guard's holder may be registering. Zero is final (`signal_safe::counters`, N2): after close only a holder can add.

use super::blockers;
use super::closing::Closing;
use super::error::DrainError;
use super::options::{DrainOptions, Enough, Phase, Watch};
use super::undrained::Undrained;
use crate::events::{self, Pace};
use crate::pending::{self, Left};
use std::mem::ManuallyDrop;
use std::time::Duration;

impl<'r, T: Send + Sync + 'static> Closing<'r, T> {
    /// Waits until no guard is out, takes the interpreter out, retires its ID, and hands it back.
    ///
    /// `timeout` limits the waiting; `None` is without limit, zero looks once. Never proceeds with a guard out.
    ///
    /// To be called detached from the interpreter. While this thread is attached, a guard's holder may be waiting for the
    /// runtime's lock, which nobody here can know: then the wait lasts until the deadline. Of a daemon that is attaching it is
    /// known, and said: `WouldDeadlock`.
    ///
    /// A drain that may wait runs the interpreter's [pending calls](crate::pending) that only its own thread would run.
    ///
    /// Context: normal; blocks, with no lock held; takes as long as the pending calls do that it runs.
    ///
    /// # Errors
    /// [`DrainError`]. The interpreter is closed and otherwise untouched, and the `Closing` is in the error.
    ///
    /// ```
    /// # use interp_guard::{DrainError, Registry};
    /// # use std::time::Duration;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::from_millis(1))).unwrap_err();
    /// assert!(matches!(late, DrainError::Timeout(_)));
    /// drop(guard);
    /// assert_eq!(late.into_closing().drain(None).unwrap(), "an interpreter");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(self, timeout: Option<Duration>) -> Result<T, DrainError<'r, T>> {
        self.drain_with(DrainOptions::new().timeout(timeout))
    }

    /// [`drain`](Self::drain) with an interrupt check or an observer.
    ///
    /// Context: normal; blocks, with no lock held.
    ///
    /// # Errors
    /// As `drain`, and [`DrainError::Interrupted`].
    ///
    /// ```
    /// # use interp_guard::{DrainOptions, Registry};
    /// # use std::ops::ControlFlow;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let mut guard = Some(registry.lookup(id)?);
    /// let let_go = || { guard = None; ControlFlow::Continue(()) };
    /// let options = DrainOptions::new().interrupt(let_go);
    /// assert_eq!(registry.close(id)?.drain_with(options).unwrap(), "an interpreter");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_with(self, options: DrainOptions<'_>) -> Result<T, DrainError<'r, T>> {
        let mut watch = options.start();
        let id = self.id;
        let drained = self.until_drained(&mut watch);
        watch.tell(if drained.is_ok() { Phase::Drained(id) } else { Phase::NotDrained(id) });
        drained?.hand_over(&mut watch)
    }

    /// Waits until no guard is out (D0 to D3, and C2 first if it has not succeeded yet). Zero is final: what comes back may be
    /// handed over at any time.
    pub(super) fn until_drained(self, watch: &mut Watch<'_>) -> Result<Self, DrainError<'r, T>> {
        let drained = self.wait(watch);
        if let Err(error) = &drained {
            error.tell();
        }
        drained
    }

    fn wait(mut self, watch: &mut Watch<'_>) -> Result<Self, DrainError<'r, T>> {
        if !self.confirm() {
            return Err(DrainError::Superseded(Undrained::new(self, watch.began)));
        }
        if blockers::this_thread_blocks(self.registry.table(), self.id) {
            return Err(DrainError::WouldDeadlock(Undrained::new(self, watch.began)));
        }
        if self.fenced.is_err() {
            self.fenced = watch.fence(self.registry.table());
            if self.fenced.is_err() {
                let interrupted = matches!(watch.enough(), Some(Enough::Interrupted));
                let refused = if interrupted { DrainError::Interrupted } else { DrainError::FenceFailed };
                return Err(refused(Undrained::new(self, watch.began)));
            }
        }
        if events::ON {
            events::drain_begun(self.id, self.registry.name(self.id).as_deref(), self.outstanding());
        }
        let mut pace = Pace::new();
        while let Some(wake) = self.registry.table().wake(self.slot) {
            let seen = wake.value(); // D0
            pending::run_own(self.registry, self.id, &mut || watch.enough().is_none());
            let out = self.registry.table().out(self.slot); // D1, D2
            match out {
                0 if self.registry.table().seal(self.slot) => break, // D3, G1, G2
                0.. => {}
                _ => return Err(DrainError::Unbalanced(Undrained::new(self, watch.began))),
            }
            let over = watch.enough();
            // Not when the time is over: one call could push the next one for ever.
            let without_limit = watch.is_without_limit();
            let mut may_go_on = || watch.enough().is_none();
            let left = match over {
                None => pending::run_left(self.registry, self.id, without_limit, &mut may_go_on),
                Some(_) => Left::Nothing,
            };
            if left == Left::Ran {
                continue;
            }
            // An interrupt check may let others attach for a moment: with one, nobody can say that they never will.
            if !watch.has_interrupt() && self.registry.table().is_kept_from_attaching_here(self.slot, self.id)
            {
                return Err(DrainError::WouldDeadlock(Undrained::new(self, watch.began)));
            }
            match over {
                None => {}
                Some(Enough::Deadline) => {
                    self.note(|stats| stats.timeouts += 1);
                    return Err(DrainError::Timeout(Undrained::new(self, watch.began)));
                }
                Some(Enough::Interrupted) => {
                    return Err(DrainError::Interrupted(Undrained::new(self, watch.began)));
                }
            }
            if let Some(waited) = pace.is_due() {
                let out = u64::try_from(out).unwrap_or(0);
                events::drain_waits(self.id, self.registry.name(self.id).as_deref(), out, waited);
            }
            wake.wait_for_change(seen, watch.next_look(left == Left::ToOthers, pace.until_due()));
        }
        Ok(self)
    }

    /// Takes the interpreter out and retires its ID. To be called with no guard out.
    pub(super) fn hand_over(self, watch: &mut Watch<'_>) -> Result<T, DrainError<'r, T>> {
        self.tell_released_twice();
        let name = if events::ON { self.registry.name(self.id) } else { None };
        match self.take() {
            Some(interpreter) => {
                events::drain_done(self.id, name.as_deref(), watch.began.elapsed());
                self.note(|stats| stats.drained(watch.began.elapsed()));
                let closing = ManuallyDrop::new(self); // there is nothing left to give back
                watch.tell(Phase::Finalized(closing.id));
                Ok(interpreter)
            }
            None => {
                let error = DrainError::Superseded(Undrained::new(self, watch.began));
                error.tell();
                Err(error)
            }
        }
    }
}
