// May import: sequences, signal_safe.
//! What this machine offers: restartable sequences, `membarrier`, CPUs. Asked in normal context, when a table is mapped.

pub use crate::sequences::Sequences;
use crate::sequences::{are_known_good, release, tried};
use crate::signal_safe::counters::{Counters, NO_RSEQ};
use crate::signal_safe::sys;
use std::ffi::CStr;
use std::fmt;

/// The C library's registration of restartable sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rseq {
    /// Bytes from a thread's thread pointer to its `struct rseq`.
    pub offset: isize,
    /// How much of `struct rseq` is registered, in bytes.
    pub size: u32,
}

/// What per-CPU counting lacks on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The C library registered no restartable sequences: it is older than glibc 2.35 or not glibc, the tunable
    /// `glibc.pthread.rseq` is 0, or the kernel (or valgrind) does not offer them. Or it is linked into the program, where
    /// `dlsym` does not find them.
    Rseq,
    /// The kernel refused `membarrier(REGISTER_PRIVATE_EXPEDITED)` with this error number: it is older than Linux 4.14,
    /// or a seccomp filter forbids the call.
    Membarrier(i32),
    /// The kernel does not abort the restartable sequences that it interrupts, or this is not known of its version and was not
    /// shown by trying: never [`Sequences::Abort`].
    Abort(Sequences),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rseq => f.write_str(
                "restartable sequences, registered by the C library (glibc 2.35 or later, \
                 not linked into the program, with glibc.pthread.rseq not 0, on a kernel that has them)",
            ),
            Self::Membarrier(errno) => write!(
                f,
                "membarrier(PRIVATE_EXPEDITED): the kernel answered {} (Linux 4.14 or later, \
                 not forbidden by a seccomp filter)",
                std::io::Error::from_raw_os_error(*errno)
            ),
            Self::Abort(sequences) => {
                write!(f, "restartable sequences that are aborted when they are interrupted: {sequences}")
            }
        }
    }
}

/// Where the C library registered restartable sequences, if it did.
///
/// Context: normal.
///
/// ```
/// match interp_guard::platform::rseq() {
///     Some(rseq) => assert!(rseq.size >= 20),
///     None => println!("shared counters only"),
/// }
/// ```
pub fn rseq() -> Option<Rseq> {
    // Looked up at run time, so that the binary has no reference that an older C library could not satisfy.
    let symbol = |name: &CStr| {
        // SAFETY: dlsym with a valid, terminated name; a null answer is handled by the callers.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
    };
    let offset = symbol(c"__rseq_offset").cast::<isize>();
    let size = symbol(c"__rseq_size").cast::<libc::c_uint>();
    if offset.is_null() || size.is_null() {
        return None;
    }
    // SAFETY: glibc defines `const ptrdiff_t __rseq_offset` and `const unsigned int __rseq_size`, set before `main`.
    let rseq = unsafe { Rseq { offset: *offset, size: *size } };
    // 20 bytes reach to the end of `flags`, the fields that the first version of the interface has.
    (rseq.size >= 20 && rseq.offset != NO_RSEQ).then_some(rseq)
}

/// Registers the process for `membarrier(PRIVATE_EXPEDITED)`: twice is as good as once.
///
/// Context: normal.
///
/// # Errors
/// The kernel's error number.
///
/// ```
/// if let Err(errno) = interp_guard::platform::membarrier() {
///     println!("refused: {}", std::io::Error::from_raw_os_error(errno));
/// }
/// ```
pub fn membarrier() -> Result<(), i32> {
    sys::membarrier_register().map_err(|errno| errno.0)
}

/// What per-CPU counting needs and this machine lacks, if anything. Registers the process for `membarrier`.
///
/// Context: normal.
///
/// ```
/// if let Some(missing) = interp_guard::platform::missing_for_per_cpu() {
///     println!("counting with locked adds: this machine lacks {missing}");
/// }
/// ```
pub fn missing_for_per_cpu() -> Option<Missing> {
    if rseq().is_none() {
        return Some(Missing::Rseq);
    }
    if let Err(errno) = membarrier() {
        return Some(Missing::Membarrier(errno));
    }
    let sequences = sequences();
    must_be_refused(sequences).then_some(Missing::Abort(sequences))
}

/// May sections not be relied on? On x86-64 no kernel is known whose go on: there it takes a trial that has seen it.
fn must_be_refused(sequences: Sequences) -> bool {
    match sequences {
        Sequences::Abort => false,
        Sequences::NotShown => cfg!(not(target_arch = "x86_64")),
        Sequences::SurviveSignals | Sequences::SurvivePreemption => true,
    }
}

impl fmt::Display for Sequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Abort => "what is interrupted is aborted",
            Self::SurviveSignals => "in a trial, one that a signal interrupted went on",
            Self::SurvivePreemption => "in a trial, one that was preempted went on",
            Self::NotShown => "this version of Linux is not known to do it, and a trial could not show it",
        })
    }
}

/// Does the kernel abort restartable sequences? By its version, or, if that says nothing, by a [trial](try_sequences).
///
/// Context: normal; blocks for at most some hundred milliseconds, once.
///
/// ```
/// println!("restartable sequences: {}", interp_guard::platform::sequences());
/// ```
pub fn sequences() -> Sequences {
    if are_known_good(&release()) { Sequences::Abort } else { try_sequences() }
}

/// Interrupts restartable sequences until it has seen whether the kernel aborts them. Once in a process: later calls, and those in
/// forked children, have the same answer.
///
/// It starts two tasks with the memory of this process, which have ended when it returns, and of whose end nobody is told.
///
/// Context: normal; blocks for at most some hundred milliseconds.
///
/// ```
/// use interp_guard::platform::{self, Sequences};
/// assert_ne!(platform::try_sequences(), Sequences::SurviveSignals);
/// ```
pub fn try_sequences() -> Sequences {
    tried()
}

/// The mode that a registry takes when nobody asks for one.
///
/// Context: normal.
///
/// ```
/// println!("{}", interp_guard::platform::best_counters());
/// ```
pub fn best_counters() -> Counters {
    if missing_for_per_cpu().is_none() { Counters::PerCpu } else { Counters::Shared }
}

/// One more than the highest CPU number that this machine can ever have.
///
/// CPU numbers can be sparse, so this is read from the kernel's list of possible CPUs; where that is not readable, it
/// is the number of configured ones.
///
/// Context: normal.
///
/// ```
/// assert!(interp_guard::platform::possible_cpus() >= 1);
/// ```
pub fn possible_cpus() -> u32 {
    let listed = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok();
    listed.as_deref().and_then(highest_cpu).map_or_else(configured_cpus, |highest| highest.saturating_add(1))
}

fn configured_cpus() -> u32 {
    // SAFETY: sysconf takes no pointers.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    u32::try_from(count).unwrap_or(1).max(1)
}

/// The highest number in a kernel CPU list such as `0-3,8-11`.
fn highest_cpu(list: &str) -> Option<u32> {
    let numbers: Result<Vec<u32>, _> = list.trim().split([',', '-']).map(str::parse).collect();
    numbers.ok()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::highest_cpu;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(highest_cpu("0\n"), Some(0));
        assert_eq!(highest_cpu("0-127\n"), Some(127));
        assert_eq!(highest_cpu("0-3,8-11\n"), Some(11));
        assert_eq!(highest_cpu("0,2\n"), Some(2));
        assert_eq!(highest_cpu(""), None);
        assert_eq!(highest_cpu("none"), None);
    }
}
