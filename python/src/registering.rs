// May import: end, fork, ground, keeper, shield.
//! How CPython's interpreters get into the registry, and what becomes of them when Python is gone.

use crate::end::retire::retire;
use crate::end::{closing, hook, residents, state};
use crate::ground::helpers::{keeping_exception, raise, runtime_error};
use crate::ground::python;
use crate::ground::registry::{
    self, Interpreter, MARK, REGISTRY, as_capsule, current, in_capsule, main_id, registered,
};
use crate::{fork, keeper, shield};
use interp_guard::{InterpreterId, RegisterError};
use pyo3_ffi::{self as ffi, PyInterpreterState};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Is this epoch's `Py_AtExit` callback registered?
static EPOCH_ENDS: AtomicBool = AtomicBool::new(false);

/// Registers the interpreter that the caller is attached to, unless it is already. False with an exception set.
///
/// # Safety
/// The caller is attached.
pub unsafe fn register() -> bool {
    // SAFETY: the caller is attached; every object is checked for null, and references are given back.
    unsafe {
        if !registered().is_null() {
            return true;
        }
        let (state, id) = current();
        let Some(id) = id else {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"this interpreter has no ID".as_ptr());
            return false;
        };
        if !end_epoch_at_exit() {
            return false;
        }
        // First what may fail and what runs Python code: what is left of it if this fails does no harm, a second time neither.
        // Other threads may do the same meanwhile, if they execute the module by hand: the one that marks the interpreter goes on.
        let Some(too_late) = closing::too_late_for_hooks() else { return false };
        let is_main = Some(id) == main_id();
        fork::install_at_c_library();
        match mark(state, id) {
            Marked::First => {}
            Marked::Already => return true,
            Marked::Failed => return false,
        }
        if is_main && !fork::install_at_python() || !hook::install(id) {
            keeping_exception(|| unmark(state));
            return false;
        }
        let keeper = AtomicPtr::new(if too_late { null_mut() } else { keeper::begin(state) });
        if let Err(refused) = REGISTRY.register_with_id(id, Interpreter { id, state, keeper }) {
            let why = match &refused {
                RegisterError::RegistryFull(_) => {
                    "as many interpreters are registered as the table can hold".to_owned()
                }
                other => other.to_string(),
            };
            keeper::end(refused.into_inner());
            unmark(state);
            raise(runtime_error(), &format!("interp_guard: {why}"));
            return false;
        }
        if is_main {
            let _ = REGISTRY.set_main(id);
        }
        // Its hook will never run, or the main interpreter's has not seen it: it gives out no guards.
        if too_late || state::main_is_ending() {
            drop(REGISTRY.close(id));
        }
        true
    }
}

/// What became of [`mark`].
enum Marked {
    First,
    /// By another thread, meanwhile.
    Already,
    /// With an exception set.
    Failed,
}

/// Puts a capsule into the interpreter's dict, whose destructor retires an interpreter whose hook never ran.
///
/// # Safety
/// The caller is attached to `state`.
unsafe fn mark(state: *mut PyInterpreterState, id: InterpreterId) -> Marked {
    // SAFETY: attached; every object is checked, dict and item are borrowed, the capsule's reference is given back.
    unsafe {
        let dict = ffi::PyInterpreterState_GetDict(state);
        let capsule = ffi::PyCapsule_New(as_capsule(id), MARK.as_ptr(), Some(interpreter_is_cleared));
        if capsule.is_null() {
            return Marked::Failed;
        }
        let kept = if dict.is_null() { null_mut() } else { python::first_in(dict, MARK, capsule) };
        if kept != capsule {
            ffi::PyCapsule_SetDestructor(capsule, None); // it goes, and the interpreter stays
        }
        ffi::Py_DecRef(capsule);
        if kept.is_null() && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"this interpreter has no dict".as_ptr());
        }
        match kept {
            _ if kept.is_null() => Marked::Failed,
            _ if kept == capsule => Marked::First,
            _ => Marked::Already,
        }
    }
}

/// Takes the mark away again.
///
/// # Safety
/// The caller is attached to `state`, with no exception set.
unsafe fn unmark(state: *mut PyInterpreterState) {
    // SAFETY: attached; the dict is borrowed.
    unsafe {
        let dict = ffi::PyInterpreterState_GetDict(state);
        if dict.is_null() || ffi::PyDict_DelItemString(dict, MARK.as_ptr()) != 0 {
            ffi::PyErr_Clear();
        }
    }
}

/// The interpreter's dict is being cleared: the end of that interpreter.
unsafe extern "C" fn interpreter_is_cleared(capsule: *mut ffi::PyObject) {
    // SAFETY: called by CPython with the capsule that `mark` made.
    let pointer = unsafe { ffi::PyCapsule_GetPointer(capsule, MARK.as_ptr()) };
    if let Some(id) = in_capsule(pointer) {
        retire(id);
    }
}

/// Makes sure that this epoch ends when Python does. False with an exception set.
///
/// # Safety
/// The caller is attached.
unsafe fn end_epoch_at_exit() -> bool {
    // Relaxed: one flag; the registry's mutex orders the rest.
    if EPOCH_ENDS.swap(true, Ordering::Relaxed) {
        return true;
    }
    // SAFETY: registers a plain function; the caller is attached.
    if unsafe { ffi::Py_AtExit(Some(end_epoch)) } == 0 {
        return true;
    }
    EPOCH_ENDS.store(false, Ordering::Relaxed);
    // SAFETY: the caller is attached.
    unsafe { ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"Py_AtExit has no room left".as_ptr()) };
    false
}

/// Python is gone. What is left of it is retired, and a Python that is initialised from now on has other IDs.
extern "C" fn end_epoch() {
    for id in REGISTRY.ids() {
        retire(id);
    }
    state::begin_epoch();
    fork::begin_epoch();
    residents::begin_epoch();
    shield::begin_epoch();
    EPOCH_ENDS.store(false, Ordering::Relaxed);
    registry::begin_epoch();
}
