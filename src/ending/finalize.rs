//! Closing an interpreter; and closing, draining and handing over in one call.

use super::blockers;
use super::closing::{Closing, TakeUp};
use super::error::{DrainError, FinalizeError};
use super::options::DrainOptions;
use super::report::Report;
use crate::pending;
use crate::registry::{CloseError, Registry};
use crate::signal_safe::ledger::Site;
use crate::signal_safe::word::InterpreterId;
use std::time::{Duration, Instant};

/// Closing and finalizing.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Closes an interpreter: no new guards from here on. The ones that are out stay valid.
    ///
    /// When this has returned, every lookup that begins says [`Finalizing`](crate::LookupError::Finalizing). Never undone:
    /// dropping the [`Closing`] leaves the interpreter closed, for the next `close` or [`finalize`](Self::finalize) to take up.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`CloseError::NotFound`]; [`CloseError::AlreadyClosing`] while somebody else holds the `Closing`.
    ///
    /// ```
    /// # use interp_guard::{CloseError, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let closing = registry.close(id)?;
    /// assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing);
    /// assert_eq!(closing.drain(None).unwrap(), "an interpreter");
    /// # Ok::<(), CloseError>(())
    /// ```
    pub fn close(&self, id: InterpreterId) -> Result<Closing<'_, T>, CloseError> {
        Closing::begin(self, id, TakeUp::Left)
    }

    /// Closes an interpreter, waits until no guard is out, and hands it back by value.
    ///
    /// `timeout` limits the waiting; `None` is without limit, zero looks once. The ID is retired when this succeeds.
    ///
    /// Detach first: see [`Closing::drain`], which also says when pending calls are run here.
    ///
    /// Context: normal; blocks.
    ///
    /// # Errors
    /// [`FinalizeError::NotFound`], [`FinalizeError::AlreadyClosing`], or what [`Closing::drain`] says; then the
    /// interpreter is closed and otherwise untouched, and the error has the [`Closing`] in it. The thread that got such an error
    /// may call this again, while it has the error or later: it takes the `Closing` up. Others may when the error is dropped.
    ///
    /// [`FinalizeError::WouldDeadlock`] is answered at once, and leaves the interpreter as it was, where the calling thread itself
    /// blocks it: inside an ensure or a pending call of it, or attached to it while a daemon is attaching.
    /// (A daemon that begins to attach after that is seen by the drain, and the interpreter is closed then.)
    ///
    /// ```
    /// # use interp_guard::{DrainError, FinalizeError, Registry};
    /// # use std::time::{Duration, Instant};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let refused = registry.finalize(id, Some(Duration::ZERO)).unwrap_err();
    /// let FinalizeError::Drain(DrainError::Timeout(late)) = refused else { panic!("{refused}") };
    /// assert_eq!(late.outstanding(), 1);
    /// drop(guard);
    /// assert_eq!(late.into_closing().drain(None).unwrap(), "an interpreter");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn finalize(&self, id: InterpreterId, timeout: Option<Duration>) -> Result<T, FinalizeError<'_, T>> {
        self.finalize_with(id, DrainOptions::new().timeout(timeout))
    }

    /// [`finalize`](Self::finalize) with an interrupt check or an observer.
    ///
    /// Context: normal; blocks.
    ///
    /// # Errors
    /// As `finalize`, and [`DrainError::Interrupted`].
    ///
    /// ```
    /// # use interp_guard::{DrainOptions, Phase, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let mut phases = Vec::new();
    /// registry.finalize_with(id, DrainOptions::new().observe(|phase| phases.push(phase))).unwrap();
    /// assert_eq!(phases, [Phase::Drained(id), Phase::Finalized(id)]);
    /// ```
    pub fn finalize_with(
        &self,
        id: InterpreterId,
        options: DrainOptions<'_>,
    ) -> Result<T, FinalizeError<'_, T>> {
        self.close_and_drain(id, TakeUp::OrOwn, options)
    }

    pub(crate) fn close_and_drain(
        &self,
        id: InterpreterId,
        take_up: TakeUp,
        options: DrainOptions<'_>,
    ) -> Result<T, FinalizeError<'_, T>> {
        // A drain that is somebody else's is refused as that, below. Should they give it up before, it is closed all the
        // same, and the drain says again that it would deadlock.
        let keeps_out = || !options.has_interrupt() && self.is_kept_from_attaching_here(id);
        let blocks = blockers::this_thread_blocks(self.table(), id)
            || keeps_out() && {
                // Among what this thread would run in the drain may be what lets them in.
                let began = Instant::now();
                let mut may_go_on = || options.allows(began.elapsed());
                pending::run_own(self, id, &mut may_go_on);
                pending::run_left(self, id, options.is_without_limit(), &mut may_go_on);
                keeps_out()
            };
        if blocks && !self.is_taken(id, take_up) {
            return Err(FinalizeError::WouldDeadlock(Report::new(self, id, None)));
        }
        let closing = Closing::begin(self, id, take_up).map_err(FinalizeError::from)?;
        closing.drain_with(options).map_err(DrainError::for_finalize)
    }

    /// Does this thread, by being attached to `id`, keep others out that are attaching? `false` if it is not live: then its drain
    /// asks.
    fn is_kept_from_attaching_here(&self, id: InterpreterId) -> bool {
        let attaching = {
            let book = self.lock();
            let entry = book.as_ref().and_then(|book| book.entries.get(&id));
            entry.is_some_and(|entry| self.table().attaching(entry.slot) != 0)
        };
        // With a guard, so that it stays where it is.
        let guard = if attaching { self.table().lookup(id, Site::default()).ok() } else { None };
        let slot = guard.as_ref().and_then(|_| self.table().find(id));
        slot.is_some_and(|slot| self.table().is_kept_from_attaching_here(slot, id))
    }

    fn is_taken(&self, id: InterpreterId, take_up: TakeUp) -> bool {
        let book = self.lock();
        book.as_ref().and_then(|book| Closing::is_taken(self, book, id, take_up)).unwrap_or(false)
    }
}
