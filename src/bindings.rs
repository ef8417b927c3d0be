// May import: ending, pending, registry, signal_safe.
//! For bindings to other languages: a right to drain that the registry keeps, for languages without borrows; a lookup in two
//! halves, for functions that others call.
//!
//! ```
//! use interp_guard::Registry;
//! use interp_guard::bindings::RegistryExt as _;
//!
//! static INTERPRETERS: Registry<String> = Registry::new();
//!
//! let id = INTERPRETERS.register("main".into())?;
//! drop(INTERPRETERS.close_live(id)?); // nothing is kept: the number is enough
//! let interpreter = INTERPRETERS.take_up(id)?.expect("closed").drain(None)?;
//! assert_eq!(interpreter, "main");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::ending::{Closing, DrainOptions, FinalizeError, TakeUp};
use crate::pending::Waiting;
use crate::registry::{CloseError, Registry};
use crate::signal_safe::LookupError;
use crate::signal_safe::guard::{Guard, GuardParts};
use crate::signal_safe::table::NotAtHome;
use crate::signal_safe::word::InterpreterId;
use std::time::Duration;

mod sealed {
    pub trait Sealed {}
}

/// What a binding needs of a [`Registry`], and a program in Rust does not.
pub trait RegistryExt<T: Send + Sync + 'static>: sealed::Sealed {
    /// [`lookup`](Registry::lookup) where it is nearly always over: at the ID's own place in the table, with no ledger. Calls
    /// nothing, so that an exported function whose other calls are in its tail needs next to no frame.
    ///
    /// Context: any, async-signal-safe, wait-free, O(1).
    ///
    /// # Errors
    /// [`NotAtHome`]: no guard, or not yet.
    ///
    /// ```
    /// # use interp_guard::bindings::RegistryExt as _;
    /// # use interp_guard::{LookupError, Registry, raw::NotAtHome};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = match registry.lookup_at_home(id) {
    ///     Ok(guard) => guard,
    ///     Err(NotAtHome::Elsewhere) => registry.lookup(id)?,
    ///     Err(NotAtHome::Refused(why)) => return Err(why),
    ///     // SAFETY: as it says, and once.
    ///     Err(NotAtHome::Counted(at)) => return Err(unsafe { registry.back_out_at_home(at, id) }),
    /// };
    /// assert_eq!(*guard, "an interpreter");
    /// # Ok::<(), LookupError>(())
    /// ```
    fn lookup_at_home(&self, id: InterpreterId) -> Result<Guard<'_, T>, NotAtHome>;

    /// Gives back what [`lookup_at_home`](Self::lookup_at_home) has counted in vain, and says why it was in vain.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Safety
    /// It answered `Counted(at)` for `id`, and this is done once.
    ///
    /// ```
    /// # use interp_guard::bindings::RegistryExt as _;
    /// use interp_guard::{Guard, InterpreterId, LookupError, Registry, raw::NotAtHome};
    ///
    /// fn lookup(registry: &Registry<String>, id: InterpreterId) -> Result<Guard<'_, String>, LookupError> {
    ///     match registry.lookup_at_home(id) {
    ///         Ok(guard) => Ok(guard),
    ///         Err(NotAtHome::Elsewhere) => registry.lookup(id),
    ///         Err(NotAtHome::Refused(why)) => Err(why),
    ///         // SAFETY: as it says, and once.
    ///         Err(NotAtHome::Counted(at)) => Err(unsafe { registry.back_out_at_home(at, id) }),
    ///     }
    /// }
    ///
    /// let registry = Registry::new();
    /// let id = registry.register(String::from("main")).unwrap();
    /// // Whichever way the race between the two goes, nothing stays counted.
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| registry.close(id).map(drop));
    ///     while lookup(&registry, id).is_ok() {}
    /// });
    /// assert_eq!(lookup(&registry, id).unwrap_err(), LookupError::Finalizing);
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// ```
    unsafe fn back_out_at_home(&self, at: u32, id: InterpreterId) -> LookupError;

    /// Closes an interpreter that is live. Unlike [`close`](Registry::close), it leaves alone what somebody else has closed
    /// and left: that is [`take_up`](Self::take_up)'s.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`CloseError::NotFound`]; [`CloseError::AlreadyClosing`] if it is not live.
    ///
    /// ```
    /// # use interp_guard::bindings::RegistryExt as _;
    /// # use interp_guard::{CloseError, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// drop(registry.close_live(id)?);
    /// assert_eq!(registry.close_live(id).unwrap_err(), CloseError::AlreadyClosing);
    /// assert_eq!(registry.take_up(id)?.unwrap().drain(None).unwrap(), "an interpreter");
    /// # Ok::<(), CloseError>(())
    /// ```
    fn close_live(&self, id: InterpreterId) -> Result<Closing<'_, T>, CloseError>;

    /// Takes up the closing of an interpreter that somebody closed and left. `None` if it is live.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`CloseError::NotFound`]; [`CloseError::AlreadyClosing`] while somebody else holds the [`Closing`].
    ///
    /// ```
    /// # use interp_guard::bindings::RegistryExt as _;
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert!(registry.take_up(id)?.is_none());
    /// # Ok::<(), interp_guard::CloseError>(())
    /// ```
    fn take_up(&self, id: InterpreterId) -> Result<Option<Closing<'_, T>>, CloseError>;

    /// [`finalize`](Registry::finalize) for an interpreter that is live, as [`close_live`](Self::close_live) closes it.
    ///
    /// Context: normal; blocks.
    ///
    /// # Errors
    /// As [`finalize`](Registry::finalize); `AlreadyClosing` if it is not live.
    ///
    /// ```
    /// # use interp_guard::bindings::RegistryExt as _;
    /// # use interp_guard::{FinalizeError, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// drop(registry.close_live(id)?);
    /// assert!(matches!(registry.finalize_live(id, None), Err(FinalizeError::AlreadyClosing)));
    /// # Ok::<(), interp_guard::CloseError>(())
    /// ```
    fn finalize_live(&self, id: InterpreterId, timeout: Option<Duration>) -> Result<T, FinalizeError<'_, T>>;

    /// The pending queues in which calls of an interpreter wait: what a drain's report would say of them.
    ///
    /// Context: normal. O(capacity of the queues).
    ///
    /// ```
    /// # use interp_guard::bindings::RegistryExt as _;
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// assert_eq!(registry.waiting(id)[0].calls, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn waiting(&self, id: InterpreterId) -> Vec<Waiting>;

    /// The parts of a guard of `id` whose holder has kept the ID alone: one taken in this process (not before a fork), live
    /// or closing, that the ledger does not record. `None` if `id` is in no slot: then nobody has a guard of it.
    ///
    /// For bindings whose release is told nothing but the interpreter. Takes no guard: [`guard_from_parts`] may be given
    /// them by whoever has one.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// [`guard_from_parts`]: Registry::guard_from_parts
    ///
    /// ```
    /// # use interp_guard::bindings::RegistryExt as _;
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// std::mem::forget(registry.lookup(id)?);
    /// let parts = registry.parts_of(id).unwrap();
    /// // SAFETY: the guard that was forgotten has these parts.
    /// drop(unsafe { registry.guard_from_parts(parts) });
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    fn parts_of(&self, id: InterpreterId) -> Option<GuardParts>;
}

impl<T: Send + Sync + 'static> sealed::Sealed for Registry<T> {}

impl<T: Send + Sync + 'static> RegistryExt<T> for Registry<T> {
    #[inline(always)]
    fn lookup_at_home(&self, id: InterpreterId) -> Result<Guard<'_, T>, NotAtHome> {
        // SAFETY: every payload is a `T`, as in `view`.
        self.table().lookup_at_home(id).map(|raw| unsafe { Guard::from_raw(raw) })
    }

    unsafe fn back_out_at_home(&self, at: u32, id: InterpreterId) -> LookupError {
        // SAFETY: the caller's promise.
        unsafe { self.table().back_out_at_home(at, id) }
    }

    fn close_live(&self, id: InterpreterId) -> Result<Closing<'_, T>, CloseError> {
        Closing::begin(self, id, TakeUp::Nothing)
    }

    fn take_up(&self, id: InterpreterId) -> Result<Option<Closing<'_, T>>, CloseError> {
        {
            // With the mutex held, so that the slot is still this interpreter's.
            let book = self.lock();
            let entry = book.as_ref().and_then(|book| book.entries.get(&id)).ok_or(CloseError::NotFound)?;
            if !self.table().is_closing(entry.slot) {
                return Ok(None);
            }
        }
        // Never undone: from here on it is closing, or gone.
        Closing::begin(self, id, TakeUp::Left).map(Some)
    }

    fn finalize_live(&self, id: InterpreterId, timeout: Option<Duration>) -> Result<T, FinalizeError<'_, T>> {
        self.close_and_drain(id, TakeUp::Nothing, DrainOptions::new().timeout(timeout))
    }

    fn waiting(&self, id: InterpreterId) -> Vec<Waiting> {
        self.lock().as_ref().map(|book| book.waiting(id)).unwrap_or_default()
    }

    fn parts_of(&self, id: InterpreterId) -> Option<GuardParts> {
        let slot = self.table().find(id)?;
        Some(GuardParts { id, slot, generation: self.table().generation(), ticket: 0 })
    }
}
