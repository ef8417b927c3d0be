//! Guards as Python objects: capsules, under `interp_guard.Guard`.

use crate::end::residents;
use crate::ground::helpers::{integer, none, site_from};
use crate::ground::python;
use crate::ground::registry::{Interpreter, REGISTRY};
use crate::ground::status::status_of;
use crate::ground::threads;
use crate::ground::word::{GuardWord, Held};
use interp_guard::{Guard, InterpreterId, LookupError, Site};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};

/// The name of a capsule that has a guard. Its pointer is the guard's word; it has a destructor as long as it has the guard.
const GUARD: &CStr = c"interp_guard.guard";

/// A capsule that has the guard, and gives it up when it goes: no exception that a signal handler raises can lose it in between.
/// Null with an exception set.
fn capsule_of(guard: Guard<'static, Interpreter>) -> *mut PyObject {
    let guard = Held::new(guard);
    let word = std::ptr::without_provenance_mut(guard.bits() as usize);
    // SAFETY: the callers are attached; a word is never 0.
    let capsule = unsafe { ffi::PyCapsule_New(word, GUARD.as_ptr(), Some(give_up)) };
    if !capsule.is_null() {
        guard.leave();
    }
    capsule
}

/// The word in a capsule that has a guard. `None` with an exception set.
///
/// # Safety
/// Attached; `capsule` is an object.
unsafe fn word_in(capsule: *mut PyObject) -> Option<GuardWord> {
    // SAFETY: the caller's promise; null if it is no such capsule.
    let word = unsafe { ffi::PyCapsule_GetPointer(capsule, GUARD.as_ptr()) };
    GuardWord::from_bits(word as u64)
}

/// The destructor.
unsafe extern "C" fn give_up(capsule: *mut PyObject) {
    // SAFETY: attached, with a capsule of `capsule_of` that has its guard still; it is on its way out, so this is done once.
    unsafe { word_in(capsule).map(|word| drop(word.into_guard())) };
}

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

pub unsafe extern "C" fn acquire(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut id, mut site): (i64, *const c_char) = (0, null());
    // SAFETY: attached, with a tuple; what is written fits the format.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"Lz".as_ptr(), &raw mut id, &raw mut site) } == 0 {
        return null_mut();
    }
    // SAFETY: null or terminated, and alive as the arguments are.
    let (site, records) = unsafe { (site_from(site), !site.is_null()) };
    let guard = InterpreterId::try_from(id).map_err(|_| LookupError::NotFound);
    match guard.and_then(|id| REGISTRY.lookup_at(id, site)) {
        Ok(guard) => {
            // SAFETY: attached, with no exception set.
            unsafe { note(guard.id, site, records) };
            capsule_of(guard)
        }
        Err(refused) => integer(status_of(refused).into()),
    }
}

/// The calling thread takes a guard: notes who it is, where a report might want to know. `records`: the ledger is on.
///
/// # Safety
/// Attached, with no exception set.
unsafe fn note(id: InterpreterId, site: Site, records: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        residents::note(id, site);
        if records {
            threads::say_own_name();
        }
    }
}

pub unsafe extern "C" fn release(_: *mut PyObject, capsule: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached, with an object; nobody else is here with it, so that whoever takes the destructor away does this once.
    unsafe {
        let Some(word) = word_in(capsule) else { return null_mut() };
        python::alone_with(capsule, || {
            if ffi::PyCapsule_GetDestructor(capsule).is_some() {
                ffi::PyCapsule_SetDestructor(capsule, None);
                drop(word.into_guard());
            }
        });
    }
    none()
}

pub unsafe extern "C" fn duplicate(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut capsule, mut site): (*mut PyObject, *const c_char) = (null_mut(), null());
    // SAFETY: attached, with a tuple; what is written fits the format.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"Oz".as_ptr(), &raw mut capsule, &raw mut site) } == 0 {
        return null_mut();
    }
    // SAFETY: an object, borrowed from the arguments.
    let Some(word) = (unsafe { word_in(capsule) }) else { return null_mut() };
    // SAFETY: null or terminated, and alive as the arguments are.
    let (site, records) = unsafe { (site_from(site), !site.is_null()) };
    // SAFETY: attached, with an object. With its destructor the capsule has the guard, and has it until this is over: nobody else is
    // here with it.
    let another = unsafe {
        python::alone_with(capsule, || {
            let guard = ffi::PyCapsule_GetDestructor(capsule).and_then(|_| word.borrow());
            guard.map(|guard| guard.clone_at(site))
        })
    };
    match another {
        Some(another) => {
            // From here on Python code may run, and close the one that was duplicated.
            // SAFETY: attached, with no exception set.
            unsafe { note(another.id, site, records) };
            capsule_of(another)
        }
        None => {
            let text =
                c"this guard is closed, or was taken before a fork and protects nothing in this process";
            // SAFETY: attached.
            unsafe { ffi::PyErr_SetString(ffi::PyExc_ValueError, text.as_ptr()) };
            null_mut()
        }
    }
}
