//! What is called when an interpreter closes: `interp_guard.on_close`, and `InterpGuard_OnClose` of `pep788.h`.
//!
//! A function that waits for something (an event loop, a pool) is told here that the end has come, before the end waits for its
//! guard. The thread that closes calls it, when no lookup succeeds any more and before it waits, attached to the interpreter
//! that closes. That may be another one than it is attached to: then it takes a guard before it closes, and ensures with that.
//! The latest is called first, whichever of the two has registered it, and each once.
//!
//! A callable stays in its interpreter, under a number that `interp_guard._on_close` gives it.

use crate::attach::{self, InterpreterGuard};
use crate::ground::helpers::{none, number_in, say};
use crate::ground::registry::{self, Interpreter, REGISTRY};
use crate::ground::status::status_of;
use crate::inside::{here, inside};
use interp_guard::{CloseError, Closing, InterpreterId, LookupError, Site};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::{c_int, c_longlong, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What `InterpGuard_OnClose` is given.
pub type Native = unsafe extern "C" fn(i64, *mut c_void);

enum Call {
    Native(Native, *mut c_void),
    /// The callable that `interp_guard._on_close` of the interpreter has under this number.
    Python(i64),
}

// SAFETY: the pointer is handed on, to a function that the header says may be called on any thread; never followed here.
unsafe impl Send for Call {}

/// Oldest first. Only attached threads lock it, and never call anything meanwhile: no `os.fork` finds it locked.
static CALLS: Mutex<Vec<(InterpreterId, Call)>> = Mutex::new(Vec::new());

/// Is this the child of a fork of which Python knows nothing? It cannot be entered there.
static IS_RAW_CHILD: AtomicBool = AtomicBool::new(false);

/// By the C library's hook in any child, then by Python's in that of an `os.fork`.
pub fn after_fork_child(raw: bool) {
    IS_RAW_CHILD.store(raw, Ordering::Relaxed); // the only thread there is
}

fn calls() -> MutexGuard<'static, Vec<(InterpreterId, Call)>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `call` called when `id` closes. Whoever closes it meanwhile either finds it in the list, or was first: then it is refused.
///
/// Context: attached.
fn add(id: InterpreterId, call: Call) -> Result<(), LookupError> {
    let mut calls = calls();
    let live = REGISTRY.lookup(id)?;
    calls.push((id, call));
    drop(calls);
    drop(live);
    Ok(())
}

/// The same for `InterpGuard_OnClose`.
pub fn add_native(id: InterpreterId, call: Native, data: *mut c_void) -> Result<(), LookupError> {
    add(id, Call::Native(call, data))
}

/// The interpreter has ended without having been closed first: nobody can be called any more.
pub fn forget(id: InterpreterId) {
    calls().retain(|(of, _)| *of != id);
}

/// Closes an interpreter. [`tell`] is to follow, with the guard, before anybody waits.
pub fn close(
    id: InterpreterId,
) -> Result<(Closing<'static, Interpreter>, Option<InterpreterGuard>), CloseError> {
    let guard = REGISTRY.lookup(id).ok();
    Ok((REGISTRY.close(id)?, guard))
}

/// Calls who wanted to know that `id` closes, and gives the guard up.
///
/// Context: normal; attached or not.
pub fn tell(id: InterpreterId, guard: Option<InterpreterGuard>) {
    // Relaxed: stored by this thread, if at all.
    if IS_RAW_CHILD.load(Ordering::Relaxed) || calls().iter().all(|(of, _)| *of != id) {
        return;
    }
    if here() == Some(id) {
        drop(guard);
        call_all(id);
    } else if guard.and_then(|guard| inside(attach::enter(guard, Site::default()), || call_all(id))).is_none()
    {
        say(&format!("what wanted to know that interpreter {id} closes could not be called"));
    }
}

/// Calls them, the latest first, also those that come meanwhile. This thread is attached to `id`.
fn call_all(id: InterpreterId) {
    loop {
        let call = {
            let mut calls = calls();
            let Some(at) = calls.iter().rposition(|(of, _)| *of == id) else { return };
            calls.remove(at).1
        };
        match call {
            // SAFETY: attached to the interpreter, as the header promises to whoever registered it; taken out, so that it is
            // called once.
            Call::Native(call, data) => unsafe {
                call(id.into(), data);
                if !ffi::PyErr_Occurred().is_null() {
                    ffi::PyErr_WriteUnraisable(null_mut());
                }
            },
            // SAFETY: attached.
            Call::Python(number) => unsafe { call_python(number) },
        }
    }
}

/// # Safety
/// Attached.
unsafe fn call_python(number: i64) {
    // SAFETY: attached; objects are checked for null and given back.
    unsafe {
        let module = ffi::PyImport_ImportModule(c"interp_guard._on_close".as_ptr());
        let done = match module.is_null() {
            true => null_mut(),
            false => ffi::PyObject_CallMethod(module, c"_call".as_ptr(), c"L".as_ptr(), number as c_longlong),
        };
        if done.is_null() {
            ffi::PyErr_WriteUnraisable(null_mut());
        }
        ffi::Py_XDECREF(done);
        ffi::Py_XDECREF(module);
    }
}

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

/// `on_close(number)`: has the callable of this number called when the calling interpreter closes. None, or a status.
pub unsafe extern "C" fn on_close(_: *mut PyObject, number: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached; the format fits the argument.
    unsafe {
        let Some(number) = number_in(number) else { return null_mut() };
        let (_, id) = registry::current();
        match id.ok_or(LookupError::NotFound).and_then(|id| add(id, Call::Python(number))) {
            Ok(()) => none(),
            Err(refused) => ffi::Py_BuildValue(c"i".as_ptr(), status_of(refused)),
        }
    }
}

/// `forget_on_close(number)`: was it waiting to be called? It is not any more.
pub unsafe extern "C" fn forget_on_close(_: *mut PyObject, number: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    unsafe {
        let Some(number) = number_in(number) else { return null_mut() };
        let mut calls = calls();
        let before = calls.len();
        calls.retain(|(_, call)| !matches!(call, Call::Python(kept) if *kept == number));
        let forgotten = calls.len() < before;
        drop(calls);
        ffi::PyBool_FromLong(c_int::from(forgotten).into())
    }
}
