//! What no way of counting can be below: of shared counters two locked adds, of counters per CPU two restartable sequences.

use std::arch::asm;

#[repr(align(128))]
struct Line([u64; 2]);

/// `n` times two bare locked adds on a private line, nothing around them.
#[inline(never)]
pub fn two_locked_adds(n: u64) {
    let mut line = Line([0; 2]);
    for _ in 0..n {
        // SAFETY: both words are in the local line.
        unsafe {
            asm!("lock xadd qword ptr [{line}], {one}", "lock xadd qword ptr [{line} + 8], {one}",
                line = in(reg) line.0.as_mut_ptr(), one = inout(reg) 1_u64 => _, options(nostack));
        }
    }
}

/// Counters by CPU, as a table has them: a thread that looks one up takes every one of these from memory.
#[repr(C)]
pub struct Sequences {
    rseq: isize,
    cpus: u64,
    shift: u64,
    counters: *mut Line,
    lines: Vec<Line>,
}

// SAFETY: the counters are written by the sequences alone, which no other thread of the same CPU interrupts.
unsafe impl Sync for Sequences {}

impl Sequences {
    /// `None` where the C library has registered no restartable sequences.
    pub fn new() -> Option<Self> {
        let rseq = interp_guard::platform::rseq()?.offset;
        // SAFETY: asks the C library for a number.
        let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) }.max(1) as u64;
        // And one for threads that are on none of them.
        let mut lines: Vec<Line> = (0..=cpus).map(|_| Line([0; 2])).collect();
        let shift = size_of::<Line>().trailing_zeros().into();
        Some(Self { rseq, cpus, shift, counters: lines.as_mut_ptr(), lines })
    }

    /// `n` times two of them, one for each counter of this CPU, nothing around them.
    #[inline(never)]
    pub fn run(&self, n: u64) {
        for _ in 0..n {
            // SAFETY: the line of this CPU is one of ours.
            unsafe {
                self.add::<0>();
                self.add::<8>();
            }
        }
    }

    /// One sequence: how it is made is explained in `src/signal_safe/counters/per_cpu.rs`. One that is aborted counts nothing.
    ///
    /// # Safety
    /// There are as many lines as CPUs; `SIDE` is a word of a line.
    #[inline(always)]
    unsafe fn add<const SIDE: usize>(&self) {
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
                of = in(reg) &raw const *self,
                rseq = out(reg) _,
                counters = out(reg) _,
                t = out(reg) _,
                out("rcx") _,
                side = const SIDE,
                options(nostack),
            );
        }
    }
}

impl Drop for Sequences {
    /// They have counted: a floor that does nothing would be low.
    fn drop(&mut self) {
        assert!(
            self.lines.iter().any(|line| line.0 != [0, 0]),
            "no restartable sequence has counted anything"
        );
    }
}
