//! Lookups, and what else any context may ask of a registry.

use super::known;
use super::set::Registry;
use crate::signal_safe::LookupError;
use crate::signal_safe::guard::{Guard, GuardParts, RawGuard, View};
use crate::signal_safe::ledger::Site;
use crate::signal_safe::this_thread::this_thread;
use crate::signal_safe::word::InterpreterId;

/// From any context, a signal handler included.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Takes a guard on `id`, if it is live.
    ///
    /// Context: any, async-signal-safe, re-entrant to any depth. `errno` is not touched.
    ///
    /// # Errors
    /// [`LookupError::Finalizing`] if it is closing, [`LookupError::NotFound`] if it is gone or never was.
    ///
    /// # Complexity
    /// Wait-free. At most one more probe than the largest displacement among the IDs that share this one's home, which
    /// is 0 or 1 for dense IDs; hits and misses alike, however many interpreters there are.
    ///
    /// ```
    /// # use interp_guard::{LookupError, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(*registry.lookup(id)?, "an interpreter");
    /// # Ok::<(), LookupError>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn lookup(&self, id: InterpreterId) -> Result<Guard<'_, T>, LookupError> {
        self.lookup_at(id, Site::caller())
    }

    /// As [`lookup`](Self::lookup), and has the ledger show `site` for the guard: for bindings to other languages.
    ///
    /// Context: any, async-signal-safe, re-entrant to any depth. `errno` is not touched.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    ///
    /// ```
    /// # use interp_guard::{Registry, Site};
    /// let registry = Registry::new().ledger(true);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup_at(id, Site::named(&"worker.py:12"))?;
    /// let holders = registry.holders(id).unwrap();
    /// assert_eq!(holders.iter().next().unwrap().site.to_string(), "worker.py:12");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline(always)] // a call of it would cost seven instructions more
    pub fn lookup_at(&self, id: InterpreterId, site: Site) -> Result<Guard<'_, T>, LookupError> {
        self.view(id).guard_at(site)
    }

    /// A view of `id`, whether or not an interpreter has it.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, LookupError, Registry};
    /// let registry: Registry<String> = Registry::new();
    /// let view = registry.view(InterpreterId::try_from(7)?);
    /// assert_eq!(view.guard().unwrap_err(), LookupError::NotFound);
    /// # Ok::<(), interp_guard::InvalidId>(())
    /// ```
    #[inline]
    pub fn view(&self, id: InterpreterId) -> View<'_, T> {
        // SAFETY: every payload in this table is a `T` that `insert` boxed and `take` unboxes after vacating.
        unsafe { View::new(self.table(), id) }
    }

    /// The main interpreter: the first registered into an empty registry, unless [`set_main`](Self::set_main) named
    /// another. `None` before that, and from the moment it is finalized.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// assert_eq!(registry.main(), None);
    /// let first = registry.register("first").unwrap();
    /// let second = registry.register("second").unwrap();
    /// assert_eq!(registry.main(), Some(first));
    /// registry.set_main(second)?;
    /// assert_eq!(registry.main(), Some(second));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn main(&self) -> Option<InterpreterId> {
        self.table().main()
    }

    /// The interpreter attached on the calling thread, if an ensure of this registry has attached it.
    #[inline]
    pub(crate) fn attached_here(&self) -> Option<InterpreterId> {
        let noted = this_thread().noted()?;
        (noted.registry != 0 && noted.registry == self.table().serial()).then_some(noted.id)
    }

    /// The interpreter that a signal handler has interrupted: the one attached on the calling thread, or the main one where none of
    /// this registry is. What a runtime has noted says nothing of a registry: it is of this one where there is no other.
    #[inline]
    pub(crate) fn interrupted_or_main(&self) -> Option<InterpreterId> {
        let noted_by_its_runtime = || {
            let noted = this_thread().noted().filter(|noted| noted.registry == 0)?;
            known::is_alone().then_some(noted.id)
        };
        self.attached_here().or_else(noted_by_its_runtime).or_else(|| self.main())
    }

    /// Puts a guard together again that [`Guard::into_raw`] and [`RawGuard::into_parts`] took apart: for bindings, which
    /// store guards as plain data.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// # Safety
    /// 1. `parts` came from a guard of this registry.
    /// 2. They are put together once. Twice is an over-release.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let parts = registry.lookup(id)?.into_raw().into_parts();
    /// // SAFETY: taken apart above, and put together only here.
    /// let guard = unsafe { registry.guard_from_parts(parts) };
    /// assert_eq!(*guard, "an interpreter");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub unsafe fn guard_from_parts(&self, parts: GuardParts) -> Guard<'_, T> {
        // SAFETY: (1) and (2) are the requirements of `from_parts`; every payload is a `T`, as in `view`.
        unsafe { Guard::from_raw(RawGuard::from_parts(self.table(), parts)) }
    }

    /// Calls `f` with the ID of every interpreter that is live when its place in the table is looked at, in no
    /// particular order.
    ///
    /// Context: any, async-signal-safe if `f` is. O(slots), and there are 2 to 4 slots per interpreter of capacity.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let mut live = 0;
    /// registry.for_each_live(|_| live += 1);
    /// assert_eq!(live, 1);
    /// ```
    pub fn for_each_live(&self, f: impl FnMut(InterpreterId)) {
        self.table().for_each_live(f);
    }
}
