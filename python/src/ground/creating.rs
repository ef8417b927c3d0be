//! No thread is inside `PyThreadState_New` while the process forks, where that would be the child's end.
//!
//! - *Up to CPython 3.11* that function takes a lock without the GIL, and the child would find it taken for ever.
//! - *Free-threaded*, `os.fork` stops the threads that are attached, and whoever makes a thread state need not be. The child would
//!   find the lock of the interpreter's bytecode indices taken, which CPython does not make anew, or a state of which only
//!   half is there.
//!
//! With a GIL, later versions see to it themselves, and here nothing is done.
//!
//! Free-threaded, `PyThreadState_New` also stops all threads of *its* interpreter now and then (when there are more of them than
//! ever). It does not detach for that. So two threads that go from one interpreter to another, each to the other's, would each
//! wait for the other to stop: here a thread has let go of what it is attached to.

use crate::ground::helpers::detached;
use crate::ground::python;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many threads are inside `PyThreadState_New`; and `FORKING` while the process forks.
static CREATING: AtomicU32 = AtomicU32::new(0);
const FORKING: u32 = 1 << 31;

/// Runs `PyThreadState_New` so that no `os.fork` falls into it. A thread that has to wait for one lets go of the GIL,
/// which whoever forks needs. Attached or not; what is attached is attached again in the end.
#[inline(always)]
pub fn creating<R>(new: impl FnOnce() -> R) -> R {
    if !python::new_is_unsafe_across_fork() {
        return new();
    }
    if python::FREE_THREADED && !python::attached().is_null() {
        return detached(|| uninterrupted(new));
    }
    uninterrupted(new)
}

#[inline(always)]
fn uninterrupted<R>(new: impl FnOnce() -> R) -> R {
    loop {
        // Relaxed: the exchange decides.
        let seen = CREATING.load(Ordering::Relaxed);
        if seen & FORKING != 0 {
            wait_for_fork(seen);
            continue;
        }
        // Acquire: after the fork that `after_fork` ended, by its Release.
        if CREATING.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            break;
        }
    }
    let result = new();
    // Release: pairs with the Acquire in `before_fork`.
    if CREATING.fetch_sub(1, Ordering::Release) == FORKING + 1 {
        atomic_wait::wake_all(&CREATING);
    }
    result
}

#[cold]
#[inline(never)]
fn wait_for_fork(seen: u32) {
    let wait = || atomic_wait::wait(&CREATING, seen);
    if python::attached().is_null() { wait() } else { detached(wait) }
}

/// Waits until no thread is inside, and keeps others out until [`after_fork`]. To be called attached.
pub fn before_fork() {
    if !python::new_is_unsafe_across_fork() {
        return;
    }
    // Another thread may be forking too, in between: its hooks run with the GIL released here.
    detached(|| {
        loop {
            // Relaxed: the exchange decides.
            let seen = CREATING.load(Ordering::Relaxed);
            if seen & FORKING != 0 {
                atomic_wait::wait(&CREATING, seen);
            } else if CREATING
                .compare_exchange(seen, seen | FORKING, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                break;
            }
        }
        // Acquire: pairs with the Release in `creating`: what they did is over.
        while let threads @ 1.. = CREATING.load(Ordering::Acquire) & !FORKING {
            atomic_wait::wait(&CREATING, FORKING | threads);
        }
    });
}

/// In the parent and in the child: nobody was inside, and nobody came in.
pub fn after_fork() {
    if python::new_is_unsafe_across_fork() {
        // Release: pairs with the Acquire in `creating`.
        CREATING.store(0, Ordering::Release);
        atomic_wait::wake_all(&CREATING);
    }
}
