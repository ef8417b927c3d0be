//! CPython 3.13: one thread state that keeps a subinterpreter from ever having none.
//!
//! The first state of an interpreter that has none is not allocated: it is the interpreter's built-in one. 3.13.0 gives
//! that back, when it was the last, in two steps: off the list under a lock, then reset without it. A thread that makes
//! a state in between finds it in use, and CPython ends the process ("thread state already initialized"). Subinterpreters
//! of the `_interpreters` module have no state while nothing runs in them, so that two native threads meet this soon. With
//! one more state, which nobody uses, the list is never empty.
//!
//! `Py_EndInterpreter` counts the states, and the end of the main interpreter frees the first one of each that is left. So
//! whoever drains the interpreter, and is handed it back, deletes this one.

use crate::attach;
use crate::ground::python::{self, PyThreadState_GetInterpreter};
use crate::ground::registry::{Interpreter, REGISTRY};
use interp_guard::InterpreterId;
use interp_guard::bindings::RegistryExt as _;
use pyo3_ffi::{self as ffi, PyInterpreterState, PyThreadState};
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

/// Makes the state, where it is needed; else, or without memory, null.
///
/// # Safety
/// The caller is attached to `interpreter`, which will be drained before it ends.
pub unsafe fn begin(interpreter: *mut PyInterpreterState) -> *mut PyThreadState {
    // SAFETY: attached.
    let is_sub = unsafe { ffi::PyInterpreterState_GetID(interpreter) } != 0;
    if is_sub && python::minor_version() == 13 {
        // SAFETY: the interpreter exists.
        unsafe { ffi::PyThreadState_New(interpreter) }
    } else {
        null_mut()
    }
}

/// Deletes the state of an interpreter that was drained, if there is one.
///
/// Context: normal; attached or not. The main interpreter is not finalizing.
pub fn end(drained: Interpreter) {
    delete(drained.keeper.into_inner(), drained.state);
}

/// The same of one that is going to end although guards of it are out.
///
/// # Safety As for [`end`]; and a guard of `id` is out, or the caller has its `Closing`: nobody else takes the
/// interpreter out meanwhile.
pub unsafe fn end_undrained(id: InterpreterId) {
    let Some(parts) = REGISTRY.parts_of(id) else { return };
    // SAFETY: the interpreter stays in its slot, by the caller's promise; never dropped, so that nothing is given up.
    let interpreter = ManuallyDrop::new(unsafe { REGISTRY.guard_from_parts(parts) });
    // Relaxed: whoever is told that there is none has nothing to do with it.
    delete(interpreter.keeper.swap(null_mut(), Ordering::Relaxed), interpreter.state);
}

/// Clears and deletes the state, if there is one.
fn delete(keeper: *mut PyThreadState, state: *mut PyInterpreterState) {
    if keeper.is_null() {
        return;
    }
    let current = attach::attached();
    // SAFETY: `begin` made the state and nobody else has it. Clearing and deleting a detached state is allowed to whoever is
    // attached to its interpreter; anybody else attaches it for that. `current` is null or attached here.
    unsafe {
        if !current.is_null() && PyThreadState_GetInterpreter(current) == state {
            ffi::PyThreadState_Clear(keeper);
            ffi::PyThreadState_Delete(keeper);
            return;
        }
        if !current.is_null() {
            ffi::PyEval_SaveThread();
        }
        ffi::PyEval_RestoreThread(keeper);
        ffi::PyThreadState_Clear(keeper);
        python::PyThreadState_DeleteCurrent();
        if !current.is_null() {
            ffi::PyEval_RestoreThread(current);
        }
    }
}
