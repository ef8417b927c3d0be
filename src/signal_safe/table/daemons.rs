//! Threads without a guard: how they get in to attach, and who is asked what keeps them from it. The gate itself:
//! [`gate`](super::super::gate).

use super::super::counters::Stripes;
use super::super::lookup_error::LookupError;
use super::super::sync::{Ordering, fence};
use super::super::word::{InterpreterId, Word};
use super::head::Table;

/// Asks the runtime: does the calling thread keep others from attaching to the interpreter in this slot, which has this ID?
/// Normal context.
pub type Blocks = fn(&Table, u32, InterpreterId) -> bool;

impl Table {
    /// Lets a thread without a guard in, so that it can attach to `id`: live, or closing with guards still out.
    ///
    /// Context: normal. O(CPUs) while it is closing.
    ///
    /// # Errors
    /// `Finalizing` when it is closing and no guard is out any more; `NotFound` after that.
    pub fn enter(&self, id: InterpreterId) -> Result<Entry<'_>, LookupError> {
        let mapped = self.mapped().ok_or(LookupError::NotFound)?;
        let at = self.find(id).ok_or(LookupError::NotFound)?;
        let slot = mapped.slot(at);
        if !slot.gate.enter(|| slot.wake.notify()) {
            return Err(LookupError::Finalizing);
        }
        let entry = Entry { table: self, slot: at, attaching: false };
        // GE3. Acquire: pairs with the Release in `insert` (edge E2): the payload may be read from here on (T3).
        let word = slot.word.load(Ordering::Acquire);
        if word == Word::live(id) {
            return Ok(entry);
        }
        if word != Word::closing(id) {
            return Err(LookupError::NotFound);
        }
        // The finalizer has not come to seal the gate yet; but zero after a heavy fence is final.
        let drained = Stripes::heavy_fence(mapped.state).is_ok() && self.out(at) == 0;
        if drained { Err(LookupError::Finalizing) } else { Ok(entry) }
    }

    /// The thread is not inside any more; a finalizer that waits for that is woken (L1).
    fn leave(&self, at: u32) {
        let Some(mapped) = self.mapped() else { return };
        let slot = mapped.slot(at);
        if slot.gate.leave() {
            slot.wake.notify(); // edge Gate-wake
        }
    }

    /// How many threads without a guard are attaching to the interpreter in slot `at` at this moment.
    pub fn attaching(&self, at: u32) -> u32 {
        self.mapped().map_or(0, |mapped| mapped.slot(at).gate.attaching())
    }

    /// Are there such threads, and is it the calling thread that keeps them from attaching? To be asked while slot `at` has the
    /// interpreter `id`.
    ///
    /// Context: normal.
    pub fn is_kept_from_attaching_here(&self, at: u32, id: InterpreterId) -> bool {
        if self.attaching(at) == 0 {
            return false;
        }
        // Relaxed: a function, and functions are always there. Not null: `attaching` saw the count that came after the store.
        let blocks = self.blocks.load(Ordering::Relaxed);
        // SAFETY: `Entry::attaches` stored it, who stores nothing else.
        let blocks = unsafe { core::mem::transmute::<*mut (), Option<Blocks>>(blocks) };
        blocks.is_some_and(|blocks| blocks(self, at, id))
    }

    /// Forgets the threads that were attaching: in a forked child they do not exist.
    ///
    /// # Safety
    /// The caller is the only thread of the process.
    pub unsafe fn forget_entering(&self) {
        let Some(mapped) = self.mapped() else { return };
        for at in 0..=mapped.state.mask() {
            mapped.slot(at).gate.forget_inside();
        }
    }

    /// After that: the calling thread is still attaching to the interpreter in this slot.
    pub fn enter_again(&self, at: u32) {
        if let Some(mapped) = self.mapped() {
            mapped.slot(at).gate.be_inside_again();
        }
    }
}

/// A thread without a guard on its way in: the interpreter stays until this is dropped. Not for keeping.
pub struct Entry<'t> {
    table: &'t Table,
    slot: u32,
    attaching: bool,
}

impl Entry<'_> {
    /// The thread attaches now. `blocks` is for a finalizer that waits for it.
    pub fn attaches(mut self, blocks: Blocks) -> Self {
        if let Some(mapped) = self.table.mapped() {
            let slot = mapped.slot(self.slot);
            // Relaxed: published by the count.
            self.table.blocks.store(blocks as *mut (), Ordering::Relaxed);
            slot.gate.begin_attaching();
            self.attaching = true;
            // SeqCst: pairs with the heavy fence of close (edge Gate-tell): either this sees Closing, or the drain, which looks
            // after that fence, sees the count.
            fence(Ordering::SeqCst);
            if self.table.is_closing(self.slot) {
                slot.wake.notify();
            }
        }
        self
    }

    /// The slot that was entered.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Its payload.
    pub fn payload(&self) -> *mut () {
        self.table.payload(self.slot)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let (true, Some(mapped)) = (self.attaching, self.table.mapped()) {
            mapped.slot(self.slot).gate.end_attaching();
        }
        self.table.leave(self.slot);
    }
}
