//! Time and opaqueness, as cheap and exact as the machine gives them.

use super::arch::raw_ticks;
pub use super::arch::{answered, ticks, yardstick};
use std::arch::asm;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// CPU time of the calling thread in nanoseconds: preemption by others costs nothing in it.
pub fn thread_cpu_ns() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Nanoseconds per tick.
pub fn tick_ns() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, from) = (Instant::now(), raw_ticks());
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let ticks = raw_ticks() - from;
        start.elapsed().as_nanos() as f64 / ticks as f64
    })
}

/// A key of which the compiler knows nothing, without a detour through memory.
#[inline(always)]
pub fn opaque<K: Copy>(key: K) -> K {
    const { assert!(size_of::<K>() == 8) };
    // SAFETY: of the same size, and read back as what it was.
    let mut word: u64 = unsafe { std::mem::transmute_copy(&key) };
    // SAFETY: an empty instruction sequence.
    unsafe { asm!("/* {0} */", inout(reg) word, options(nostack, preserves_flags)) };
    // SAFETY: as above.
    unsafe { std::mem::transmute_copy(&word) }
}

/// Has the compiler produce the pointer, without a detour through memory.
#[inline(always)]
pub fn used<T>(pointer: *const T) {
    // SAFETY: an empty instruction sequence.
    unsafe { asm!("/* {0} */", in(reg) pointer, options(nostack, preserves_flags)) };
}
