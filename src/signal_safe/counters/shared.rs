//! Shared mode: a locked add on the stripe of the current CPU, or on a hashed one where the CPU is not known cheaply.
//!
//! Any stripe is right, whoever else adds to it: the stripe only keeps CPUs off each other's lines.

use super::super::sync::{Atomic, Ordering, light_fence};
use super::Stripes;
use core::ptr::NonNull;

/// Adds one to the counter whose stripe-0 place is `first`, then the light fence.
///
/// # Safety
/// `stripes` are live and `first` is one of their counters on stripe 0.
#[inline(always)]
pub unsafe fn add(stripes: &Stripes, first: NonNull<Atomic<u64>>) {
    let offset = stripe(stripes) as usize * stripes.stride;
    // SAFETY: `stripe` is at most `stripes.cpus`, the spare one.
    let counter = unsafe { first.cast::<u8>().add(offset).cast::<Atomic<u64>>().as_ref() };
    // SeqCst: with the SeqCst load of the word that follows (A4, X3), pairs with the store and the SeqCst fence of
    // close (C1, C2): either the load sees Closing, or the sums after the fence see this add.
    counter.fetch_add(1, Ordering::SeqCst);
    light_fence();
}

#[cfg(loom)]
fn stripe(_stripes: &Stripes) -> u32 {
    0
}

#[cfg(not(loom))]
#[inline(always)]
fn stripe(stripes: &Stripes) -> u32 {
    if stripes.rseq == super::NO_RSEQ {
        hashed_stripe(stripes.cpus)
    } else {
        // SAFETY: the C library registered restartable sequences at this offset, and so every thread has the field.
        let cpu = unsafe { current_cpu(stripes.rseq) };
        // A thread without registration says u32::MAX or the like: the spare stripe.
        cpu.min(stripes.cpus)
    }
}

/// # Safety
/// `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer.
#[cfg(not(loom))]
#[inline(always)]
unsafe fn current_cpu(rseq: isize) -> u32 {
    let cpu: u32;
    // SAFETY: `cpu_id` is the second u32 of the thread's `struct rseq`; only this thread's kernel side writes it.
    unsafe {
        core::arch::asm!("mov {cpu:e}, fs:[{rseq} + 4]", cpu = lateout(reg) cpu, rseq = in(reg) rseq,
            options(nostack, preserves_flags, readonly));
    }
    cpu
}

/// Thread pointers are aligned and far apart; a multiplication spreads them over the stripes.
#[cfg(not(loom))]
#[cold]
fn hashed_stripe(cpus: u32) -> u32 {
    let hash = (super::sys::thread_pointer() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    ((hash * u64::from(cpus)) >> 32) as u32
}
