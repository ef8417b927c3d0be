//! A wait that nobody could end: the guards are out, and the thread that waits for them is the only one there is.
//!
//! A guard may be closed by any thread, so that a wait for one's own is not hopeless as such. It is where no other
//! thread exists. Then only a signal's handler could close the guard, on this very thread, if there is one.

use crate::ground::registry::REGISTRY;
use interp_guard::InterpreterId;

/// Handlers of these close no guards: they are told that the program is broken. Those of 32 and 33 are the C
/// library's own.
const BROKEN: [libc::c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT, 32, 33];

/// Are guards of `id` out that nobody could ever close? `ours`: SIGINT's handler is CPython's default or our own.
///
/// Context: normal; the caller waits for these guards.
pub fn is_hopeless(id: InterpreterId, ours: bool) -> bool {
    // Last how many are out: the thread that is gone may have closed its guard before it ended.
    is_only_thread() && !can_be_signalled(ours) && REGISTRY.outstanding(id).is_some_and(|out| out > 0)
}

fn is_only_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.take(2).count() == 1)
}

/// Has any signal a handler that might close a guard? If it cannot be found out, yes.
fn can_be_signalled(ours: bool) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let Some(caught) = caught.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()) else { return true };
    let harmless = BROKEN.into_iter().chain(ours.then_some(libc::SIGINT));
    caught & !harmless.fold(0, |bits, signal| bits | 1 << (signal - 1)) != 0
}
