//! Small helpers: what is said, what is done with the GIL, Python objects, and the handler of a signal.

use interp_guard::Site;
use pyo3_ffi::{self as ffi, PyMethodDef, PyMethodDefPointer, PyObject};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Write;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, PoisonError};

/// Writes one line to standard error, which may be closed.
#[cold]
#[inline(never)]
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "interp_guard: {line}");
}

/// Runs `f` with the GIL released.
pub fn detached<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the callers are attached.
    let state = unsafe { ffi::PyEval_SaveThread() };
    let result = f();
    // SAFETY: saved above, by this thread.
    unsafe { ffi::PyEval_RestoreThread(state) };
    result
}

/// A handler that Python code has set runs as it would, and so does what `Py_AddPendingCall` left: the thread that waits
/// may be the only one that runs either. What they raise is shown, and the waiting goes on.
pub fn run_signal_handlers() {
    // SAFETY: attached.
    unsafe {
        if ffi::Py_MakePendingCalls() != 0 {
            ffi::PyErr_WriteUnraisable(null_mut());
        }
    }
}

/// Runs `f` with no exception set, and then sets again what was.
///
/// # Safety
/// Attached. An exception that `f` leaves set is dropped.
#[allow(deprecated)] // the functions of 3.9
pub unsafe fn keeping_exception<R>(f: impl FnOnce() -> R) -> R {
    let [mut kind, mut value, mut trace] = [null_mut(); 3];
    // SAFETY: attached.
    unsafe { ffi::PyErr_Fetch(&mut kind, &mut value, &mut trace) };
    let result = f();
    // SAFETY: attached; what was fetched.
    unsafe { ffi::PyErr_Restore(kind, value, trace) };
    result
}

/// Imports a module and calls a function of it. A new reference; null with an exception set.
///
/// # Safety
/// Attached.
pub unsafe fn call(module: &CStr, function: &CStr) -> *mut PyObject {
    // SAFETY: attached; terminated strings; the module is checked for null and given back.
    unsafe {
        let module = ffi::PyImport_ImportModule(module.as_ptr());
        if module.is_null() {
            return null_mut();
        }
        let answer = ffi::PyObject_CallMethod(module, function.as_ptr(), null());
        ffi::Py_DecRef(module);
        answer
    }
}

/// For the C interface, whose strings end at a zero.
pub fn text(words: &str) -> CString {
    CString::new(words.replace('\0', " ")).unwrap_or_default()
}

/// Sets an exception. Null, for whoever returns that. To be called attached.
pub fn raise(kind: *mut PyObject, why: &str) -> *mut PyObject {
    let why = text(why);
    // SAFETY: the callers are attached.
    unsafe { ffi::PyErr_SetString(kind, why.as_ptr()) };
    null_mut()
}

/// `RuntimeError`, for [`raise`].
pub fn runtime_error() -> *mut PyObject {
    // SAFETY: a static class, there since before this library was loaded.
    unsafe { ffi::PyExc_RuntimeError }
}

/// A new reference to `None`. To be called attached.
pub fn none() -> *mut PyObject {
    // SAFETY: None is always there; the caller of a method gets a reference.
    unsafe {
        let none = ffi::Py_None();
        ffi::Py_IncRef(none);
        none
    }
}

/// A new integer. To be called attached.
pub fn integer(number: i64) -> *mut PyObject {
    // SAFETY: the callers are attached.
    unsafe { ffi::PyLong_FromLongLong(number) }
}

/// An integer's number. `None` with an exception set.
///
/// # Safety
/// Attached; `object` is an object.
pub unsafe fn number_in(object: *mut PyObject) -> Option<i64> {
    // SAFETY: the caller's promise.
    unsafe {
        let number = ffi::PyLong_AsLongLong(object);
        (number != -1 || ffi::PyErr_Occurred().is_null()).then_some(number)
    }
}

/// What is installed for a signal.
pub fn installed(signum: c_int) -> libc::sigaction {
    // SAFETY: a sigaction is plain data; zero is a valid one to write over.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks; `action` is writable.
    unsafe { libc::sigaction(signum, null(), &mut action) };
    action
}

/// Where the library or executable with the code at this address begins.
pub fn object_of(address: usize) -> Option<usize> {
    // SAFETY: plain data; zero is a valid value to write over.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: takes any address, and only compares it; `found` is writable.
    let known = unsafe { libc::dladdr(std::ptr::without_provenance(address), &mut found) };
    (known != 0).then_some(found.dli_fbase as usize)
}

/// Method definitions; CPython only reads them.
pub struct Methods<const N: usize>(pub [PyMethodDef; N]);

// SAFETY: constant data: static strings, a function's address, flags.
unsafe impl<const N: usize> Sync for Methods<N> {}

type Method = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;

pub const fn method(name: &'static CStr, call: Method, flags: c_int, doc: &'static CStr) -> PyMethodDef {
    PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunction: call },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

pub const fn no_arguments(name: &'static CStr, call: Method, doc: &'static CStr) -> PyMethodDef {
    method(name, call, ffi::METH_NOARGS, doc)
}

/// The site that Python code gave as text, or null.
///
/// Each text is kept once, for good: there are as many as places in the program that take guards.
///
/// # Safety
/// Null or terminated.
pub unsafe fn site_from(text: *const c_char) -> Site {
    static KEPT: Mutex<BTreeMap<&str, &&str>> = Mutex::new(BTreeMap::new());
    if text.is_null() {
        return Site::default();
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = kept.get(&*text) {
        return Site::named(name);
    }
    let name: &'static &'static str = Box::leak(Box::new(&*text.into_owned().leak()));
    kept.insert(name, name);
    Site::named(name)
}

/// Runs `body` with the thread's error number left as it was.
#[inline(always)]
pub fn keeping_errno<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let result = body();
    // SAFETY: as above.
    unsafe { *errno = before };
    result
}
