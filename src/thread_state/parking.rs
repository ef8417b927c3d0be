//! Threads that must not return.

use std::sync::atomic::{AtomicUsize, Ordering};

static PARKED: AtomicUsize = AtomicUsize::new(0);

/// Blocks the calling thread until the process ends: for a thread that must not return to code whose interpreter is gone.
///
/// Context: normal; never returns.
///
/// ```
/// # use interp_guard::thread_state;
/// let before = thread_state::parked();
/// let thread = std::thread::spawn(|| -> () { thread_state::park_for_good() });
/// while thread_state::parked() == before {
///     std::thread::yield_now();
/// }
/// assert!(!thread.is_finished());
/// ```
pub fn park_for_good() -> ! {
    PARKED.fetch_add(1, Ordering::SeqCst);
    loop {
        std::thread::park();
    }
}

/// How many threads are parked for good.
///
/// Context: any.
///
/// ```
/// println!("{} threads never came back", interp_guard::thread_state::parked());
/// ```
pub fn parked() -> usize {
    PARKED.load(Ordering::SeqCst)
}
