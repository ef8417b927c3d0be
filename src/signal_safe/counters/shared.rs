//! Shared mode: a locked add on the stripe of the current CPU, or on a hashed one where the CPU is not known cheaply.
//!
//! Any stripe is right, whoever else adds to it: the stripe only keeps CPUs off each other's lines.

use super::super::state::State;
use super::super::sync::{Atomic, Ordering, light_fence};
use super::super::sys;
use super::cell::{Cell, Side};
use core::ptr::NonNull;

/// Adds one to a counter, then the light fence.
///
/// # Safety
/// 1. `cell` is one of the live counters on stripe 0.
/// 2. `state` says how many stripes there are, and how far apart.
/// 3. `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer, or `NO_RSEQ`.
#[inline(always)]
pub unsafe fn add(state: State, rseq: isize, cell: NonNull<Cell>, side: Side) {
    // SAFETY: (3).
    let stripe = unsafe { sys::stripe_offset(rseq, state.cpus(), state.stripe_shift_count()) };
    // SAFETY: by (1) and (2) this is a counter of that stripe.
    let counter = unsafe { cell.cast::<u8>().add(stripe + side as usize).cast::<Atomic<u64>>().as_ref() };
    // SeqCst: with the SeqCst load of the word that follows (A4, X3), pairs with the store and the SeqCst fence of
    // close (C1, C2; edges E3, E4): either the load sees Closing, or the sums after the fence see this add.
    counter.fetch_add(1, Ordering::SeqCst);
    light_fence();
}
