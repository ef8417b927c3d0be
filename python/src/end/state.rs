//! How far the end has come, in this epoch.

use crate::ground::python;
use pyo3_ffi as ffi;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Has the main interpreter's hook begun? Then what registers has come too late: nobody would wait for it.
static MAIN_IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Has the main interpreter's hook run? Then threads may be gone or stuck, and nothing may wait for them.
static MAIN_IS_DRAINED: AtomicBool = AtomicBool::new(false);

/// The thread on which the main interpreter's hook ran last, by `this_thread`, or 0.
static MAIN_ENDS_ON: AtomicU64 = AtomicU64::new(0);

/// Has an end gone on with guards out, as the application chose? It was said who has them.
static GONE_ON: AtomicBool = AtomicBool::new(false);

/// Python is gone, and may come back.
pub fn begin_epoch() {
    // Release: with the Acquire loads, though no Python thread exists that could see it otherwise.
    MAIN_IS_DRAINED.store(false, Ordering::Release);
    MAIN_IS_ENDING.store(false, Ordering::Release);
    MAIN_ENDS_ON.store(0, Ordering::Relaxed);
    GONE_ON.store(false, Ordering::Relaxed);
}

/// The main interpreter's hook begins, on this thread. To be called before it looks who there is: whoever registers
/// afterwards sees this, or is seen (the registry's mutex is in between).
pub fn main_begins_to_end() {
    MAIN_IS_ENDING.store(true, Ordering::Release);
    // Relaxed: see `main_ends_on_this_thread`.
    MAIN_ENDS_ON.store(python::this_thread(), Ordering::Relaxed);
}

/// Has the main interpreter begun to close all others?
pub fn main_is_ending() -> bool {
    MAIN_IS_ENDING.load(Ordering::Acquire)
}

/// Is this the thread on which the main interpreter ends, in an `atexit` callback after our hook? It can still attach,
/// and the interpreter cannot get any further before it returns.
pub fn main_ends_on_this_thread() -> bool {
    // SAFETY: always callable.
    let initialized = unsafe { ffi::Py_IsInitialized() } != 0;
    // Relaxed: only what this thread has stored itself is of interest.
    initialized && MAIN_ENDS_ON.load(Ordering::Relaxed) == python::this_thread()
}

/// The main interpreter's hook has waited for everybody.
pub fn main_has_drained() {
    MAIN_IS_DRAINED.store(true, Ordering::Release);
}

/// See [`main_has_drained`].
pub fn main_is_drained() -> bool {
    MAIN_IS_DRAINED.load(Ordering::Acquire)
}

/// An end goes on with guards out.
pub fn go_on() {
    GONE_ON.store(true, Ordering::Relaxed); // as in `has_gone_on`
}

/// See [`GONE_ON`].
pub fn has_gone_on() -> bool {
    GONE_ON.load(Ordering::Relaxed) // read where it was set, or when that is long over
}
