//! x86-64.

use crate::floors::{Line, Sequences};
use std::arch::asm;
use std::arch::x86_64::{__rdtscp, _mm_clflush, _mm_lfence, _mm_mfence, _rdtsc};

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

/// The same, in no order.
pub fn raw_ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { _rdtsc() }
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

/// Takes a line out of every cache.
///
/// # Safety
/// It is mapped.
#[inline(always)]
pub unsafe fn flush(line: *const u8) {
    // SAFETY: the promise; a flush changes nothing that a program can see but time.
    unsafe { _mm_clflush(line) };
}

/// Waits until that is done.
pub fn flushed() {
    // SAFETY: always available.
    unsafe { _mm_mfence() };
}

/// Two bare locked adds.
#[inline(always)]
pub fn two_adds(line: &mut Line) {
    // SAFETY: both words are in the line.
    unsafe {
        asm!("lock xadd qword ptr [{line}], {one}", "lock xadd qword ptr [{line} + 8], {one}",
            line = in(reg) line.0.as_mut_ptr(), one = inout(reg) 1_u64 => _, options(nostack));
    }
}

/// One sequence: how it is made is explained in `src/signal_safe/arch/mod.rs`. One that is aborted counts nothing.
///
/// # Safety
/// There are as many lines as CPUs; `SIDE` is a word of a line.
#[inline(always)]
pub unsafe fn add_here<const SIDE: usize>(of: &Sequences) {
    // SAFETY: the caller's promise; fs:[rseq] is this thread's `struct rseq`, with cpu_id at 4 and rseq_cs at 8.
    unsafe {
        asm!(
            ".pushsection __rseq_cs, \"aw\"",
            ".balign 32",
            "9:",
            ".long 0, 0",
            ".quad 2f, 3f - 2f, 4f",
            ".popsection",
            "mov {rseq}, qword ptr [{of}]",
            "mov rcx, qword ptr [{of} + 16]",
            "mov {counters}, qword ptr [{of} + 24]",
            "lea {t}, [rip + 9b]",
            "mov qword ptr fs:[{rseq} + 8], {t}",
            "2:",
            "mov {t:e}, dword ptr fs:[{rseq} + 4]",
            "cmp {t}, qword ptr [{of} + 8]",
            "jae 5f",
            "shl {t}, cl",
            "inc qword ptr [{counters} + {t} + {side}]",
            "3:",
            "5:",
            "mov qword ptr fs:[{rseq} + 8], 0",
            "6:",
            ".subsection 1",
            ".byte 0x0f, 0xb9, 0x3d",
            ".long 0x53053053",
            "4:",
            "jmp 6b",
            ".subsection 0",
            of = in(reg) &raw const *of,
            rseq = out(reg) _,
            counters = out(reg) _,
            t = out(reg) _,
            out("rcx") _,
            side = const SIDE,
            options(nostack),
        );
    }
}
