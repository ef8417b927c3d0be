//! The `atexit` callback of each interpreter: whether it is still there, and whether what calls it is the end.
//!
//! A program may run its callbacks itself (`atexit._run_exitfuncs()`), or drop them (`atexit._clear()`), and go on. CPython tells a
//! callback neither. So:
//!
//! - *Is it the end?* The end calls the callback with no Python frame below it, or when `threading` has noted its part of the
//!   shutdown, which comes first. A program that calls it itself has a frame, and `threading` knows of no shutdown.
//! - *Is it still there?* The callback owns a capsule, whose destructor runs when `atexit` drops it. A destructor cannot
//!   register it again, since `atexit` is clearing its list and would drop that too: it leaves a pending call, which does.
//!   Where the shutdown has begun already nobody would call the callback again, and the destructor does its work.
//!
//! `multiprocessing` clears the list in its children, from 3.13 on; that is no news to the program.

use super::{closing, state};
use crate::attach;
use crate::ground::helpers::{Methods, call, keeping_exception, no_arguments, none, say};
use crate::ground::python;
use crate::ground::registry::{self, REGISTRY};
use crate::inside::inside;
use interp_guard::{InterpreterId, Site};
use pyo3_ffi::{self as ffi, PyObject};
use std::collections::BTreeSet;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The name of the capsule that the callback owns. Its pointer is the interpreter's ID plus one.
const HOOK: &CStr = c"interp_guard.hook";

/// Whose hook is registered. Only attached threads lock it, and never call anything meanwhile.
static IN_PLACE: Mutex<BTreeSet<InterpreterId>> = Mutex::new(BTreeSet::new());

fn in_place() -> MutexGuard<'static, BTreeSet<InterpreterId>> {
    IN_PLACE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the callback been called when it was not the end, since it was registered? For what is said.
static CALLED_EARLY: AtomicBool = AtomicBool::new(false);

/// Registers the hook of `id` with the `atexit` module. False with an exception set.
///
/// # Safety
/// The caller is attached to `id`.
pub unsafe fn install(id: InterpreterId) -> bool {
    static METHOD: Methods<1> =
        Methods([no_arguments(c"_at_exit", at_exit, c"Closes and drains this interpreter.")]);
    // SAFETY: attached; every object is checked for null and given back. CPython does not write to a method definition.
    unsafe {
        let capsule = ffi::PyCapsule_New(registry::as_capsule(id), HOOK.as_ptr(), Some(dropped));
        let hook = match capsule.is_null() {
            true => null_mut(),
            false => ffi::PyCFunction_NewEx(METHOD.0.as_ptr().cast_mut(), capsule, null_mut()),
        };
        let atexit = ffi::PyImport_ImportModule(c"atexit".as_ptr());
        let done = match hook.is_null() || atexit.is_null() {
            true => null_mut(),
            false => ffi::PyObject_CallMethod(atexit, c"register".as_ptr(), c"O".as_ptr(), hook),
        };
        if !done.is_null() {
            in_place().insert(id);
        }
        for object in [capsule, hook, atexit, done] {
            ffi::Py_XDECREF(object);
        }
        !done.is_null()
    }
}

/// The hook. See `closing`.
unsafe extern "C" fn at_exit(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by Python, attached.
    unsafe {
        if ffi::PyEval_GetFrame().is_null() || is_shutting_down() {
            closing::close_and_drain();
        } else {
            CALLED_EARLY.store(true, Ordering::Relaxed); // read by a pending call of this interpreter's, later
            closing::wait_without_closing();
        }
        none()
    }
}

/// Calls a function of `interp_guard._atexit` that answers yes or no. An exception is shown, and means no; one that is set stays.
///
/// # Safety
/// Attached.
unsafe fn ask(function: &CStr) -> bool {
    let ask = || {
        // SAFETY: attached; the answer is checked for null and given back.
        unsafe {
            let answer = call(c"interp_guard._atexit", function);
            let yes = !answer.is_null() && ffi::PyObject_IsTrue(answer) == 1;
            if answer.is_null() {
                ffi::PyErr_WriteUnraisable(null_mut());
            }
            ffi::Py_XDECREF(answer);
            yes
        }
    };
    // SAFETY: attached.
    unsafe { keeping_exception(ask) }
}

/// Has `threading` begun to shut down, in the interpreter to which the caller is attached?
///
/// # Safety
/// Attached.
unsafe fn is_shutting_down() -> bool {
    // SAFETY: the caller's promise.
    unsafe { ask(c"is_shutting_down") }
}

fn is_live(id: InterpreterId) -> bool {
    !python::is_finalizing() && REGISTRY.lookup(id).is_ok()
}

/// What is called at the last moment.
static AT_THE_LAST: OnceLock<unsafe fn()> = OnceLock::new();

/// Has `call` called, attached, when the main interpreter ends and all of its `atexit` callbacks have run: CPython finalizes next.
pub fn at_the_last(call: unsafe fn()) {
    let _ = AT_THE_LAST.set(call); // there is one
}

/// The destructor: `atexit` has dropped the hook, which it does last of all at the end.
unsafe extern "C" fn dropped(capsule: *mut PyObject) {
    // SAFETY: called by CPython, attached, with the capsule that `install` made; the exception that may be set stays.
    unsafe {
        let pointer = ffi::PyCapsule_GetPointer(capsule, HOOK.as_ptr());
        let Some(id) = registry::in_capsule(pointer) else { return };
        in_place().remove(&id);
        close_or_restore(id, pointer);
        if let Some(call) = AT_THE_LAST.get()
            && !registry::is_sub(id)
            && state::main_is_ending()
        {
            keeping_exception(|| call());
        }
    }
}

/// Where it is not the end, or the hook has not run, it is dropped too early.
///
/// # Safety
/// Attached. An exception may be set, and stays.
unsafe fn close_or_restore(id: InterpreterId, pointer: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe {
        if !is_live(id) {
            return;
        }
        if is_shutting_down() {
            say(&format!(
                "the atexit callbacks were cleared while Python ends: interpreter {id} is closed here instead"
            ));
            return keeping_exception(|| closing::close_and_drain());
        }
        if ffi::Py_AddPendingCall(Some(restore), pointer) != 0 {
            say(&format!(
                "the atexit callbacks were cleared, and Python's queue of pending calls is full: the end of interpreter {id} \
                 waits for nobody"
            ));
        }
    }
}

/// The pending call.
extern "C" fn restore(pointer: *mut c_void) -> c_int {
    let Some(id) = registry::in_capsule(pointer) else { return 0 };
    // SAFETY: called by CPython, attached, with no exception set.
    unsafe {
        if registry::current().1 == Some(id) {
            put_back(id);
        } else {
            inside(attach::ensure_id(id, Site::default()), || put_back(id));
        }
    }
    0
}

/// Registers the hook again, and says why.
///
/// # Safety
/// Attached to `id`, with no exception set.
unsafe fn put_back(id: InterpreterId) {
    // SAFETY: attached.
    unsafe {
        let is_there = in_place().contains(&id);
        if is_there || !is_live(id) {
            return;
        }
        if !install(id) {
            return ffi::PyErr_WriteUnraisable(null_mut());
        }
        let early = CALLED_EARLY.swap(false, Ordering::Relaxed);
        if ask(c"is_in_multiprocessing") {
            return;
        }
        say(&match early {
            true => format!(
                "the program ran the atexit callbacks itself (atexit._run_exitfuncs), and Python goes on: interpreter {id} stays \
                 open, and its end will wait for guards as before"
            ),
            false => format!(
                "the program cleared the atexit callbacks (atexit._clear): the one that waits for the guards of interpreter \
                 {id} is registered again"
            ),
        });
    }
}

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

/// `end()`: what the hook does at the end, where nobody will call it.
pub unsafe extern "C" fn end(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    unsafe {
        closing::close_and_drain();
        none()
    }
}
