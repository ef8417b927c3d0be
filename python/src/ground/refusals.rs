//! What is raised where an interpreter gives out no guard: `interp_guard.Refused`, and its two kinds.
//!
//! The classes are made when an interpreter first imports the package, and are kept in its dict. They are not looked up
//! again: C code asks for guards also while modules are torn down, when no import works any more.

use crate::ground::python;
use crate::ground::registry;
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::CStr;
use std::ptr::null_mut;

/// The key in an interpreter's dict under which the classes are, as a tuple.
const CLASSES: &CStr = c"interp_guard.refusals";

/// The names in the package, in the order of the tuple.
const NAMES: [&CStr; 3] = [c"Refused", c"InterpreterFinalizing", c"InterpreterNotFound"];
const FINALIZING: isize = 1;

/// Makes the classes, unless this interpreter has them, and adds them to the module. False with an exception set.
///
/// # Safety
/// Attached; `module` is a module.
pub unsafe fn add(module: *mut PyObject) -> bool {
    // SAFETY: attached; the dict and the tuple's items are borrowed; AddObject takes a reference if it succeeds.
    unsafe {
        let mut classes = kept();
        if classes.is_null() {
            let dict = ffi::PyInterpreterState_GetDict(ffi::PyInterpreterState_Get());
            let made = make();
            if made.is_null() {
                return false;
            }
            // Never replaced, so that what is borrowed stays.
            classes = if dict.is_null() { null_mut() } else { python::first_in(dict, CLASSES, made) };
            ffi::Py_DecRef(made); // the dict has it
            if classes.is_null() {
                if ffi::PyErr_Occurred().is_null() {
                    ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"this interpreter has no dict".as_ptr());
                }
                return false;
            }
        }
        NAMES.iter().zip(0..).all(|(name, at)| {
            let class = ffi::PyTuple_GetItem(classes, at);
            if class.is_null() {
                return false;
            }
            ffi::Py_IncRef(class);
            let added = ffi::PyModule_AddObject(module, name.as_ptr(), class) == 0;
            if !added {
                ffi::Py_DecRef(class);
            }
            added
        })
    }
}

/// The tuple, borrowed; or null.
///
/// # Safety
/// Attached.
unsafe fn kept() -> *mut PyObject {
    // SAFETY: attached; the dict is borrowed, and so is the item.
    unsafe {
        let dict = ffi::PyInterpreterState_GetDict(ffi::PyInterpreterState_Get());
        if dict.is_null() { null_mut() } else { ffi::PyDict_GetItemString(dict, CLASSES.as_ptr()) }
    }
}

/// The tuple of the three, anew. Null with an exception set.
///
/// # Safety
/// Attached.
unsafe fn make() -> *mut PyObject {
    // SAFETY: attached; every object is checked for null and given back; `N` takes the classes over.
    unsafe {
        let class = |name: &CStr, doc: &CStr, bases: *mut PyObject| match bases.is_null() {
            true => null_mut(),
            false => ffi::PyErr_NewExceptionWithDoc(name.as_ptr(), doc.as_ptr(), bases, null_mut()),
        };
        let refused = class(
            c"interp_guard.Refused",
            c"The interpreter gives out no guard: it is finalizing, or gone, or was never known.",
            ffi::PyExc_Exception,
        );
        let child = |name: &CStr, doc: &CStr, other: *mut PyObject| {
            let bases = match refused.is_null() {
                true => null_mut(),
                false => ffi::Py_BuildValue(c"OO".as_ptr(), refused, other),
            };
            let child = class(name, doc, bases);
            ffi::Py_XDECREF(bases);
            child
        };
        let finalizing = child(
            c"interp_guard.InterpreterFinalizing",
            c"The interpreter is finalizing and gives out no more guards.",
            python::finalization_error(),
        );
        let not_found = child(
            c"interp_guard.InterpreterNotFound",
            c"No interpreter has this ID: nobody imported interp_guard in it, or it has finalized.",
            ffi::PyExc_LookupError,
        );
        if refused.is_null() || finalizing.is_null() || not_found.is_null() {
            for class in [refused, finalizing, not_found] {
                ffi::Py_XDECREF(class);
            }
            return null_mut();
        }
        ffi::Py_BuildValue(c"NNN".as_ptr(), refused, finalizing, not_found)
    }
}

/// Sets the exception that says that the current interpreter gives out no guards.
///
/// # Safety
/// The caller is attached.
pub unsafe fn set_no_guard() {
    // SAFETY: attached; the tuple and its item are borrowed.
    unsafe {
        if registry::registered().is_null() {
            let text = c"this interpreter is not registered: import interp_guard in it first";
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, text.as_ptr());
            return;
        }
        let classes = kept();
        let class = match classes.is_null() {
            true => null_mut(),
            false => ffi::PyTuple_GetItem(classes, FINALIZING),
        };
        let class = if class.is_null() { python::finalization_error() } else { class };
        ffi::PyErr_SetString(class, c"the interpreter is finalizing and gives out no more guards".as_ptr());
    }
}
