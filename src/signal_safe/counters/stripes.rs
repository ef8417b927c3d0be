//! All counters of a table: adding, summing, the heavy fence.
//!
//! # Argument
//!
//! `out(slot) = sum of acquired - sum of released`, over all stripes, wrapping. Both only ever count up, so no update
//! needs to read another's, and a guard may be counted in on one stripe and out on another.
//!
//! - **N1** A guard's `acquired` increment precedes its `released` increment, also when another thread drops it on
//!   another CPU (it was handed over).
//! - **N2** [`Stripes::out`] reads all of `released` (D1) before any of `acquired` (D2). By N1 it may therefore count
//!   too many, for guards that came and went in between, and never too few. So zero is really zero, and less than
//!   zero means that something was released twice.
//! - **N3** After a heavy fence that follows a store to the slot's word, every increment whose later load of the word
//!   did not see that store is visible to `out`. The light and the heavy fence of a [`Counters`] mode make this true together.
//!
//! Each add is a bounded number of instructions: wait-free.
//!
//! # Layout
//!
//! Stripe-major: all cells of CPU 0, then all of CPU 1, and so on, each stripe on pages of its own, so no two CPUs share
//! a line. Within a stripe a slot's two counters are neighbours: one line serves a lookup and its drop. The last stripe
//! is the spare one, for increments that belong to no CPU.

use super::super::state::State;
use super::super::sync::{Atomic, Ordering, fence};
use super::super::sys::{self, Errno};
use super::cell::{Cell, Side};
use super::per_cpu;
use super::shared;
use core::ptr::NonNull;

/// Where a table's counters lie. Written before the table is published, never changed after. How many stripes there are, how far
/// apart, and how they are counted on, the table's [`State`] says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stripes {
    /// The cell of slot 0 on stripe 0.
    pub cells: NonNull<Cell>,
    /// Bytes from the thread pointer to the thread's `struct rseq`, or [`NO_RSEQ`].
    pub rseq: isize,
}

/// The C library registered no restartable sequences: stripes are chosen by a hash of the thread pointer.
pub const NO_RSEQ: isize = 0;

impl Stripes {
    /// Counts one guard of `slot` in or out (A2, X1), followed by the light fence (A3, X2).
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Safety
    /// 1. `self` and `state` describe live counters, and `slot` is one of theirs.
    /// 2. In per-CPU mode `rseq` is where the C library registered this process's threads.
    #[inline(always)]
    pub unsafe fn add(&self, state: State, slot: u32, side: Side) {
        // SAFETY: by (1) the cell of `slot` on stripe 0 is inside the counters.
        let cell = unsafe { self.cells.add(slot as usize) };
        if !state.is_shared() {
            // SAFETY: (1) has the callee's first two requirements, (2) is the third.
            return unsafe { per_cpu::add(state, self.rseq, cell, side) };
        }
        cold_path();
        // SAFETY: as above; the C library's registration, or none.
        unsafe { shared::add(state, self.rseq, cell, side) }
    }

    /// The heavy fence (C2): see N3.
    ///
    /// Context: any; used in normal context.
    ///
    /// # Errors
    /// What the kernel said to `membarrier`. `ENOMEM` may pass, and was tried again a few times: who has time waits and calls again.
    pub fn heavy_fence(state: State) -> Result<(), Errno> {
        if !state.is_shared() {
            const TRIES: usize = 8;
            let mut last = sys::membarrier_private_expedited();
            for _ in 1..TRIES {
                let Err(Errno(libc::ENOMEM)) = last else { break };
                core::hint::spin_loop();
                last = sys::membarrier_private_expedited();
            }
            return last;
        }
        // SeqCst: pairs with the SeqCst read-modify-writes and loads of shared mode (A2/A4, X1/X3; edges E3, E4).
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// How many guards of `slot` are out, by N2 never fewer than there are; less than zero after an over-release.
    ///
    /// # Safety
    /// `self` and `state` describe live counters, and `slot` is one of theirs.
    pub unsafe fn out(&self, state: State, slot: u32) -> i64 {
        let sum = |side: Side| {
            let mut sum = 0_u64;
            for stripe in 0..=state.cpus() {
                // SAFETY: the caller's promise; the spare stripe follows the last one.
                let cell = unsafe { self.counter(state, stripe, slot, side).as_ref() };
                // D1. Acquire: pairs with the Release of X1 (edge E5), so that the acquired increments of the guards whose
                // release is counted here are visible to the sum that follows (N1, N2).
                sum = sum.wrapping_add(cell.load(Ordering::Acquire));
            }
            sum
        };
        let released = sum(Side::Released);
        sum(Side::Acquired).wrapping_sub(released) as i64
    }

    /// Sets every counter to zero.
    ///
    /// # Safety
    /// `self` and `state` describe live counters of `slots` slots, and no other thread exists that could count: a forked child.
    pub unsafe fn reset(&self, state: State, slots: u32) {
        for stripe in 0..=state.cpus() {
            for slot in 0..slots {
                for side in [Side::Acquired, Side::Released] {
                    // SAFETY: the caller's promise.
                    let counter = unsafe { self.counter(state, stripe, slot, side).as_ref() };
                    // Relaxed load: a page nobody ever wrote is not written (and so not made real) here either.
                    if counter.load(Ordering::Relaxed) != 0 {
                        // Relaxed: the only thread of a forked child; whatever it starts later happens after.
                        counter.store(0, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// # Safety
    /// `self` and `state` describe live counters, `slot` is one of theirs, `stripe` at most `state.cpus()`.
    #[inline(always)]
    unsafe fn counter(&self, state: State, stripe: u32, slot: u32, side: Side) -> NonNull<Atomic<u64>> {
        let offset = ((stripe as usize) << (state.stripe_shift_count() & 63))
            + slot as usize * size_of::<Cell>()
            + side as usize;
        // SAFETY: the caller's promise puts the offset inside the counters.
        unsafe { self.cells.cast::<u8>().add(offset) }.cast()
    }
}

/// Tells the compiler that whoever gets here is rarely here, or in no hurry: code for the others goes straight on.
#[cold]
fn cold_path() {}
