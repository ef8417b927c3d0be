//! Shared mode: a locked add on the stripe of the current CPU, or on a hashed one where the CPU is not known cheaply.
//!
//! Any stripe is right, whoever else adds to it: the stripe only keeps CPUs off each other's lines.

use super::super::state::State;
use super::super::sync::{Atomic, Ordering, light_fence};
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
    let stripe = unsafe { stripe_offset(state, rseq) };
    // SAFETY: by (1) and (2) this is a counter of that stripe.
    let counter = unsafe { cell.cast::<u8>().add(stripe + side as usize).cast::<Atomic<u64>>().as_ref() };
    // SeqCst: with the SeqCst load of the word that follows (A4, X3), pairs with the store and the SeqCst fence of
    // close (C1, C2; edges E3, E4): either the load sees Closing, or the sums after the fence see this add.
    counter.fetch_add(1, Ordering::SeqCst);
    light_fence();
}

#[cfg(loom)]
unsafe fn stripe_offset(state: State, _rseq: isize) -> usize {
    (super::super::sync::stripe().min(state.cpus()) as usize) << (state.stripe_shift_count() & 63)
}

/// How many bytes behind stripe 0 the stripe of the current CPU lies, or, where its number is not known, one that a hash of the thread pointer picks: thread
/// pointers are aligned and far apart, and a multiplication spreads them.
///
/// # Safety
/// `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer, or `NO_RSEQ`.
#[cfg(not(loom))]
#[inline(always)]
unsafe fn stripe_offset(state: State, rseq: isize) -> usize {
    let offset: usize;
    // SAFETY: only loads. `cpu_id` is the second u32 of the thread's `struct rseq`; a thread without registration has
    // u32::MAX or the like there. With `NO_RSEQ` it is the upper half of the thread pointer, which the ABI keeps where it
    // points to. Either way a number below `cpus` is a stripe, and any stripe will do.
    unsafe {
        core::arch::asm!(
            "mov {t:e}, dword ptr fs:[{rseq} + 4]",
            "cmp {t:e}, {cpus:e}",
            "jae 3f",
            "2:",
            "shl {t}, cl",
            ".subsection 1",
            "3:",
            "mov {t:e}, dword ptr fs:[0]",
            "imul {t:e}, {t:e}, -1640531535", // 2^32 divided by the golden ratio
            "imul {t}, {cpus}",
            "shr {t}, 32",
            "jmp 2b",
            ".subsection 0",
            t = out(reg) offset,
            rseq = in(reg) rseq,
            cpus = in(reg) u64::from(state.cpus()),
            in("rcx") state.stripe_shift_count(),
            options(nostack, readonly),
        );
    }
    offset
}
