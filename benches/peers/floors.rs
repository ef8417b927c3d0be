//! What no way of counting can be below: of shared counters two locked adds, of counters per CPU two restartable sequences.

use super::arch::{add_here, two_adds};

#[repr(align(128))]
pub struct Line(pub [u64; 2]);

/// `n` times two bare locked adds on a private line, nothing around them.
#[inline(never)]
pub fn two_locked_adds(n: u64) {
    let mut line = Line([0; 2]);
    for _ in 0..n {
        two_adds(&mut line);
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
                add_here::<0>(self);
                add_here::<8>(self);
            }
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
