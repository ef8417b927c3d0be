//! The process's one registry, and how CPython's interpreters get into it.
//!
//! An ID is `epoch << 40 | PyInterpreterState_GetID`: CPython's own ID until the process initialises Python a second
//! time, when CPython begins again at 0. A `Py_AtExit` callback ends the epoch.

use crate::threads::Names;
use crate::{fork, hook, keeper, on_close, report, residents, shutdown};
use interp_guard::{InterpreterId, RegisterError, Registry};
use pyo3_ffi::{self as ffi, PyInterpreterState, PyThreadState};
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, Ordering};

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

/// The table. One per process: `module::exec` refuses a second copy of this library.
pub static REGISTRY: Registry<Interpreter> = Registry::new();

const EPOCH_SHIFT: u32 = 40;

static EPOCH: AtomicI64 = AtomicI64::new(0);

/// Is this epoch's `Py_AtExit` callback registered?
static EPOCH_ENDS: AtomicBool = AtomicBool::new(false);

/// The key in an interpreter's dict under which it is marked as registered.
const MARK: &CStr = c"interp_guard.interpreter";

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
        let Some(too_late) = shutdown::too_late_for_hooks() else { return false };
        let is_main = Some(id) == main_id();
        fork::install_at_c_library();
        if is_main && !fork::install_at_python() || !hook::install(id) || !mark(state, id) {
            return false;
        }
        let keeper = AtomicPtr::new(if too_late { null_mut() } else { keeper::begin(state) });
        if let Err(refused) = REGISTRY.register_with_id(id, Interpreter { id, state, keeper }) {
            let why = match &refused {
                RegisterError::RegistryFull(_) => {
                    c"interp_guard: as many interpreters are registered as the table can hold".to_owned()
                }
                other => std::ffi::CString::new(format!("interp_guard: {other}")).unwrap_or_default(),
            };
            keeper::end(refused.into_inner());
            unmark(state);
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, why.as_ptr());
            return false;
        }
        if is_main {
            let _ = REGISTRY.set_main(id);
        }
        // Its hook will never run, or the main interpreter's has not seen it: it gives out no guards.
        if too_late || shutdown::main_is_ending() {
            drop(REGISTRY.close(id));
        }
        true
    }
}

/// Puts a capsule into the interpreter's dict, whose destructor retires an interpreter whose hook never ran.
///
/// # Safety
/// The caller is attached to `state`.
unsafe fn mark(state: *mut PyInterpreterState, id: InterpreterId) -> bool {
    // A capsule's pointer may not be null: the ID plus one.
    let number = std::ptr::without_provenance_mut(i64::from(id) as usize + 1);
    // SAFETY: attached; every object is checked, the dict is borrowed, the capsule's reference is given back.
    unsafe {
        let dict = ffi::PyInterpreterState_GetDict(state);
        let capsule = ffi::PyCapsule_New(number, MARK.as_ptr(), Some(interpreter_is_cleared));
        if capsule.is_null() {
            return false;
        }
        let failed = dict.is_null() || ffi::PyDict_SetItemString(dict, MARK.as_ptr(), capsule) != 0;
        ffi::Py_DecRef(capsule);
        if failed && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"this interpreter has no dict".as_ptr());
        }
        !failed
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
    let number = unsafe { ffi::PyCapsule_GetPointer(capsule, MARK.as_ptr()) } as usize;
    if let Ok(id) = InterpreterId::try_from(number as i64 - 1) {
        retire(id);
    }
}

/// Closes an interpreter that ends or has ended, and takes it out if nobody guards it. Never waits.
pub fn retire(id: InterpreterId) {
    on_close::forget(id);
    if let Ok(guard) = REGISTRY.lookup(id) {
        // Relaxed: whoever takes it out does so after this guard.
        guard.keeper.store(null_mut(), Ordering::Relaxed);
    }
    let Ok(closing) = REGISTRY.close(id) else { return };
    if let Err(left) = closing.drain(Some(std::time::Duration::ZERO))
        && !shutdown::has_gone_on()
    {
        let (out, lines) =
            (left.undrained().outstanding(), report::holder_lines(left.undrained(), &Names::said()));
        let out = report::still_out(id, out);
        shutdown::say(&format!("the interpreter ends, and nobody can wait any more: {out}{lines}"));
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
    shutdown::begin_epoch();
    residents::begin_epoch();
    EPOCH_ENDS.store(false, Ordering::Relaxed);
    EPOCH.fetch_add(1, Ordering::Relaxed);
}

/// No interpreter.
pub const NONE: *mut PyInterpreterState = null_mut();
