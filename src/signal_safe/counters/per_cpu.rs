//! Per-CPU mode: a plain `inc` on the current CPU's stripe, in a restartable sequence.
//!
//! # Theory of operation
//!
//! A restartable sequence (rseq) is a few instructions that the kernel aborts if this thread is preempted, migrated or
//! signalled inside them. Between reading the CPU number and the one instruction that commits, this thread is therefore
//! the only one that runs on that CPU, and an `inc` without a lock prefix loses nothing: no other CPU writes this
//! stripe, and no other thread of this CPU gets in between.
//!
//! The sequence is tried **once**. An abort, or a CPU number that is not one of the stripes (a thread without
//! registration has `-1` or `-2` there, which as unsigned is larger than any), leads to one locked add on the spare
//! stripe. So an add is wait-free, ends under single-stepping and valgrind, and still counts exactly.
//!
//! # Rules of the kernel's contract, and where they are met
//!
//! 1. The descriptor is 32 bytes, 32-byte aligned: in `__rseq_cs` below.
//! 2. Storing its address to `rseq_cs` is the last instruction before the section: an abort between the two would be
//!    lost otherwise. Label 2 follows the store directly.
//! 3. One committing instruction, the last of the section: `inc`. Label 3 follows it.
//! 4. The abort address lies outside the section, four bytes after the signature that the C library registered: label
//!    4, in the function's cold part.
//! 5. No system call, call or stack operation inside the section.
//! 6. `rseq_cs` is cleared on every way out: if the object that holds the descriptor is unloaded, a stale pointer would
//!    kill the process at its next preemption. (After an abort the kernel has cleared it itself.)
//!
//! A handler that interrupts the section aborts it, runs its own sections, leaves `rseq_cs` null, and returns to the
//! abort address. A handler that interrupts the store of rule 2 or the code after the commit disturbs nothing.

use super::super::state::State;
use super::super::sync::{Ordering, compiler_fence};
use super::cell::{Cell, Side};
use core::arch::asm;
use core::ptr::NonNull;

/// What glibc registers on x86-64; encoded as the displacement of an undefined instruction, so that disassemblers keep
/// their place.
const SIGNATURE: u32 = 0x5305_3053;

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
    // SAFETY: by (3) fs:[rseq] is this thread's `struct rseq`: cpu_id at 4, rseq_cs at 8. By (1) and (2) `counter +
    // (stripe << shift)` is a counter for every stripe up to and including the spare one, and the code uses no other:
    // cpu_id is compared with `cpus` as unsigned. The rules above are met line by line. The stack is not touched.
    unsafe {
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
            "mov {t:e}, dword ptr fs:[{rseq} + 4]",
            "cmp {t:e}, {cpus:e}",
            "jae 5f",
            "shl {t}, cl",
            "inc qword ptr [{counter} + {t}]",
            "3:",
            "mov qword ptr fs:[{rseq} + 8], 0",
            "6:",
            ".subsection 1",
            ".byte 0x0f, 0xb9, 0x3d", // ud1 edi, [rip + signature]
            ".long {signature}",
            "4:",
            "5:",
            "mov qword ptr fs:[{rseq} + 8], 0",
            "mov {t:e}, {cpus:e}",
            "shl {t}, cl",
            "lock inc qword ptr [{counter} + {t}]",
            "jmp 6b",
            ".subsection 0",
            t = out(reg) _,
            rseq = in(reg) rseq,
            counter = in(reg) counter.as_ptr(),
            cpus = in(reg) state.cpus(),
            in("rcx") state.stripe_shift_count(),
            signature = const SIGNATURE,
            options(nostack),
        );
    }
    // The light fence: pairs with `membarrier` in `heavy_fence` (edges E3, E4), which is a full barrier on every CPU
    // that runs a thread of this process. The processor may delay the increment past the next load; the compiler may not.
    compiler_fence(Ordering::SeqCst);
}
