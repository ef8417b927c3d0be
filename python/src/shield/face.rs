//! The functions under `interp_guard.shield`.

use super::functions::FUNCTIONS;
use super::{gate, last, redirect, report};
use crate::end::{closing, hook};
use crate::ground::helpers::{Methods, method, no_arguments, none, raise, runtime_error, text};
use crate::ground::{python, registry};
use pyo3_ffi::{self as ffi, PyMethodDef, PyObject};
use std::ffi::c_int;
use std::ptr::null_mut;
use std::time::Duration;

pub static METHODS: Methods<4> = Methods([
    method(c"shield_install", install, ffi::METH_VARARGS, c"shield_install(grace, report)."),
    no_arguments(c"shield_uninstall", uninstall, c"Puts back what was redirected."),
    no_arguments(
        c"shield_status",
        status,
        c"(installed, grace, functions, [(path, names, left)], came late).",
    ),
    PyMethodDef::zeroed(),
]);

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

unsafe extern "C" fn install(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut grace, mut reports): (f64, c_int) = (0.0, 0);
    // SAFETY: attached, with a tuple; what is written fits the format.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"dp".as_ptr(), &raw mut grace, &raw mut reports) } == 0 {
        return null_mut();
    }
    if cfg!(not(target_env = "gnu")) {
        return raise(runtime_error(), "the shield needs glibc");
    }
    // SAFETY: attached.
    let (_, id) = unsafe { registry::current() };
    if id.is_none() || id != registry::main_id() {
        return raise(runtime_error(), "the shield is installed from the main interpreter");
    }
    // SAFETY: attached, with no exception set.
    match unsafe { closing::too_late_for_hooks() } {
        None => return null_mut(),
        Some(true) => {
            // SAFETY: attached.
            let error = unsafe { python::finalization_error() };
            return raise(error, "Python ends: too late for a shield");
        }
        Some(false) => {}
    }
    last::set_grace(Duration::try_from_secs_f64(grace).unwrap_or(Duration::MAX));
    hook::at_the_last(last::moment);
    // SAFETY: attached to the main interpreter, which is not ending. The gate is open before anybody is sent
    // there.
    let installed = unsafe { gate::open().and_then(|()| redirect::install(&FUNCTIONS)) };
    if let Err(why) = installed {
        gate::stand_open();
        return raise(runtime_error(), &format!("the shield cannot be installed: {why}"));
    }
    if reports != 0 && !report::at_exit() {
        return raise(runtime_error(), "the shield cannot report: atexit has no room left");
    }
    none()
}

unsafe extern "C" fn uninstall(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    gate::stand_open();
    redirect::uninstall();
    none()
}

/// A list of strings. Null with an exception set.
///
/// # Safety
/// Attached.
unsafe fn strings<'a>(words: impl Iterator<Item = &'a str>) -> *mut PyObject {
    // SAFETY: attached; every object is checked for null and given back.
    unsafe {
        let list = ffi::PyList_New(0);
        for word in words {
            let word = ffi::PyUnicode_DecodeFSDefault(text(word).as_ptr());
            let failed = list.is_null() || word.is_null() || ffi::PyList_Append(list, word) != 0;
            ffi::Py_XDECREF(word);
            if failed {
                ffi::Py_XDECREF(list);
                return null_mut();
            }
        }
        list
    }
}

unsafe extern "C" fn status(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    redirect::what_was_loaded();
    let objects = redirect::objects();
    // SAFETY: attached; every object is checked for null and given back, or taken over by `N`, which takes null
    // for an error.
    unsafe {
        let rows = ffi::PyList_New(0);
        for object in &objects {
            let row = ffi::Py_BuildValue(
                c"NNN".as_ptr(),
                ffi::PyUnicode_DecodeFSDefault(text(&object.path).as_ptr()),
                strings(object.names.iter().copied()),
                strings(object.left.iter().map(String::as_str)),
            );
            let failed = rows.is_null() || row.is_null() || ffi::PyList_Append(rows, row) != 0;
            ffi::Py_XDECREF(row);
            if failed {
                ffi::Py_XDECREF(rows);
                return null_mut();
            }
        }
        ffi::Py_BuildValue(
            c"idNNK".as_ptr(),
            c_int::from(gate::is_kept()),
            last::grace().as_secs_f64(),
            strings(FUNCTIONS.iter().map(|function| function.name.to_str().unwrap_or_default())),
            rows,
            gate::came_late(),
        )
    }
}
