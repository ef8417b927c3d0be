//! The process's one registry, and the IDs in it. How CPython's interpreters get there: `registering`.
//!
//! An ID is `epoch << 40 | PyInterpreterState_GetID`: CPython's own ID until the process initialises Python a second
//! time, when CPython begins again at 0. A `Py_AtExit` callback ends the epoch.

use interp_guard::{InterpreterId, Registry};
use pyo3_ffi::{self as ffi, PyInterpreterState, PyThreadState};
use std::ffi::{CStr, c_void};
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

/// A registered interpreter.
pub struct Interpreter {
    pub id: InterpreterId,
    pub state: *mut PyInterpreterState,
    /// See `keeper`; or null. Null too once the interpreter has ended, and its states with it.
    pub keeper: AtomicPtr<PyThreadState>,
}

// SAFETY: the pointers are handed out, never followed here; CPython's functions on them are callable from any thread.
unsafe impl Send for Interpreter {}
// SAFETY: as above.
unsafe impl Sync for Interpreter {}

/// The one of this process: `package::only_copy` refuses a second copy of this library.
pub static REGISTRY: Registry<Interpreter> = Registry::new();

const EPOCH_SHIFT: u32 = 40;

static EPOCH: AtomicI64 = AtomicI64::new(0);

/// The key in an interpreter's dict under which `registering` marks it as registered.
pub const MARK: &CStr = c"interp_guard.interpreter";

fn id_in_epoch(number: i64) -> Option<InterpreterId> {
    // Relaxed: changed only while no interpreter exists.
    InterpreterId::try_from(EPOCH.load(Ordering::Relaxed) << EPOCH_SHIFT | number).ok()
}

/// The ID that the main interpreter has or will have.
///
/// Context: any, async-signal-safe.
pub fn main_id() -> Option<InterpreterId> {
    id_in_epoch(0)
}

/// CPython's own ID of the interpreter.
pub fn number_of(id: InterpreterId) -> i64 {
    i64::from(id) & ((1 << EPOCH_SHIFT) - 1)
}

/// Is this the ID of a subinterpreter?
pub fn is_sub(id: InterpreterId) -> bool {
    number_of(id) != 0
}

/// An ID as a capsule's pointer, which may not be null.
pub fn as_capsule(id: InterpreterId) -> *mut c_void {
    without_provenance_mut(i64::from(id) as usize + 1)
}

/// The ID of [`as_capsule`].
pub fn in_capsule(pointer: *mut c_void) -> Option<InterpreterId> {
    InterpreterId::try_from(pointer as i64 - 1).ok()
}

/// The interpreters of this epoch that are registered, oldest first. What an earlier one has left, because somebody guards it
/// for ever, has ended.
pub fn ids() -> Vec<InterpreterId> {
    // Relaxed: changed only while no interpreter exists.
    let epoch = EPOCH.load(Ordering::Relaxed);
    REGISTRY.ids().into_iter().filter(|&id| i64::from(id) >> EPOCH_SHIFT == epoch).collect()
}

/// The ID of an interpreter, registered or not.
///
/// # Safety
/// `state` is an interpreter that exists.
pub unsafe fn id_of(state: *mut PyInterpreterState) -> Option<InterpreterId> {
    // SAFETY: the caller's promise.
    id_in_epoch(unsafe { ffi::PyInterpreterState_GetID(state) })
}

/// The interpreter that the calling thread is attached to, and its ID.
///
/// # Safety
/// The caller is attached.
pub unsafe fn current() -> (*mut PyInterpreterState, Option<InterpreterId>) {
    // SAFETY: the caller is attached, so there is an interpreter, and it exists.
    unsafe {
        let state = ffi::PyInterpreterState_Get();
        (state, id_of(state))
    }
}

/// The capsule that marks the interpreter that the caller is attached to as registered, borrowed; or null.
///
/// # Safety
/// The caller is attached.
pub unsafe fn registered() -> *mut ffi::PyObject {
    // SAFETY: attached; the dict is borrowed, and so is the item.
    unsafe {
        let dict = ffi::PyInterpreterState_GetDict(ffi::PyInterpreterState_Get());
        if dict.is_null() { null_mut() } else { ffi::PyDict_GetItemString(dict, MARK.as_ptr()) }
    }
}

/// Python is gone: the interpreters that come from now on have other IDs.
pub fn begin_epoch() {
    EPOCH.fetch_add(1, Ordering::Relaxed); // as in `id_in_epoch`
}

/// No interpreter.
pub const NONE: *mut PyInterpreterState = null_mut();
