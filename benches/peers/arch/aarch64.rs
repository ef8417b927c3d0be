//! AArch64. Built, and not yet run: no figure of it is in `docs/benchmarks.md`.

use crate::floors::{Line, Sequences};
use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

/// The generic timer, after everything before it is done. A tick may be as long as a lookup or longer.
pub fn ticks() -> u64 {
    let now: u64;
    // SAFETY: Linux lets every program read it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) now, options(nostack, preserves_flags)) };
    now
}

/// The same, in no order.
pub fn raw_ticks() -> u64 {
    let now: u64;
    // SAFETY: as above.
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) now, options(nomem, nostack, preserves_flags)) };
    now
}

/// Has the compiler produce the answer, without a detour through memory.
#[inline(always)]
pub fn answered(answer: bool) {
    // SAFETY: an empty instruction sequence.
    unsafe { asm!("/* {0:w} */", in(reg) u32::from(answer), options(nostack, preserves_flags)) };
}

/// A fixed amount of work that fills every execution unit and touches no memory: how much of a core is ours right now.
#[inline(never)]
pub fn yardstick() {
    for _ in 0..1500 {
        // SAFETY: registers only.
        unsafe {
            asm!("add {a}, {a}, #1", "add {b}, {b}, #1", "add {c}, {c}, #1", "add {d}, {d}, #1",
                "add {a}, {a}, #1", "add {b}, {b}, #1", "add {c}, {c}, #1", "add {d}, {d}, #1",
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _, options(nostack, nomem));
        }
    }
}

/// Takes a line out of every cache.
///
/// # Safety
/// It is mapped.
#[inline(always)]
pub unsafe fn flush(line: *const u8) {
    // SAFETY: the promise; Linux lets every program do it, and it changes nothing that a program can see but time.
    unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
}

/// Waits until that is done.
pub fn flushed() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Two atomic adds, as the compiler makes them: calls, unless it was told that the processor has LSE.
#[inline(always)]
pub fn two_adds(line: &mut Line) {
    for word in &mut line.0 {
        // SAFETY: a word of the line, which is borrowed for as long.
        unsafe { AtomicU64::from_ptr(word) }.fetch_add(1, Ordering::SeqCst);
    }
}

/// One sequence: how it is made is explained in `src/signal_safe/arch/mod.rs`. One that is aborted counts nothing.
///
/// # Safety
/// There are as many lines as CPUs; `SIDE` is a word of a line.
#[inline(always)]
pub unsafe fn add_here<const SIDE: usize>(of: &Sequences) {
    // SAFETY: the caller's promise; `area` is this thread's `struct rseq`, with cpu_id at 4 and rseq_cs at 8.
    unsafe {
        asm!(
            ".pushsection __rseq_cs, \"aw\"",
            ".balign 32",
            "9:",
            ".long 0, 0",
            ".quad 2f, 3f - 2f, 4f",
            ".popsection",
            "mrs {area}, tpidr_el0",
            "ldp {t}, {cpus}, [{of}]",
            "ldp {shift}, {counters}, [{of}, #16]",
            "add {area}, {area}, {t}",
            "adrp {t}, 9b",
            "add {t}, {t}, :lo12:9b",
            "str {t}, [{area}, #8]",
            "2:",
            "ldr {t:w}, [{area}, #4]",
            "cmp {t}, {cpus}",
            "b.hs 5f",
            "lsl {t}, {t}, {shift}",
            "add {t}, {t}, {counters}",
            "ldr {value}, [{t}, #{side}]",
            "add {value}, {value}, #1",
            "str {value}, [{t}, #{side}]",
            "3:",
            "5:",
            "str xzr, [{area}, #8]",
            "6:",
            ".subsection 1",
            ".inst 0xd428bc00",
            "4:",
            "b 6b",
            ".subsection 0",
            of = in(reg) &raw const *of,
            area = out(reg) _,
            cpus = out(reg) _,
            shift = out(reg) _,
            counters = out(reg) _,
            value = out(reg) _,
            t = out(reg) _,
            side = const SIDE,
            options(nostack),
        );
    }
}
