//! A guard without the interpreter's type, and the lookups that make one.

use super::super::ledger::{Site, Ticket};
use super::super::lookup_error::LookupError;
use super::super::state::State;
use super::super::table::{Acquired, NotAtHome, Table};
use super::super::word::InterpreterId;
use core::fmt;
use core::mem::ManuallyDrop;

/// A counted guard without the interpreter's type: what bindings to other languages store.
///
/// Dropping it gives the guard up. [`RawGuard::into_parts`] turns it into plain data and back.
///
/// Context: any, async-signal-safe.
// The order matters to `LookupError`: see there.
#[repr(C)]
pub struct RawGuard<'t> {
    table: &'t Table,
    id: InterpreterId,
    slot: u32,
    generation: u32,
    ticket: Ticket,
}

/// A [`RawGuard`] as plain data. Whoever has it owes one [`Registry::guard_from_parts`](crate::Registry::guard_from_parts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuardParts {
    /// The guarded interpreter.
    pub id: InterpreterId,
    /// Its place in the table.
    pub slot: u32,
    /// The fork generation in which the guard was counted.
    pub generation: u32,
    /// Its place in the ledger; 0 if it is not recorded.
    pub ticket: u64,
}

/// This guard was given up before, through a bitwise copy of it. Nothing was counted.
///
/// Only a guard that the ledger has recorded can be caught at the call; without it, the drain finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverRelease;

impl fmt::Display for OverRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this guard was given up before")
    }
}

impl core::error::Error for OverRelease {}

impl Table {
    /// Takes a guard on `id`, if it is live. The ledger, if there is one, shows `site` for it.
    ///
    /// Context: any, async-signal-safe, wait-free.
    #[inline(always)]
    pub fn lookup(&self, id: InterpreterId, site: Site) -> Result<RawGuard<'_>, LookupError> {
        let acquired = self.acquire(id)?;
        // SAFETY: counted right above.
        Ok(unsafe { RawGuard::counted(self, id, acquired, site) })
    }

    /// [`lookup`](Self::lookup) where it is nearly always over: at home, with no ledger. Calls nothing, so that an exported
    /// function whose other calls are in its tail needs next to no frame.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Errors
    /// [`NotAtHome`]: no guard, or not yet.
    #[inline(always)]
    pub fn lookup_at_home(&self, id: InterpreterId) -> Result<RawGuard<'_>, NotAtHome> {
        let Acquired { state, slot } = self.acquire_at_home(id)?;
        Ok(RawGuard { table: self, id, slot, generation: state.generation(), ticket: Ticket::NONE })
    }
}

impl<'t> RawGuard<'t> {
    /// Wraps a guard that has been counted, and has the ledger, if there is one, show `site` for it.
    ///
    /// # Safety
    /// An `acquired` increment for the slot, in which `id` is, belongs to this guard and to no other.
    #[inline(always)]
    unsafe fn counted(table: &'t Table, id: InterpreterId, acquired: Acquired, site: Site) -> Self {
        let Acquired { state, slot } = acquired;
        let generation = state.generation();
        let ticket = if state.records() { table.record(id, site, generation) } else { Ticket::NONE };
        Self { table, id, slot, generation, ticket }
    }

    /// Takes one more guard of the same interpreter, as [`Clone`] does, and says where.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// ```
    /// # use interp_guard::{Registry, Site};
    /// let registry = Registry::new().ledger(true);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let raw = registry.lookup(id)?.into_raw();
    /// let another = raw.clone_at(Site::named(&"worker.py:12"));
    /// assert!(registry.holders(id).unwrap().to_string().contains("worker.py:12"));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline(always)]
    pub fn clone_at(&self, site: Site) -> Self {
        let Some(state) = self.counting_state() else {
            // It does not protect, and neither does its clone.
            let Self { table, id, slot, generation, .. } = *self;
            return Self { table, id, slot, generation, ticket: Ticket::NONE };
        };
        // No check of the word: this guard keeps the interpreter from finalizing, also while it is closing.
        // SAFETY: this is a guard of that slot, and it counts.
        unsafe { self.table.count_clone(state, self.slot) };
        // SAFETY: counted right above.
        unsafe { Self::counted(self.table, self.id, Acquired { state, slot: self.slot }, site) }
    }

    /// Gives the guard up and says whether it was still there to be given up. Dropping it does the same, in silence.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Errors
    /// [`OverRelease`] if the ledger knows that this guard was given up before: then nothing was counted.
    ///
    /// ```
    /// # use interp_guard::{Registry, raw::OverRelease};
    /// let registry = Registry::new().ledger(true);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let parts = registry.lookup(id)?.into_raw().into_parts();
    /// // SAFETY: taken apart above. Twice is a mistake, made here for the ledger to catch.
    /// let [once, twice] = [(); 2].map(|()| unsafe { registry.guard_from_parts(parts) }.into_raw());
    /// assert_eq!(once.release(), Ok(()));
    /// assert_eq!(twice.release(), Err(OverRelease));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn release(self) -> Result<(), OverRelease> {
        ManuallyDrop::new(self).give_up()
    }

    #[inline(always)]
    fn give_up(&mut self) -> Result<(), OverRelease> {
        if self.ticket.is_some() {
            return Self::give_up_recorded(self.table, self.slot, self.generation, self.ticket);
        }
        if let Some(state) = self.counting_state() {
            // SAFETY: this is a guard of that slot, and it counts.
            unsafe { self.table.exit(state, self.slot) };
        }
        Ok(())
    }

    /// Struck out of the ledger first: whoever does that, once, has the right to count the release. (Its arguments are a
    /// guard's fields, so that no guard has to be in memory for its sake.)
    #[cold]
    #[inline(never)]
    fn give_up_recorded(
        table: &Table,
        slot: u32,
        generation: u32,
        ticket: Ticket,
    ) -> Result<(), OverRelease> {
        let state = table.state();
        if generation == state.generation() {
            if !table.ledger().is_some_and(|ledger| ledger.forget(ticket)) {
                return Err(OverRelease);
            }
            // SAFETY: these are the parts of a guard of that slot, and it counts.
            unsafe { table.exit(state, slot) };
        }
        Ok(())
    }

    /// The guarded interpreter's ID.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.lookup(id)?.into_raw().id(), id);
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn id(&self) -> InterpreterId {
        self.id
    }

    /// What was registered: the address that `insert` was given.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let raw = registry.lookup(id)?.into_raw();
    /// // SAFETY: the interpreters of this registry are `&str`s, and the guard keeps this one.
    /// let interpreter = unsafe { &*raw.payload().cast::<&str>() };
    /// assert_eq!(*interpreter, "an interpreter");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn payload(&self) -> *mut () {
        // SAFETY: this is a guard of the table.
        unsafe { self.table.payload_for_guard(self.slot) }
    }

    /// Has somebody begun to close the interpreter?
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let raw = registry.lookup(id)?.into_raw();
    /// assert!(!raw.is_closing());
    /// let closing = registry.close(id)?;
    /// assert!(raw.is_closing());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.table.is_closing(self.slot)
    }

    /// Does this guard protect? False for one that was taken before a fork and is not kept in the child.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// let id = INTERPRETERS.register("main".into())?;
    /// let raw = INTERPRETERS.lookup(id)?.into_raw();
    /// assert!(raw.is_counted());
    /// INTERPRETERS.before_fork();
    /// // SAFETY: the child calls nothing but this library and `_exit`.
    /// match unsafe { libc::fork() } {
    ///     0 => {
    ///         // SAFETY: in the child, on its only thread, and the guard is not dereferenced.
    ///         unsafe { INTERPRETERS.after_fork_child(&mut []) };
    ///         unsafe { libc::_exit(if raw.is_counted() { 1 } else { 0 }) }
    ///     }
    ///     child => {
    ///         INTERPRETERS.after_fork_parent();
    ///         # let mut status = 0;
    ///         # unsafe { libc::waitpid(child, &mut status, 0) };
    ///         # assert_eq!(status, 0);
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn is_counted(&self) -> bool {
        self.counting_state().is_some()
    }

    /// The table's state, if this guard protects. Loaded once for both questions.
    #[inline(always)]
    fn counting_state(&self) -> Option<State> {
        let state = self.table.state();
        (self.generation == state.generation()).then_some(state)
    }

    /// In a forked child: counts this guard anew, if it was counted in the parent, in generation `counted_in`.
    ///
    /// Context: normal, the only thread of a forked child.
    ///
    /// # Safety
    /// 1. The only thread of a forked child, after `Table::begin_generation` and before a slot is vacated.
    /// 2. No bitwise copy of this guard is counted anew.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// let id = INTERPRETERS.register("main".into())?;
    /// let parts = INTERPRETERS.lookup(id)?.into_raw().into_parts();
    /// // SAFETY: taken apart above, and put together only here.
    /// let mut raw = unsafe { INTERPRETERS.guard_from_parts(parts) }.into_raw();
    /// INTERPRETERS.before_fork();
    /// // SAFETY: the child calls nothing but this library and `_exit`.
    /// match unsafe { libc::fork() } {
    ///     0 => {
    ///         // SAFETY: in the child, on its only thread, once.
    ///         unsafe { INTERPRETERS.after_fork_child_with(|_| raw.recount(parts.generation)) };
    ///         let kept = raw.is_counted() && INTERPRETERS.outstanding(id) == Some(1);
    ///         unsafe { libc::_exit(if kept { 0 } else { 1 }) }
    ///     }
    ///     child => {
    ///         INTERPRETERS.after_fork_parent();
    ///         # let mut status = 0;
    ///         # unsafe { libc::waitpid(child, &mut status, 0) };
    ///         # assert_eq!(status, 0);
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn recount(&mut self, counted_in: u32) {
        if self.generation != counted_in {
            return;
        }
        let state = self.table.state();
        self.generation = state.generation();
        // SAFETY: a guard of that slot, which kept the interpreter in it until the fork; nothing was vacated since (1).
        unsafe { self.table.count_clone(state, self.slot) };
        if let (true, Some(ledger)) = (self.ticket.is_some(), self.table.ledger()) {
            ledger.keep(self.ticket, self.generation);
        }
    }

    /// The table that counts this guard. Not for users of the library: what a table can do is for who knows its slots.
    #[inline]
    pub(crate) fn table(&self) -> &'t Table {
        self.table
    }

    /// Takes the guard apart without giving it up.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let parts = registry.lookup(id)?.into_raw().into_parts();
    /// assert_eq!(parts.id, id);
    /// assert_eq!(registry.outstanding(id), Some(1));
    /// # drop(unsafe { registry.guard_from_parts(parts) });
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn into_parts(self) -> GuardParts {
        let guard = ManuallyDrop::new(self);
        let ticket = guard.ticket.to_bits();
        GuardParts { id: guard.id, slot: guard.slot, generation: guard.generation, ticket }
    }

    /// Puts a guard together again.
    ///
    /// # Safety
    /// 1. `parts` came from [`RawGuard::into_parts`] of a guard of `table`.
    /// 2. They are put together once. Twice is an over-release.
    #[inline]
    pub(crate) unsafe fn from_parts(table: &'t Table, parts: GuardParts) -> Self {
        let GuardParts { id, slot, generation, ticket } = parts;
        Self { table, id, slot, generation, ticket: Ticket::from_bits(ticket) }
    }
}

impl Clone for RawGuard<'_> {
    #[inline(always)]
    #[track_caller]
    fn clone(&self) -> Self {
        self.clone_at(Site::caller())
    }
}

impl Drop for RawGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Given up before: the ledger has kept the counters right, and a drop has nobody to tell.
        let _ = self.give_up();
    }
}

impl fmt::Debug for RawGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawGuard").field("id", &self.id).field("slot", &self.slot).finish_non_exhaustive()
    }
}
