// May import: attach, ground.
//! Where this thread is, and a call inside a level.

use crate::attach::{self, Level};
use crate::ground::registry;
use interp_guard::InterpreterId;
use pyo3_ffi as ffi;

/// Runs `f` inside a level, and releases that. `None` if there is none.
pub fn inside<R>(level: Option<Level>, f: impl FnOnce() -> R) -> Option<R> {
    let level = level?;
    let result = f();
    if attach::release(level).is_err() {
        // SAFETY: ends the process; callable always.
        unsafe { ffi::Py_FatalError(c"interp_guard: a callable left another thread state attached".as_ptr()) }
    }
    Some(result)
}

/// The interpreter to which the calling thread is attached, if it is.
///
/// Context: normal.
pub fn here() -> Option<InterpreterId> {
    // SAFETY: asked only where this thread is attached.
    (!attach::attached().is_null()).then(|| unsafe { registry::current() }.1).flatten()
}
