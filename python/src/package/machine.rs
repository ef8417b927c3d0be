//! What the machine offers, and what the library makes of it: for `python -m interp_guard`.

use super::holders::is_recording;
use crate::ground::helpers::text;
use crate::ground::registry::REGISTRY;
use interp_guard::foreign::{self, Fact, Section};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::{CStr, c_int, c_ulonglong};
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

/// A section's facts as a dict; `None` for what is not known. Null with an exception set if there is no memory.
///
/// # Safety
/// Attached.
unsafe fn facts(section: &Section) -> *mut PyObject {
    // SAFETY: attached; `set` checks for null and takes the values over.
    unsafe {
        let dict = ffi::PyDict_New();
        for (name, fact) in &section.facts {
            let value = match fact {
                Fact::Words(words) => ffi::PyUnicode_FromString(text(words).as_ptr()),
                Fact::Number(number) => ffi::PyLong_FromUnsignedLongLong(*number),
                Fact::Unknown => ffi::Py_BuildValue(c"".as_ptr()),
            };
            if !set(dict, &text(name), value) {
                ffi::Py_XDECREF(dict);
                return null_mut();
            }
        }
        dict
    }
}

// SAFETY: called by Python, attached, with a module and an argument that are objects.

/// `machine()`: the verdict on this machine, a list of sections, each its title and a dict, and what this Python adds.
pub unsafe extern "C" fn machine(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let found = foreign::examine(&REGISTRY);
    // SAFETY: attached; the formats fit the arguments, `N` takes a reference over, and null is checked for.
    unsafe {
        let list = ffi::PyList_New(0);
        for section in &found.sections {
            let (title, facts) = (text(&section.title), facts(section));
            let row = if facts.is_null() {
                null_mut()
            } else {
                ffi::Py_BuildValue(c"sN".as_ptr(), title.as_ptr(), facts)
            };
            let appended = !list.is_null() && !row.is_null() && ffi::PyList_Append(list, row) == 0;
            ffi::Py_XDECREF(row);
            if !appended {
                ffi::Py_XDECREF(list);
                return null_mut();
            }
        }
        if list.is_null() {
            return null_mut();
        }
        let (verdict, registered) = (text(&found.verdict), REGISTRY.len() as c_ulonglong);
        let ledger = ffi::PyBool_FromLong(is_recording().into());
        ffi::Py_BuildValue(
            c"isN{sKsN}".as_ptr(),
            c_int::from(found.is_well),
            verdict.as_ptr(),
            list,
            c"registered".as_ptr(),
            registered,
            c"ledger".as_ptr(),
            ledger,
        )
    }
}
