//! The kernel, reached through one raw system-call function.
//!
//! The C library's wrappers store failures in `errno`, which a signal handler would then have to save and restore.
//! [`syscall`] returns the kernel's answer as it is and touches nothing else.

use super::arch;
pub use super::arch::{stripe_offset, thread_pointer};
use libc::{c_int, c_long, timespec};

/// An error number as the kernel returned it; positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub c_int);

/// Performs a system call. The library's only system-call instruction.
///
/// Context: any, async-signal-safe; `errno` is not touched.
///
/// # Safety
/// 1. The arguments are valid for the call `number`, pointers included.
/// 2. The call does not end or replace this thread's stack or address space.
#[inline(never)]
unsafe fn syscall(number: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let result = unsafe { arch::system_call(number, args) };
    if (-4095..0).contains(&result) { Err(Errno(-result as c_int)) } else { Ok(result as usize) }
}

/// Wakes every thread that waits on `word`.
///
/// Context: any, async-signal-safe.
pub fn futex_wake_all(word: *const u32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: FUTEX_WAKE uses the address as a key and does not access the memory. It has no failure that matters
    // here: an address without waiters is no error, and a bad one wakes nobody.
    let _ = unsafe { syscall(libc::SYS_futex, [word as usize, op as usize, c_int::MAX as usize, 0, 0, 0]) };
}

/// Waits until `word` no longer holds `expected`, somebody wakes it, a signal comes, or `deadline` (absolute, on the
/// monotonic clock) passes. The caller looks again in each of these cases.
///
/// Where the kernel refuses to wait (a seccomp filter), it sleeps for a millisecond instead: the caller, who looks again, sees
/// what it waits for a little later.
///
/// Context: normal, blocks.
pub fn futex_wait(word: &super::sync::Atomic<u32>, expected: u32, deadline: Option<timespec>) {
    let op = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
    let limit = deadline.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    let every_bit = u32::MAX as usize;
    let args =
        [core::ptr::from_ref(word) as usize, op as usize, expected as usize, limit as usize, 0, every_bit];
    // SAFETY: (1) `word` is a live, aligned u32 and `limit` null or a live timespec for the whole call; (2) holds.
    let result = unsafe { syscall(libc::SYS_futex, args) };
    if !matches!(result, Ok(_) | Err(Errno(libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT))) {
        let args = [core::ptr::from_ref(&REFUSED) as usize, 0, 0, 0, 0, 0];
        // SAFETY: (1) a readable timespec, and nothing is to be written; (2) holds. Refused too, the caller looks at once.
        let _ = unsafe { syscall(libc::SYS_nanosleep, args) };
    }
}

/// How long to look away where the kernel refuses to let a thread wait: 1 ms.
const REFUSED: timespec = timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Has the kernel clear `page` in every child that is forked from here on.
///
/// # Errors
/// `EINVAL` from kernels before 4.14, or what a seccomp filter decides.
pub fn wipe_on_fork(page: &'static super::process::Page) -> Result<(), Errno> {
    let args =
        [core::ptr::from_ref(page) as usize, size_of_val(page), libc::MADV_WIPEONFORK as usize, 0, 0, 0];
    // SAFETY: (1) one whole page, by its alignment and size; nothing in this process changes, and a child's `Page` is valid as
    // all zero; (2) holds.
    unsafe { syscall(libc::SYS_madvise, args) }.map(drop)
}

/// The number of no descriptor.
pub const NO_EVENTFD: c_int = -1;

/// Makes a non-blocking eventfd readable. Nothing for [`NO_EVENTFD`].
///
/// Context: any, async-signal-safe.
pub fn eventfd_add_one(fd: c_int) {
    let one = 1_u64;
    let args = [fd as usize, core::ptr::from_ref(&one) as usize, size_of::<u64>(), 0, 0, 0];
    // SAFETY: (1) `one` is eight readable bytes; any number is a valid descriptor to ask for; (2) holds. The one failure
    // that an open eventfd has is EAGAIN, when its counter is at its end: it is readable then. Of no descriptor, the kernel
    // says EBADF.
    let _ = unsafe { syscall(libc::SYS_write, args) };
}

/// Makes every running thread of this process execute a full memory barrier.
///
/// Context: any, async-signal-safe, though only normal context has a use for it.
///
/// # Errors
/// What the kernel said: `EPERM` if the process is not registered for it, or what a seccomp filter decides.
pub fn membarrier_private_expedited() -> Result<(), Errno> {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

/// Declares that this process will call [`membarrier_private_expedited`]. Survives `fork`; may be repeated.
///
/// # Errors
/// `ENOSYS` or `EINVAL` where the kernel does not have it, or what a seccomp filter decides.
pub fn membarrier_register() -> Result<(), Errno> {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

fn membarrier(command: c_int) -> Result<(), Errno> {
    // SAFETY: membarrier takes no pointers.
    unsafe { syscall(libc::SYS_membarrier, [command as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// The kernel's ID of the calling thread.
///
/// Context: any, async-signal-safe.
pub fn gettid() -> u32 {
    // SAFETY: gettid takes no arguments. It always succeeds.
    unsafe { syscall(libc::SYS_gettid, [0; 6]) }.unwrap_or(0) as u32
}

/// Has the thread of this process that had this ID ended? `false` where the kernel does not say so: the ID is a living thread's,
/// perhaps a later one's; or the main thread's, which keeps it until the process ends; or the question is forbidden.
///
/// Context: any, async-signal-safe.
pub fn thread_has_ended(thread: u32) -> bool {
    // SAFETY: getpid takes no arguments. It always succeeds.
    let process = unsafe { syscall(libc::SYS_getpid, [0; 6]) }.unwrap_or(0);
    // SAFETY: tgkill takes no pointers, and signal 0 is only asked about.
    let asked = unsafe { syscall(libc::SYS_tgkill, [process, thread as usize, 0, 0, 0, 0]) };
    asked == Err(Errno(libc::ESRCH))
}

/// The calling thread's name, padded with zeros.
///
/// Context: any, async-signal-safe.
pub fn thread_name() -> [u8; 16] {
    let mut name = [0_u8; 16];
    let args = [libc::PR_GET_NAME as usize, name.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: (1) PR_GET_NAME writes at most the 16 bytes that `name` has. It always succeeds.
    let _ = unsafe { syscall(libc::SYS_prctl, args) };
    name
}

/// Nanoseconds on the monotonic clock.
///
/// Context: any, async-signal-safe.
pub fn monotonic_nanos() -> u64 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    let args = [libc::CLOCK_MONOTONIC as usize, core::ptr::from_mut(&mut now) as usize, 0, 0, 0, 0];
    // SAFETY: (1) `now` is a valid timespec to write to, and the monotonic clock exists on every Linux.
    let _ = unsafe { syscall(libc::SYS_clock_gettime, args) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Does the calling thread run on its alternate signal stack? Then it is in a signal handler.
///
/// Context: any, async-signal-safe.
pub fn on_signal_stack() -> bool {
    let mut stack = libc::stack_t { ss_sp: core::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    let args = [0, core::ptr::from_mut(&mut stack) as usize, 0, 0, 0, 0];
    // SAFETY: (1) a null first argument changes nothing, and `stack` is a valid stack_t to write to.
    let _ = unsafe { syscall(libc::SYS_sigaltstack, args) };
    stack.ss_flags & libc::SS_ONSTACK != 0
}
