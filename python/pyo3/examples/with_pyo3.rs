//! A native core (`python/examples/core.c`) that logs into Python, by PyO3. What interp-guard takes is marked.

use interp_guard_pyo3::View; // interp-guard
use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::sync::OnceLock;

type Logger = extern "C" fn(c_int, *const c_char);

/// The core, which this loads at run time.
struct Core {
    start: unsafe extern "C" fn(Logger, c_int),
    events: unsafe extern "C" fn() -> c_long,
}

static CORE: OnceLock<Core> = OnceLock::new();
static LOG_DEBUG: OnceLock<Py<PyAny>> = OnceLock::new();
static HERE: OnceLock<View> = OnceLock::new(); // interp-guard

extern "C" fn sink(level: c_int, text: *const c_char) {
    // SAFETY: the core's text is terminated, and lives as long as this call.
    let text = unsafe { CStr::from_ptr(text) };
    let Some(log_debug) = LOG_DEBUG.get() else { return };
    let log = || {
        Python::attach(|py| {
            let logged = log_debug.call1(py, ("%d %s", level, text.to_string_lossy()));
            logged.map_or_else(|error| error.write_unraisable(py, None), drop);
        })
    };
    let Some(&here) = HERE.get() else { return }; // interp-guard
    let log = || interp_guard_pyo3::attach(here, |_| log()); // interp-guard
    let _ = log();
}

#[pyfunction]
fn start(threads: c_int) {
    if let Some(core) = CORE.get() {
        // SAFETY: as `core.h` declares it.
        unsafe { (core.start)(sink, threads) }
    }
}

#[pyfunction]
fn events() -> c_long {
    // SAFETY: as `core.h` declares it.
    CORE.get().map_or(0, |core| unsafe { (core.events)() })
}

/// A native core that logs into Python.
#[pymodule]
fn with_pyo3(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let _ = HERE.set(View::current(py)?); // interp-guard
    let log = py.import("logging")?.call_method1("getLogger", ("core",))?;
    let _ = LOG_DEBUG.set(log.getattr("debug")?.unbind());
    // SAFETY: a terminated name; the functions are as `core.h` declares them.
    let core = unsafe {
        let core = libc::dlopen(c"libcore.so".as_ptr(), libc::RTLD_NOW);
        if core.is_null() {
            return Err(PyImportError::new_err("libcore.so was not found"));
        }
        let (start, events) =
            (libc::dlsym(core, c"core_start".as_ptr()), libc::dlsym(core, c"core_events".as_ptr()));
        if start.is_null() || events.is_null() {
            return Err(PyImportError::new_err("libcore.so is another one"));
        }
        Core {
            start: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Logger, c_int)>(start),
            events: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_long>(events),
        }
    };
    let _ = CORE.set(core);
    module.add_function(wrap_pyfunction!(start, module)?)?;
    module.add_function(wrap_pyfunction!(events, module)?)
}
