//! Time and opaqueness, as cheap and exact as the machine gives them. Linux on x86-64 only, as per-CPU counting is.

use std::arch::asm;
use std::arch::x86_64::{__rdtscp, _mm_lfence, _rdtsc};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// CPU time of the calling thread in nanoseconds: preemption by others costs nothing in it.
pub fn thread_cpu_ns() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// The time-stamp counter, after everything before it is done.
pub fn ticks() -> u64 {
    // SAFETY: x86-64 has all three instructions; they touch no memory but the local.
    unsafe {
        let mut cpu = 0;
        let now = __rdtscp(&mut cpu);
        _mm_lfence();
        now
    }
}

/// Nanoseconds per tick.
pub fn tick_ns() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        // SAFETY: reads a register.
        let (start, from) = (Instant::now(), unsafe { _rdtsc() });
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        // SAFETY: reads a register.
        let ticks = unsafe { _rdtsc() } - from;
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

/// Has the compiler produce the answer, without a detour through memory.
#[inline(always)]
pub fn answered(answer: bool) {
    // SAFETY: an empty instruction sequence.
    unsafe { asm!("/* {0} */", in(reg_byte) u8::from(answer), options(nostack, preserves_flags)) };
}

/// A fixed amount of work that fills every execution unit and touches no memory: how much of a core is ours right now.
#[inline(never)]
pub fn yardstick() {
    for _ in 0..1500 {
        // SAFETY: registers only.
        unsafe {
            asm!("add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1", "add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1",
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _, options(nostack, nomem));
        }
    }
}
