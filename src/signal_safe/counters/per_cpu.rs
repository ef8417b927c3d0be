//! Per-CPU mode: a plain increment on the current CPU's stripe, in a restartable sequence.
//!
//! # Theory of operation
//!
//! A restartable sequence (rseq) is a few instructions that the kernel aborts if this thread is preempted, migrated or
//! signalled inside them. Between reading the CPU number and the one instruction that commits, this thread is therefore
//! the only one that runs on that CPU, and an increment that is not atomic loses nothing: no other CPU writes this
//! stripe, and no other thread of this CPU gets in between.
//!
//! The sequence is tried **once**. An abort, or a CPU number that is not one of the stripes (a thread without
//! registration has `-1` or `-2` there, which as unsigned is larger than any), leads to one atomic add on the spare
//! stripe. So an add is wait-free, ends under single-stepping and valgrind, and still counts exactly.
//!
//! The kernel's rules for it, and the code, which each architecture has its own of, are in `arch`.
//!
//! A handler that interrupts the section aborts it, runs its own sections, leaves `rseq_cs` null, and returns to the
//! abort address. A handler that interrupts the store of rule 2 or the code after the commit disturbs nothing.

use super::super::arch;
use super::super::state::State;
use super::super::sync::{Ordering, compiler_fence};
use super::cell::{Cell, Side};
use core::ptr::NonNull;

/// Adds one to a counter, then the light fence of per-CPU mode.
///
/// # Safety
/// 1. `cell` is one of the live counters on stripe 0.
/// 2. `state` says how many stripes there are, and how far apart.
/// 3. `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer.
#[inline(always)]
pub unsafe fn add(state: State, rseq: isize, cell: NonNull<Cell>, side: Side) {
    // SAFETY: `side` is the offset of a counter in the cell, which by (1) is live.
    let counter = unsafe { cell.cast::<u8>().add(side as usize) };
    let order = match side {
        // A2, K1. Relaxed: made visible by the heavy fence (edges E3, E4), or by a later X1 (edge E5).
        Side::Acquired => Ordering::Relaxed,
        // X1. Release: pairs with the Acquire of D1 (edge E5), through later sections of this CPU, too (edge E9).
        Side::Released => Ordering::Release,
    };
    // SAFETY: (1) `counter` is a counter on stripe 0, and by (2) the distance is that of the stripes; (2) is (3).
    unsafe { arch::count_here(counter, order, rseq, state.cpus(), state.stripe_shift_count()) };
    // The light fence: pairs with `membarrier` in `heavy_fence` (edges E3, E4), which is a full barrier on every CPU
    // that runs a thread of this process. The processor may delay the increment past the next load; the compiler may not.
    compiler_fence(Ordering::SeqCst);
}
