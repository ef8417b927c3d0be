//! What the machine offers, and what the library makes of it: for `python -m interp_guard`.

use super::holders::is_recording;
use crate::ground::helpers::text;
use crate::ground::registry::REGISTRY;
use interp_guard::{foreign, platform};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::CStr;
use std::ptr::null_mut;

/// # Safety
/// Attached. Takes the reference to `value` over.
unsafe fn set(dict: *mut PyObject, key: &CStr, value: *mut PyObject) -> bool {
    // SAFETY: attached; null is checked for, and the reference is given back.
    unsafe {
        let done =
            !dict.is_null() && !value.is_null() && ffi::PyDict_SetItemString(dict, key.as_ptr(), value) == 0;
        ffi::Py_XDECREF(value);
        done
    }
}

/// How guards are counted.
pub fn counters_name() -> &'static str {
    REGISTRY.layout().map_or("not available", |layout| layout.counters.name())
}

// SAFETY: called by Python, attached, with a module and an argument that are objects.

/// `machine()`: a dict of what the machine offers, and what the library makes of it.
pub unsafe extern "C" fn machine(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let layout = REGISTRY.layout();
    let (why, rseq) = (foreign::why_counted_so(), foreign::rseq());
    let words = [(c"counters", counters_name()), (c"counters_why", &*why), (c"rseq", &*rseq)];
    let numbers = [
        (c"possible_cpus", platform::possible_cpus() as usize),
        (c"capacity", REGISTRY.capacity()),
        (c"registered", REGISTRY.len()),
        (c"slots", layout.map_or(0, |layout| layout.slots)),
        (c"mapped_bytes", layout.map_or(0, |layout| layout.mapped_bytes)),
    ];
    // SAFETY: attached; `set` checks for null and takes the values over.
    unsafe {
        let dict = ffi::PyDict_New();
        let mut done = set(dict, c"ledger", ffi::PyBool_FromLong(is_recording().into()));
        for (key, word) in words {
            done &= set(dict, key, ffi::PyUnicode_FromString(text(word).as_ptr()));
        }
        for (key, number) in numbers {
            done &= set(dict, key, ffi::PyLong_FromSize_t(number));
        }
        if !done {
            ffi::Py_XDECREF(dict);
            return null_mut();
        }
        dict
    }
}
