//! AArch64, in little-endian order. Stores pass each other, and loads come early, where nothing says otherwise.
//!
//! Atomic operations are calls of what the compiler comes with (`__aarch64_ldadd8_rel` and the like): one instruction where the
//! processor has LSE (Armv8.1), and else a loop of a load and a store that another CPU's can make to fail. So they are
//! wait-free with LSE, and lock-free without.

use super::super::sync::{Atomic, Ordering};
use core::arch::asm;
use core::ptr::NonNull;
use libc::c_long;

/// Performs a system call; answers what the kernel does, a negative error number included.
///
/// # Safety
/// 1. The arguments are valid for the call `number`, pointers included.
/// 2. The call does not end or replace this thread's stack or address space.
#[inline(always)]
pub unsafe fn system_call(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the AArch64 Linux system-call convention: number in x8, arguments in x0 to x5, the answer in x0; no other
    // register is overwritten; the stack is not touched. What the call itself does is the caller's promise (1, 2).
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result,
             in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    result
}

/// The thread pointer: distinct among living threads, and the same for as long as a thread lives.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: a register that every thread may read. It never changes in one.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) pointer, options(pure, nomem, nostack, preserves_flags)) };
    pointer
}

/// How far from the thread pointer the thread-local `name.tls` lies: what the loader put into the global offset table; or, in an
/// executable, a constant. Never 0: two words of the C library's are at the thread pointer.
macro_rules! offset_in_thread {
    ($name:path) => {{
        let offset: usize;
        // SAFETY: one load.
        unsafe {
            ::core::arch::asm!(
                "adrp {offset}, :gottprel:{name}.tls",
                "ldr {offset}, [{offset}, :gottprel_lo12:{name}.tls]",
                offset = out(reg) offset,
                name = sym $name,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        offset
    }};
}
pub(in super::super) use offset_in_thread;

/// The four bytes before an abort address, which glibc registers on AArch64: `brk #0x45e0`.
pub const SIGNATURE: u32 = 0xd428_bc00;

/// A restartable sequence: the section, and where to go if it is aborted, or leaves by itself for label 5. `t`, `area` and `instead`
/// are among the operands.
macro_rules! restartable {
    ([$($section:literal),*], $($operands:tt)*) => {
        asm!(
            ".pushsection __rseq_cs, \"aw\"",
            ".balign 32",
            "9:",
            ".long 0, 0", // version, flags
            ".quad 2f, 3f - 2f, 4f",
            ".popsection",
            "adrp {t}, 9b",
            "add {t}, {t}, :lo12:9b",
            "str {t}, [{area}, #8]",
            "2:",
            $($section,)*
            "3:",
            "str xzr, [{area}, #8]",
            ".subsection 1",
            ".inst {signature}",
            "4:",
            "5:",
            "str xzr, [{area}, #8]",
            "b {instead}",
            ".subsection 0",
            signature = const SIGNATURE,
            $($operands)*
        )
    };
}

/// Adds one to the counter on this CPU's stripe, in a restartable sequence; or, if that is aborted or the CPU has none of the
/// `cpus` stripes, atomically to the spare one behind them. The store commits, with `order`: Release or Relaxed.
///
/// # Safety
/// 1. `counter` is one of the live counters on stripe 0, and `1 << shift` bytes (modulo 64) lie between one stripe and the next.
/// 2. `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer.
#[inline(always)]
pub unsafe fn count_here(counter: NonNull<u8>, order: Ordering, rseq: isize, cpus: u32, shift: u64) {
    let spare = || {
        // SAFETY: by (1) the spare stripe's counter.
        let counter = unsafe { counter.add((cpus as usize) << (shift & 63)).cast::<Atomic<u64>>().as_ref() };
        // As the other stripes: the caller's order, whose partners it names.
        counter.fetch_add(1, order);
    };
    macro_rules! count {
        ($commit:literal) => {
            restartable!(
                [
                    "ldr {t:w}, [{area}, #4]",
                    "cmp {t:w}, {cpus:w}",
                    "b.hs 5f",
                    "lsl {t}, {t}, {shift}",
                    "add {t}, {t}, {counter}",
                    "ldr {value}, [{t}]",
                    "add {value}, {value}, #1",
                    $commit
                ],
                t = out(reg) _,
                value = out(reg) _,
                area = in(reg) thread_pointer().wrapping_add_signed(rseq),
                counter = in(reg) counter.as_ptr(),
                cpus = in(reg) cpus,
                shift = in(reg) shift,
                instead = label { spare() },
                options(nostack),
            )
        };
    }
    // SAFETY: by (2) `area` is this thread's `struct rseq`: cpu_id at 4, rseq_cs at 8. By (1) `counter + (stripe << shift)` is a
    // counter for every stripe: cpu_id is compared with `cpus` as unsigned. The module's rules are met line by line. The
    // stack is not touched.
    unsafe {
        match order {
            Ordering::Relaxed => count!("str {value}, [{t}]"),
            _ => count!("stlr {value}, [{t}]"),
        }
    }
}

/// In a restartable sequence, looks at `word` until it has changed, at most `turns` times. Had it? `None`: aborted.
///
/// # Safety
/// `rseq` is where this thread's `struct rseq` is, relative to the thread pointer.
pub unsafe fn watch(word: &Atomic<u32>, rseq: isize, turns: u32) -> Option<bool> {
    let mut changed = u32::MAX;
    // SAFETY: the promise; the section loads `word`, and stores to `changed` last. The module's rules are met line by line. The
    // stack is not touched.
    unsafe {
        restartable!(
            [
                "ldr {before:w}, [{word}]",
                "7:",
                "ldr {t:w}, [{word}]",
                "subs {t:w}, {t:w}, {before:w}",
                "b.ne 8f",
                "subs {turns:w}, {turns:w}, #1",
                "b.ne 7b",
                "8:",
                "str {t:w}, [{changed}]"
            ],
            t = out(reg) _,
            before = out(reg) _,
            turns = inout(reg) turns => _,
            area = in(reg) thread_pointer().wrapping_add_signed(rseq),
            word = in(reg) core::ptr::from_ref(word),
            changed = in(reg) core::ptr::from_mut(&mut changed),
            instead = label {},
            options(nostack),
        );
    }
    (changed != u32::MAX).then_some(changed != 0)
}

/// How many bytes behind stripe 0 the stripe of the current CPU lies, `1 << shift` for each. Where the CPU is not known, or has
/// none of the `cpus` stripes, a hash of the thread pointer picks one: thread pointers are aligned and far apart, and a
/// multiplication spreads them.
///
/// Context: any, async-signal-safe.
///
/// # Safety
/// `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer, or `NO_RSEQ`, which is 0.
#[inline(always)]
pub unsafe fn stripe_offset(rseq: isize, cpus: u32, shift: u64) -> usize {
    let pointer = thread_pointer();
    let mut cpu = u32::MAX;
    if rseq != 0 {
        // SAFETY: only a load, of the second u32 of the thread's `struct rseq`. A thread without registration has u32::MAX or the
        // like there; any number below `cpus` is a stripe, and any stripe will do.
        unsafe {
            asm!(
                "ldr {cpu:w}, [{area}, #4]",
                cpu = lateout(reg) cpu,
                area = in(reg) pointer.wrapping_add_signed(rseq),
                options(nostack, readonly, preserves_flags),
            );
        }
    }
    let stripe = match cpu < cpus {
        true => cpu as usize,
        // 2^32 divided by the golden ratio.
        false => ((u64::from((pointer as u32).wrapping_mul(0x9E37_79B1)) * u64::from(cpus)) >> 32) as usize,
    };
    stripe << (shift & 63)
}

/// A naked function's body; see `foreign`. The caller's address is in x30, arguments are in x0 to x7.
#[doc(hidden)]
#[macro_export]
macro_rules! jump_with_caller {
    ($number:literal, $body:path) => {
        ::core::arch::naked_asm!(concat!("mov x", $number, ", x30"), "b {body}", body = sym $body)
    };
}
