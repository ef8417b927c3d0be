//! Writers: the transitions of a slot, and what a finalizer sees of it. Normal context, one at a time.

use super::super::counters::Stripes;
use super::super::sync::Ordering;
use super::super::sys::Errno;
use super::super::wake::Wake;
use super::super::word::{InterpreterId, Word};
use super::head::{Mapped, Table};

impl Table {
    /// Vacant to Live. `None`, and nothing changed, if no slot is vacant or the table is not published.
    ///
    /// # Safety
    /// 1. No other writer runs.
    /// 2. `id` was never in this table.
    pub unsafe fn insert(&self, id: InterpreterId, payload: *mut ()) -> Option<u32> {
        let mapped = self.mapped()?;
        let home = mapped.home(id);
        let (distance, at) = (0..=mapped.state.mask())
            .map(|distance| (distance, mapped.at(home, distance)))
            // Relaxed: only writers change words, and there is no other (1).
            .find(|&(_, at)| mapped.slot(at).word.load(Ordering::Relaxed) == Word::VACANT)?;
        let slot = mapped.slot(at);
        // Relaxed: published by the Release below (T3).
        slot.payload.store(payload, Ordering::Relaxed);
        let reach = &mapped.slot(home).displacement;
        // Relaxed load: only writers change it. Relaxed store: published by the Release below (T2).
        if reach.load(Ordering::Relaxed) < distance {
            reach.store(distance, Ordering::Relaxed);
        }
        // R2. Release: pairs with the Acquire loads of A1 and A4 and in `for_each_live` (edge E2).
        slot.word.store(Word::live(id), Ordering::Release);
        Some(at)
    }

    /// Live to Closing (C1). [`heavy_fence`](Self::heavy_fence) must follow before the sums mean anything.
    ///
    /// # Safety
    /// 1. No other writer runs.
    /// 2. `id` is live in slot `at`.
    pub unsafe fn begin_close(&self, at: u32, id: InterpreterId) {
        let Some(mapped) = self.mapped() else { return };
        // SeqCst: with the heavy fence, pairs with A2/A4 and X1/X3 in shared mode (edges E3, E4; see counters/shared.rs).
        mapped.slot(at).word.store(Word::closing(id), Ordering::SeqCst);
    }

    /// Makes what was counted before the word changed visible to the sums (C2): see [`Stripes::heavy_fence`].
    pub fn heavy_fence(&self) -> Result<(), Errno> {
        self.mapped().map_or(Ok(()), |mapped| Stripes::heavy_fence(mapped.state))
    }

    /// The guards of slot `at` that are out, never too few; negative after an over-release (D1, D2).
    pub fn out(&self, at: u32) -> i64 {
        match self.mapped() {
            // SAFETY: the counters live with the table (T5), and `slot()` reduces `at` to one of its slots.
            Some(mapped) => unsafe { mapped.stripes.out(mapped.state, at & mapped.state.mask()) },
            None => 0,
        }
    }

    /// After `out` said zero: may slot `at` be vacated? (G1, G2.) From the first call on nobody enters. Finalizers only.
    pub fn seal(&self, at: u32) -> bool {
        self.mapped().is_none_or(|mapped| mapped.slot(at).gate.seal())
    }

    /// The wake word of slot `at`.
    pub fn wake(&self, at: u32) -> Option<&Wake> {
        self.mapped().map(|mapped| &mapped.slot(at).wake)
    }

    /// Closing to Vacant. Returns the payload, which is the caller's from now on; `None`, and nothing changed, if
    /// `id` is not closing in slot `at`.
    ///
    /// # Safety
    /// 1. No other writer runs.
    /// 2. `out(at)` was zero after a heavy fence that succeeded after `begin_close(at, id)`; then `seal(at)` said yes.
    pub unsafe fn vacate(&self, at: u32, id: InterpreterId) -> Option<*mut ()> {
        let mapped = self.mapped()?;
        let slot = mapped.slot(at);
        // Relaxed: only writers change words.
        if slot.word.load(Ordering::Relaxed) != Word::closing(id) {
            return None;
        }
        // Relaxed: only writers change main.
        if self.main.load(Ordering::Relaxed).id() == Some(id) {
            self.set_main(None);
        }
        // Release: orders the T's use under the guards before whatever happens to the slot next.
        slot.word.store(Word::VACANT, Ordering::Release); // G3
        // Relaxed: by (2) no guard exists or can come to be, and so nobody reads the payload.
        let payload = slot.payload.load(Ordering::Relaxed);
        slot.gate.unseal(); // G4
        mapped.lower_displacement(mapped.home(id), |word| word != Word::VACANT);
        Some(payload)
    }

    /// In a forked child: no guard is counted any more, whoever held it.
    ///
    /// # Safety
    /// No other thread exists, and this one is in no operation of a guard.
    pub unsafe fn begin_generation(&self) {
        // Relaxed, both: the only thread; whatever it starts later happens after.
        let state = self.state.load(Ordering::Relaxed);
        let next = state.generation().wrapping_add(1);
        self.state.store(state.with_generation(next), Ordering::Relaxed);
        if let Some(mapped) = self.mapped() {
            // SAFETY: the counters live with the table (T5) and are as many as its slots; the rest is promised.
            unsafe { mapped.stripes.reset(mapped.state, mapped.state.mask().wrapping_add(1)) };
        }
    }

    /// Names the main interpreter. Writers only.
    pub fn set_main(&self, id: Option<InterpreterId>) {
        // Release: pairs with the Acquire in `main` (edge E8).
        self.main.store(id.map_or(Word::VACANT, Word::live), Ordering::Release);
    }
}

impl Mapped<'_> {
    /// After an entry of `home` has gone (T2): the largest distance among those that `counts` accepts. Writers only.
    fn lower_displacement(self, home: u32, counts: impl Fn(Word) -> bool) {
        let reach = &self.slot(home).displacement;
        // Relaxed, all of them: only writers change words and displacements. A reader may see the old, larger reach and
        // probe a little further, or the new one, which covers every entry that is left.
        let old = reach.load(Ordering::Relaxed);
        let new = (0..=old).rev().find(|&distance| {
            let word = self.slot(self.at(home, distance)).word.load(Ordering::Relaxed);
            counts(word) && word.id().is_some_and(|id| self.home(id) == home)
        });
        reach.store(new.unwrap_or(0), Ordering::Relaxed);
    }
}
