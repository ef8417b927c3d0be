//! x86-64. Every store is a release, and every load an acquire.

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
    // SAFETY: the x86-64 Linux system-call convention: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9; rcx
    // and r11 are overwritten; the stack is not touched. What the call itself does is the caller's promise (1, 2).
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// The thread pointer: distinct among living threads, and the same for as long as a thread lives.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: on x86-64 Linux the ABI puts the thread pointer itself at fs:0, readable in every thread. It never changes in one.
    unsafe { asm!("mov {}, fs:[0]", out(reg) pointer, options(pure, nomem, nostack, preserves_flags)) };
    pointer
}

/// How far from the thread pointer the thread-local `name.tls` lies: what the loader put at GOTTPOFF; or, in an executable, a
/// constant. Never 0: the static block ends at the thread pointer.
macro_rules! offset_in_thread {
    ($name:path) => {{
        let offset: usize;
        // SAFETY: one load.
        unsafe {
            ::core::arch::asm!(
                "mov {offset}, qword ptr [rip + {name}.tls@GOTTPOFF]",
                offset = out(reg) offset,
                name = sym $name,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        offset
    }};
}
pub(in super::super) use offset_in_thread;

/// The four bytes before an abort address, which glibc registers on x86-64: the displacement of an undefined instruction, so that
/// disassemblers keep their place.
pub const SIGNATURE: u32 = 0x5305_3053;

/// A restartable sequence: the section, and what is done instead if it is aborted, or leaves by itself for label 5. `t` and `rseq`
/// are among the operands.
macro_rules! restartable {
    ([$($section:literal),*], else [$($instead:literal),*], $($operands:tt)*) => {
        asm!(
            ".pushsection __rseq_cs, \"aw\"",
            ".balign 32",
            "9:",
            ".long 0, 0", // version, flags
            ".quad 2f, 3f - 2f, 4f",
            ".popsection",
            "lea {t}, [rip + 9b]",
            "mov qword ptr fs:[{rseq} + 8], {t}",
            "2:",
            $($section,)*
            "3:",
            "mov qword ptr fs:[{rseq} + 8], 0",
            "6:",
            ".subsection 1",
            ".byte 0x0f, 0xb9, 0x3d", // ud1 edi, [rip + signature]
            ".long {signature}",
            "4:",
            "5:",
            "mov qword ptr fs:[{rseq} + 8], 0",
            $($instead,)*
            "jmp 6b",
            ".subsection 0",
            signature = const SIGNATURE,
            $($operands)*
        )
    };
}

/// Adds one to the counter on this CPU's stripe, in a restartable sequence; or, if that is aborted or the CPU has none of the
/// `cpus` stripes, atomically to the spare one behind them. The commit is an `inc`, which no signal finds half done.
///
/// # Safety
/// 1. `counter` is one of the live counters on stripe 0, and `1 << shift` bytes (modulo 64) lie between one stripe and the next.
/// 2. `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer.
#[inline(always)]
pub unsafe fn count_here(counter: NonNull<u8>, _order: Ordering, rseq: isize, cpus: u32, shift: u64) {
    // SAFETY: by (2) fs:[rseq] is this thread's `struct rseq`: cpu_id at 4, rseq_cs at 8. By (1) `counter +
    // (stripe << shift)` is a counter for every stripe up to and including the spare one, and the code uses no other:
    // cpu_id is compared with `cpus` as unsigned. The module's rules are met line by line. The stack is not touched.
    unsafe {
        restartable!(
            [
                "mov {t:e}, dword ptr fs:[{rseq} + 4]",
                "cmp {t:e}, {cpus:e}",
                "jae 5f",
                "shl {t}, cl",
                "inc qword ptr [{counter} + {t}]"
            ],
            else [
                "mov {t:e}, {cpus:e}",
                "shl {t}, cl",
                "lock inc qword ptr [{counter} + {t}]"
            ],
            t = out(reg) _,
            rseq = in(reg) rseq,
            counter = in(reg) counter.as_ptr(),
            cpus = in(reg) cpus,
            in("rcx") shift,
            options(nostack),
        );
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
                "mov {before:e}, dword ptr [{word}]",
                "7:",
                "mov {t:e}, dword ptr [{word}]",
                "sub {t:e}, {before:e}",
                "jnz 8f",
                "dec {turns:e}",
                "jnz 7b",
                "8:",
                "mov dword ptr [{changed}], {t:e}"
            ],
            else [],
            t = out(reg) _,
            before = out(reg) _,
            turns = inout(reg) turns => _,
            rseq = in(reg) rseq,
            word = in(reg) core::ptr::from_ref(word),
            changed = in(reg) core::ptr::from_mut(&mut changed),
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
/// `rseq` is where the C library keeps `struct rseq`, relative to the thread pointer, or `NO_RSEQ`.
#[inline(always)]
pub unsafe fn stripe_offset(rseq: isize, cpus: u32, shift: u64) -> usize {
    let offset: usize;
    // SAFETY: only loads. `cpu_id` is the second u32 of the thread's `struct rseq`; a thread without registration has
    // u32::MAX or the like there. With `NO_RSEQ` it is the upper half of the thread pointer, which the ABI keeps where it
    // points to. Either way a number below `cpus` is a stripe, and any stripe will do.
    unsafe {
        asm!(
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
            cpus = in(reg) u64::from(cpus),
            in("rcx") shift,
            options(nostack, readonly),
        );
    }
    offset
}

/// A naked function's body; see `foreign`. The caller's address is at the top of the stack.
#[doc(hidden)]
#[macro_export]
macro_rules! jump_with_caller {
    (0, $body:path) => {
        ::core::arch::naked_asm!("mov rdi, [rsp]", "jmp {body}", body = sym $body)
    };
    (1, $body:path) => {
        ::core::arch::naked_asm!("mov rsi, [rsp]", "jmp {body}", body = sym $body)
    };
    (2, $body:path) => {
        ::core::arch::naked_asm!("mov rdx, [rsp]", "jmp {body}", body = sym $body)
    };
    (3, $body:path) => {
        ::core::arch::naked_asm!("mov rcx, [rsp]", "jmp {body}", body = sym $body)
    };
}
