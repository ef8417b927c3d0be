//! `interp_guard.holders`: who holds the guards.

use crate::end::report::recorded;
use crate::ground::helpers::{none, number_in, text};
use crate::ground::registry::{self, REGISTRY};
use crate::ground::threads::Names;
use interp_guard::{Holder, InterpreterId};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::c_int;
use std::ptr::null_mut;

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

/// `holders(id)`: (outstanding, report, [(thread ID, name, ended, site, age, in a handler, by this thread)]), or None.
pub unsafe extern "C" fn holders(_: *mut PyObject, number: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached; every object is checked for null; `N` takes the list over.
    unsafe {
        let Some(id) = number_in(number) else { return null_mut() };
        let Some(holders) = InterpreterId::try_from(id).ok().and_then(|id| REGISTRY.holders(id)) else {
            return none();
        };
        let list = ffi::PyList_New(0);
        let names = Names::of_interpreter();
        if !ffi::PyErr_Occurred().is_null() {
            ffi::Py_XDECREF(list);
            return null_mut();
        }
        for holder in &holders {
            let row = row(holder, &names);
            let appended = !list.is_null() && !row.is_null() && ffi::PyList_Append(list, row) == 0;
            ffi::Py_XDECREF(row);
            if !appended {
                ffi::Py_XDECREF(list);
                return null_mut();
            }
        }
        let lines = recorded(&holders, &names, "this thread");
        let report = if lines.is_empty() { "  no guard is out" } else { lines.trim_start_matches('\n') };
        let report = text(report);
        ffi::Py_BuildValue(c"KsN".as_ptr(), holders.outstanding(), report.as_ptr(), list)
    }
}

/// # Safety
/// Attached.
unsafe fn row(holder: &Holder, names: &Names) -> *mut PyObject {
    let name = names.get(holder.thread_id).unwrap_or(&holder.thread_name);
    let (name, site) = (text(name), text(&holder.site.to_string()));
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
    let main = registry::main_id();
    let any = main.into_iter().chain(REGISTRY.ids()).find_map(|id| REGISTRY.holders(id));
    any.is_some_and(|holders| holders.is_recorded())
}

/// `is_recording()`.
pub unsafe extern "C" fn recording(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    unsafe { ffi::PyBool_FromLong(is_recording().into()) }
}
