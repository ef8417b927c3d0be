// May import: c, end, ground, holding, shield, signals.
//! Forks: what a child finds.
//!
//! Two sets of hooks, which do different things and so may both run for one fork. The C library's (`pthread_atfork`) touch
//! only our table, in every fork: the child counts anew, with the guards of the forking thread's own levels and no others.
//! Python's (`os.register_at_fork`) run in `os.fork` alone. Up to 3.11 they keep other threads from being inside
//! `PyThreadState_New` while the process forks (`ground::creating`).

use crate::c::first_version;
use crate::end::{interrupt, on_close, residents};
use crate::ground::creating;
use crate::ground::helpers::{Methods, no_arguments, none, say};
use crate::ground::registry::REGISTRY;
use crate::ground::threads;
use crate::{holding, shield, signals};
use pyo3_ffi::{self as ffi, PyObject};
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// Has the main interpreter Python's hooks? Twice, they would wait for themselves.
static HAS_HOOKS: AtomicBool = AtomicBool::new(false);

/// Python is gone, its hooks with it.
pub fn begin_epoch() {
    // Relaxed: no Python thread exists that could see it otherwise.
    HAS_HOOKS.store(false, Ordering::Relaxed);
}

/// Installs the C library's.
pub fn install_at_c_library() {
    static C_LIBRARY: Once = Once::new();
    C_LIBRARY.call_once(|| {
        // SAFETY: three functions that stay as long as the process: Python never unloads an extension.
        let failed = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        if failed != 0 {
            say("no memory for pthread_atfork: a forked child will wait for guards of its parent's threads");
        }
    });
}

/// Installs Python's, for the main interpreter. False with an exception set.
///
/// # Safety
/// The caller is attached to the main interpreter.
pub unsafe fn install_at_python() -> bool {
    // Relaxed: whoever registers the main interpreter is alone (`registering`).
    if HAS_HOOKS.load(Ordering::Relaxed) {
        return true;
    }
    static HOOKS: Methods<3> = Methods([
        no_arguments(c"_before_fork", before, c"Keeps threads from making thread states."),
        no_arguments(c"_after_fork", after, c"Lets them."),
        no_arguments(c"_after_fork_child", after_in_child, c"Lets them, and starts our thread anew."),
    ]);
    // SAFETY: attached; objects are checked for null and given back; CPython only reads method definitions.
    unsafe {
        let os = ffi::PyImport_ImportModule(c"os".as_ptr());
        if os.is_null() {
            return false;
        }
        let register = ffi::PyObject_GetAttrString(os, c"register_at_fork".as_ptr());
        ffi::Py_DecRef(os);
        let hook =
            |at: usize| ffi::PyCFunction_NewEx((&raw const HOOKS.0[at]).cast_mut(), null_mut(), null_mut());
        let (none, hooks) = (ffi::PyTuple_New(0), [hook(0), hook(1), hook(2)]);
        let named = ffi::Py_BuildValue(
            c"{s:N,s:N,s:N}".as_ptr(), // takes the hooks over
            c"before".as_ptr(),
            hooks[0],
            c"after_in_parent".as_ptr(),
            hooks[1],
            c"after_in_child".as_ptr(),
            hooks[2],
        );
        let done = match register.is_null() || none.is_null() || named.is_null() {
            true => null_mut(),
            false => ffi::PyObject_Call(register, none, named),
        };
        for object in [register, none, named, done] {
            ffi::Py_XDECREF(object);
        }
        HAS_HOOKS.store(!done.is_null(), Ordering::Relaxed);
        !done.is_null()
    }
}

extern "C" fn prepare() {
    REGISTRY.before_fork();
    shield::before_fork();
}

extern "C" fn parent() {
    shield::after_fork_parent();
    REGISTRY.after_fork_parent();
}

extern "C" fn child() {
    // SAFETY: called by fork in the child, on its only thread, which called `before_fork`. Guards that are not kept are not
    // dereferenced: `GuardWord::borrow` refuses them, and no level of another thread is ever looked at again.
    unsafe {
        shield::after_fork_child();
        REGISTRY.after_fork_child(&mut []);
    }
    first_version::after_fork_child();
    holding::after_fork_child();
    on_close::after_fork_child(true);
    interrupt::after_fork_child();
    threads::after_fork_child();
}

unsafe extern "C" fn before(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if REGISTRY.len() > 1 && !WARNED.swap(true, Ordering::Relaxed) {
        say("os.fork with live subinterpreters: CPython's child hangs or crashes, on every version");
    }
    creating::before_fork();
    none()
}

unsafe extern "C" fn after(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    creating::after_fork();
    none()
}

unsafe extern "C" fn after_in_child(module: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    on_close::after_fork_child(false);
    signals::after_fork_child();
    residents::after_fork_child();
    // SAFETY: the caller's promise.
    let done = unsafe { after(module, arguments) };
    // SAFETY: attached.
    unsafe { arrange_for_multiprocessing() };
    done
}

/// A child of `multiprocessing` has to be told, if it is one. `interp_guard._multiprocessing` is there if the package is.
///
/// # Safety
/// Attached, with no exception set.
unsafe fn arrange_for_multiprocessing() {
    // SAFETY: attached; the dict and the module are borrowed, null is checked for, and what is new is given back.
    unsafe {
        let modules = ffi::PyImport_GetModuleDict();
        let ours = ffi::PyDict_GetItemString(modules, c"interp_guard._multiprocessing".as_ptr());
        if ours.is_null() {
            return;
        }
        let done = ffi::PyObject_CallMethod(ours, c"arrange".as_ptr(), std::ptr::null());
        if done.is_null() {
            ffi::PyErr_WriteUnraisable(ours);
        }
        ffi::Py_XDECREF(done);
    }
}
