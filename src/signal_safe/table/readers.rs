//! Readers: a guard counted in and out, and what else any context may ask. Async-signal-safe, all of it.

use super::super::counters::Side;
use super::super::lookup_error::LookupError;
use super::super::state::State;
use super::super::sync::Ordering;
use super::super::word::{InterpreterId, Word};
use super::head::{Mapped, Table};

/// A guard that was counted in: of the interpreter in this slot, under this state of the table.
#[derive(Clone, Copy)]
pub struct Acquired {
    /// The table's state.
    pub state: State,
    /// The interpreter's place.
    pub slot: u32,
}

impl Table {
    /// Counts a guard on `id` in, if it is live (A1 to A4).
    ///
    /// Context: any, async-signal-safe, wait-free.
    #[inline(always)]
    pub(in super::super) fn acquire(&self, id: InterpreterId) -> Result<Acquired, LookupError> {
        let mapped = self.mapped().ok_or(LookupError::NotFound)?;
        let home = mapped.home(id);
        let first = mapped.slot(home);
        // A1, at home. Acquire: pairs with the Release in `insert` (edge E2).
        let (mut at, mut word) = (home, first.word.load(Ordering::Acquire));
        if word != Word::live(id) {
            // Relaxed: whatever made the caller know a live `id` made the displacement that covers it visible too (T2).
            let reach = first.displacement.load(Ordering::Relaxed);
            if word != Word::closing(id) && reach != 0 {
                (at, word) = self.find_displaced(home, reach, id);
            }
            if word != Word::live(id) {
                return Err(LookupError::because_of(word, id));
            }
        }
        self.count_in(mapped, at, id)
    }

    /// [`acquire`](Self::acquire) where it is nearly always over: at home, with no ledger. Calls nothing.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Errors
    /// [`NotAtHome`]: no guard, or not yet.
    #[inline(always)]
    pub(in super::super) fn acquire_at_home(&self, id: InterpreterId) -> Result<Acquired, NotAtHome> {
        let mapped = self.mapped().ok_or(NotAtHome::Refused(LookupError::NotFound))?;
        let home = mapped.home(id);
        let slot = mapped.slot(home);
        // A1. Acquire: pairs with the Release in `insert` (edge E2).
        let word = slot.word.load(Ordering::Acquire);
        if word != Word::live(id) {
            // Relaxed: as in `acquire`.
            let reach = slot.displacement.load(Ordering::Relaxed);
            return Err(match word == Word::closing(id) || reach == 0 {
                true => NotAtHome::Refused(LookupError::because_of(word, id)),
                false => NotAtHome::Elsewhere,
            });
        }
        if mapped.state.records() {
            return Err(NotAtHome::Elsewhere);
        }
        mapped.add(home, Side::Acquired); // A2, A3
        // Both asked for again, rather than kept over A2: registers are what is scarce here.
        let state = self.state();
        // SAFETY: published, or there would have been no word.
        let slot = unsafe { self.mapped_for_guard(state) }.slot(home);
        // A4. SeqCst: as in `count_in`.
        if slot.word.load(Ordering::SeqCst) != Word::live(id) {
            return Err(NotAtHome::Counted(home));
        }
        Ok(Acquired { state, slot: home })
    }

    /// Gives back what [`acquire_at_home`](Self::acquire_at_home) has counted in vain, and says why it was in vain.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Safety
    /// It answered `Counted(at)` for `id`, and this is done once.
    pub unsafe fn back_out_at_home(&self, at: u32, id: InterpreterId) -> LookupError {
        // Acquire: what A4 saw, or later. (Published, or nothing would have been counted.)
        let word = self.mapped().map_or(Word::VACANT, |mapped| mapped.slot(at).word.load(Ordering::Acquire));
        self.back_out(at, word, id)
    }

    /// The rest of the probe (A1), at most `reach` slots: where `id` is, live or closing, and the word there; Vacant if it
    /// is nowhere. Takes and returns nothing that would have to go through memory, so that the caller keeps what it has
    /// in registers.
    #[inline(never)]
    fn find_displaced(&self, home: u32, reach: u32, id: InterpreterId) -> (u32, Word) {
        let Some(mapped) = self.mapped() else { return (home, Word::VACANT) };
        for distance in 1..=reach {
            let at = mapped.at(home, distance);
            // A1. Acquire: pairs with the Release in `insert` (edge E2).
            let word = mapped.slot(at).word.load(Ordering::Acquire);
            if word == Word::live(id) || word == Word::closing(id) {
                return (at, word);
            }
        }
        (home, Word::VACANT)
    }

    /// Counts a guard in, and looks whether that came in time (A2 to A4).
    #[inline(always)]
    fn count_in(&self, mapped: Mapped<'_>, at: u32, id: InterpreterId) -> Result<Acquired, LookupError> {
        mapped.add(at, Side::Acquired); // A2, A3
        // A4. SeqCst: in shared mode, with A2, pairs with C1 and C2 (edge E3; see counters/shared.rs). It is an Acquire
        // too (edge E2): the payload, stored before the word became Live, may be read from here on (T3).
        let word = mapped.slot(at).word.load(Ordering::SeqCst);
        if word == Word::live(id) {
            return Ok(Acquired { state: mapped.state, slot: at });
        }
        Err(self.back_out(at, word, id))
    }

    /// The interpreter was closed, or closed and drained, between A1 and A4.
    #[cold]
    #[inline(never)]
    fn back_out(&self, at: u32, word: Word, id: InterpreterId) -> LookupError {
        if let Some(mapped) = self.mapped() {
            mapped.exit(at);
        }
        LookupError::because_of(word, id)
    }

    /// Calls `f` with every ID that is live when its slot is looked at. Slots are looked at in table order.
    ///
    /// Context: any, async-signal-safe if `f` is; O(slots).
    pub fn for_each_live(&self, mut f: impl FnMut(InterpreterId)) {
        let Some(mapped) = self.mapped() else { return };
        for at in 0..=mapped.state.mask() {
            // Acquire: pairs with the Release in `insert` (edge E2), so that a lookup of what is reported here finds it
            // (T2).
            let word = mapped.slot(at).word.load(Ordering::Acquire);
            if let (true, Some(id)) = (word.is_live(), word.id()) {
                f(id);
            }
        }
    }

    /// The main interpreter.
    ///
    /// Context: any, async-signal-safe.
    #[inline]
    pub fn main(&self) -> Option<InterpreterId> {
        // Acquire: pairs with the Release in `set_main` (edge E8): what was registered before can be looked up.
        self.main.load(Ordering::Acquire).id()
    }

    /// The slot in which `id` is, live or closing.
    ///
    /// Context: any, async-signal-safe, wait-free.
    pub fn find(&self, id: InterpreterId) -> Option<u32> {
        let mapped = self.mapped()?;
        let home = mapped.home(id);
        // Relaxed: as in `acquire`.
        let reach = mapped.slot(home).displacement.load(Ordering::Relaxed);
        (0..=reach).map(|distance| mapped.at(home, distance)).find(|&at| {
            // Acquire: as in `acquire`.
            mapped.slot(at).word.load(Ordering::Acquire).id() == Some(id)
        })
    }

    /// The fork generation; a guard counts only in the one in which it was taken.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.state().generation()
    }

    /// Counts one more guard of a slot that the caller already guards.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Safety
    /// The caller has a guard of slot `at` that counts, and `state` is this table's.
    #[inline(always)]
    pub(in super::super) unsafe fn count_clone(&self, state: State, at: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.mapped_for_guard(state) }.add(at, Side::Acquired);
    }

    /// Gives up one counted guard of the slot (X1 to X3).
    ///
    /// Context: any, async-signal-safe, wait-free. The interpreter is not touched from X1 on.
    ///
    /// # Safety
    /// The caller has a guard of slot `at` that counts, and `state` is this table's.
    #[inline(always)]
    pub(in super::super) unsafe fn exit(&self, state: State, at: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.mapped_for_guard(state) }.exit(at);
    }

    /// What was put into slot `at`: for who has a guard of it, or keeps it from being vacated by other means.
    #[inline(always)]
    pub fn payload(&self, at: u32) -> *mut () {
        match self.mapped() {
            // Relaxed: the guard's A4 or GE3 was the Acquire (T3), and whoever handed it over synchronised. Writers put it there.
            Some(mapped) => mapped.slot(at).payload.load(Ordering::Relaxed),
            None => core::ptr::null_mut(),
        }
    }

    /// [`payload`](Self::payload), for whoever has a guard.
    ///
    /// # Safety
    /// A guard of this table exists.
    #[inline(always)]
    pub(in super::super) unsafe fn payload_for_guard(&self, at: u32) -> *mut () {
        // Relaxed: as in `payload`.
        // SAFETY: the caller's promise.
        unsafe { self.mapped_for_guard(self.state()) }.slot(at).payload.load(Ordering::Relaxed)
    }

    /// Is an interpreter closing in this slot?
    #[inline(always)]
    pub fn is_closing(&self, at: u32) -> bool {
        // Relaxed: advice; nothing is read on the strength of it.
        self.mapped().is_some_and(|mapped| mapped.slot(at).word.load(Ordering::Relaxed).is_closing())
    }

    /// How far a reader that looks for `id` may have to probe, in slots beyond the first.
    pub fn reach(&self, id: InterpreterId) -> u32 {
        // Relaxed: a diagnostic.
        self.mapped().map_or(0, |mapped| mapped.slot(mapped.home(id)).displacement.load(Ordering::Relaxed))
    }
}

impl Mapped<'_> {
    /// Counts a guard out, and wakes the finalizer of what is closing in the slot (X1 to X3).
    #[inline(always)]
    fn exit(self, at: u32) {
        self.add(at, Side::Released); // X1, X2
        let slot = self.slot(at);
        // X3. SeqCst: in shared mode, with X1, pairs with C1 and C2 (edge E4; see counters/shared.rs).
        if slot.word.load(Ordering::SeqCst).is_closing() {
            slot.wake.notify();
        }
    }
}

/// Why [`lookup_at_home`](crate::bindings::RegistryExt::lookup_at_home) has no guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAtHome {
    /// There is none to be had.
    Refused(LookupError),
    /// It is not for this function to say: a whole lookup does.
    Elsewhere,
    /// Closed meanwhile, with a guard counted in this slot: to be backed out of.
    Counted(u32),
}
