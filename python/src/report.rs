//! What there is to say of guards and of the machine: `holders`, and what `python -m interp_guard` prints.

use crate::table::REGISTRY;
use interp_guard::{Counters, Holder, InterpreterId, platform};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::{CStr, CString, c_int};
use std::ptr::null_mut;

fn text(words: &str) -> CString {
    CString::new(words.replace('\0', " ")).unwrap_or_default()
}

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

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

/// `holders(id)`: (outstanding, report, [(thread ID, name, ended, site, age, in a handler, by this thread)]), or None.
pub unsafe extern "C" fn holders(_: *mut PyObject, number: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached; every object is checked for null; `N` takes the list over.
    unsafe {
        let id = ffi::PyLong_AsLongLong(number);
        if id == -1 && !ffi::PyErr_Occurred().is_null() {
            return null_mut();
        }
        let Some(holders) = InterpreterId::try_from(id).ok().and_then(|id| REGISTRY.holders(id)) else {
            return ffi::Py_BuildValue(c"".as_ptr()); // None
        };
        let list = ffi::PyList_New(0);
        for holder in &holders {
            let row = row(holder);
            let appended = !list.is_null() && !row.is_null() && ffi::PyList_Append(list, row) == 0;
            ffi::Py_XDECREF(row);
            if !appended {
                ffi::Py_XDECREF(list);
                return null_mut();
            }
        }
        let report = text(&holders.to_string());
        ffi::Py_BuildValue(c"KsN".as_ptr(), holders.outstanding(), report.as_ptr(), list)
    }
}

/// # Safety
/// Attached.
unsafe fn row(holder: &Holder) -> *mut PyObject {
    let (name, site) = (text(&holder.thread_name), text(&holder.site.to_string()));
    // SAFETY: attached; the format fits the arguments.
    unsafe {
        ffi::Py_BuildValue(
            c"Isisdii".as_ptr(),
            holder.thread_id,
            name.as_ptr(),
            c_int::from(holder.thread_ended),
            site.as_ptr(),
            holder.age.as_secs_f64(),
            c_int::from(holder.in_handler),
            c_int::from(holder.by_this_thread),
        )
    }
}

/// Does the ledger write down who takes each guard?
pub fn is_recording() -> bool {
    let main = crate::table::main_id();
    let any = main.into_iter().chain(REGISTRY.ids()).find_map(|id| REGISTRY.holders(id));
    any.is_some_and(|holders| holders.is_recorded())
}

/// `is_recording()`.
pub unsafe extern "C" fn recording(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    unsafe { ffi::PyBool_FromLong(is_recording().into()) }
}

/// `machine()`: a dict of what the machine offers, and what the library makes of it.
pub unsafe extern "C" fn machine(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let layout = REGISTRY.layout();
    let asked = std::env::var("INTERP_GUARD_COUNTERS").ok();
    let why = match (asked, platform::missing_for_per_cpu()) {
        (Some(asked), _) => format!("INTERP_GUARD_COUNTERS={asked}"),
        (None, None) => "the machine has all that per-CPU counting needs".to_owned(),
        (None, Some(missing)) => format!("for want of {missing}"),
    };
    let rseq = platform::rseq().map_or("not registered by the C library".to_owned(), |rseq| {
        format!("registered by the C library, {} bytes", rseq.size)
    });
    let counters = match layout.map(|layout| layout.counters) {
        Some(Counters::Shared) => "shared",
        Some(_) => "per-cpu",
        None => "not available",
    };
    let words = [(c"counters", counters), (c"counters_why", &*why), (c"rseq", &*rseq)];
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
