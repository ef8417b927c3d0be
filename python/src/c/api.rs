//! The function table behind `pep788.h`, which an extension finds in the capsule `interp_guard._C_API`.
//!
//! One static table per process, the same for every interpreter and extension. Fields are only ever appended; `size`
//! tells an extension how many there are. The header says for each function where it may run.

use super::call_site::with_call_site;
use super::first_version;
use super::pointers::{GuardPointer, ViewPointer, as_pointer, borrow, view_of};
use crate::attach::{self, Level};
use crate::end::{drain, on_close};
use crate::ground::refusals::set_no_guard;
use crate::ground::registry::{self, REGISTRY};
use crate::ground::status::{self, status_of};
use crate::ground::word::{GuardWord, ViewWord};
use interp_guard::bindings::RegistryExt as _;
use interp_guard::raw::{NotAtHome, OverRelease};
use interp_guard::thread_state::ReleaseError;
use interp_guard::{InterpreterId, Site};
use pyo3_ffi::{self as ffi, PyInterpreterState};
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;

/// `PyThreadStateToken *`: a [`Level`] dressed as a pointer; or null.
type TokenPointer = *mut c_void;

/// `InterpGuard`: zeroed, it guards nothing.
#[repr(C)]
pub struct InterpGuard {
    word: u64,
    id: i64,
    reserved: [u64; 2],
}

const ABI: u32 = 1;

/// `struct InterpGuard_API` in the header.
#[repr(C)]
pub struct Table {
    abi: u32,
    size: u32,
    guard_from_current: unsafe extern "C" fn() -> GuardPointer,
    guard_from_view: unsafe extern "C" fn(ViewPointer) -> GuardPointer,
    guard_close: unsafe extern "C" fn(GuardPointer),
    view_from_current: unsafe extern "C" fn() -> ViewPointer,
    view_from_main: unsafe extern "C" fn() -> ViewPointer,
    view_close: unsafe extern "C" fn(ViewPointer),
    ensure: unsafe extern "C" fn(GuardPointer) -> TokenPointer,
    ensure_from_view: unsafe extern "C" fn(ViewPointer) -> TokenPointer,
    release: unsafe extern "C" fn(TokenPointer),
    lookup: unsafe extern "C" fn(i64, *mut InterpGuard) -> c_int,
    dup: unsafe extern "C" fn(*const InterpGuard, *mut InterpGuard) -> c_int,
    close: unsafe extern "C" fn(*mut InterpGuard) -> c_int,
    interpreter: unsafe extern "C" fn(*const InterpGuard) -> *mut PyInterpreterState,
    id: unsafe extern "C" fn(*const InterpGuard) -> i64,
    ensure_guard: unsafe extern "C" fn(*const InterpGuard) -> TokenPointer,
    ensure_id: unsafe extern "C" fn(i64) -> TokenPointer,
    release_checked: unsafe extern "C" fn(TokenPointer) -> c_int,
    drain: unsafe extern "C" fn(i64, i64) -> c_int,
    current_id: unsafe extern "C" fn() -> i64,
    v1_hold: unsafe extern "C" fn() -> *mut PyInterpreterState,
    v1_lookup: unsafe extern "C" fn(i64) -> *mut PyInterpreterState,
    v1_release: unsafe extern "C" fn(*mut PyInterpreterState),
    v1_ensure: unsafe extern "C" fn(*mut PyInterpreterState, c_int) -> c_int,
    v1_release_innermost: unsafe extern "C" fn(),
    v1_set_daemon: unsafe extern "C" fn(c_int) -> c_int,
    v1_get_daemon: extern "C" fn() -> c_int,
    v1_handle_lookup: unsafe extern "C" fn(i64) -> GuardPointer,
    v1_handle_dup: unsafe extern "C" fn(GuardPointer) -> GuardPointer,
    v1_handle_ensure: unsafe extern "C" fn(GuardPointer) -> c_int,
    v1_handle_interpreter: unsafe extern "C" fn(GuardPointer) -> *mut PyInterpreterState,
    on_close: unsafe extern "C" fn(i64, Option<on_close::Native>, *mut c_void) -> c_int,
}

/// What the capsule points to.
pub static TABLE: Table = Table {
    abi: ABI,
    size: size_of::<Table>() as u32,
    guard_from_current,
    guard_from_view,
    guard_close,
    view_from_current,
    view_from_main,
    view_close,
    ensure,
    ensure_from_view,
    release,
    lookup,
    dup,
    close,
    interpreter,
    id,
    ensure_guard,
    ensure_id,
    release_checked,
    drain,
    current_id,
    v1_hold: first_version::hold,
    v1_lookup: first_version::lookup,
    v1_release: first_version::release_reference,
    v1_ensure: first_version::ensure,
    v1_release_innermost: first_version::release_innermost,
    v1_set_daemon: first_version::set_daemon,
    v1_get_daemon: first_version::get_daemon,
    v1_handle_lookup: first_version::handle_lookup,
    v1_handle_dup: first_version::handle_dup,
    v1_handle_ensure: first_version::handle_ensure,
    v1_handle_interpreter: first_version::handle_interpreter,
    on_close,
};

with_call_site!(guard_from_current() -> GuardPointer, 0, guard_from_current_at);
with_call_site!(guard_from_view(ViewPointer) -> GuardPointer, 1, guard_from_view_at);
with_call_site!(ensure(GuardPointer) -> TokenPointer, 1, ensure_at);
with_call_site!(ensure_from_view(ViewPointer) -> TokenPointer, 1, ensure_from_view_at);
with_call_site!(lookup(i64, *mut InterpGuard) -> c_int, 2, lookup_at);
with_call_site!(dup(*const InterpGuard, *mut InterpGuard) -> c_int, 2, dup_at);
with_call_site!(ensure_guard(*const InterpGuard) -> TokenPointer, 1, ensure_guard_at);
with_call_site!(ensure_id(i64) -> TokenPointer, 1, ensure_id_at);

#[inline(always)]
fn token(level: Option<Level>) -> TokenPointer {
    as_pointer(level.map_or(0, Level::to_bits))
}

unsafe extern "C" fn guard_from_current_at(caller: usize) -> GuardPointer {
    // SAFETY: the header asks for an attached caller.
    let (_, id) = unsafe { registry::current() };
    let guard = match id {
        Some(id) => take_guard(id, caller),
        None => null_mut(),
    };
    if guard.is_null() {
        // SAFETY: as above.
        unsafe { set_no_guard() };
    }
    guard
}

/// A guard's word, or null. What is rare is called in the tail, so that the rest needs no frame.
#[inline(always)]
fn take_guard(id: InterpreterId, caller: usize) -> GuardPointer {
    match REGISTRY.lookup_at_home(id) {
        Ok(guard) => as_pointer(GuardWord::new(guard).bits()),
        Err(NotAtHome::Refused(_)) => null_mut(),
        Err(NotAtHome::Elsewhere) => take_guard_elsewhere(id, caller),
        Err(NotAtHome::Counted(at)) => back_out(at, id),
    }
}

#[cold]
#[inline(never)]
fn take_guard_elsewhere(id: InterpreterId, caller: usize) -> GuardPointer {
    let guard = REGISTRY.lookup_at(id, Site::code(caller));
    guard.map_or(null_mut(), |guard| as_pointer(GuardWord::new(guard).bits()))
}

#[cold]
#[inline(never)]
fn back_out(at: u32, id: InterpreterId) -> GuardPointer {
    // SAFETY: called where `lookup_at_home` has said so, once.
    let _ = unsafe { REGISTRY.back_out_at_home(at, id) };
    null_mut()
}

unsafe extern "C" fn guard_from_view_at(view: ViewPointer, caller: usize) -> GuardPointer {
    match view_of(view) {
        Some(id) => take_guard(id, caller),
        None => null_mut(),
    }
}

unsafe extern "C" fn guard_close(guard: GuardPointer) {
    if let Some(word) = GuardWord::from_bits(guard as u64) {
        // SAFETY: the header says that a guard is closed once.
        let _ = unsafe { word.give_up() };
    }
}

unsafe extern "C" fn view_from_current() -> ViewPointer {
    // SAFETY: the header asks for an attached caller.
    let (_, id) = unsafe { registry::current() };
    match id {
        Some(id) => as_pointer(ViewWord::new(id).bits()),
        None => {
            // SAFETY: as above.
            unsafe { ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"this interpreter has no ID".as_ptr()) };
            null_mut()
        }
    }
}

unsafe extern "C" fn view_from_main() -> ViewPointer {
    registry::main_id().map_or(null_mut(), |id| as_pointer(ViewWord::new(id).bits()))
}

unsafe extern "C" fn view_close(_: ViewPointer) {}

unsafe extern "C" fn ensure_at(guard: GuardPointer, caller: usize) -> TokenPointer {
    match attach::nest_by_guard(guard as u64) {
        Some(level) => token(Some(level)),
        // SAFETY: the header asks for a guard that is not closed yet.
        None => unsafe { ensure_guarded(guard, caller) },
    }
}

/// A function of its own, so that nesting pays nothing for what this one needs.
///
/// # Safety
/// A guard that is not closed yet.
#[inline(never)]
unsafe fn ensure_guarded(guard: GuardPointer, caller: usize) -> TokenPointer {
    // SAFETY: the caller's promise.
    let guard = unsafe { borrow(guard as u64) };
    token(guard.and_then(|guard| attach::ensure(&guard, Site::code(caller))))
}

unsafe extern "C" fn ensure_from_view_at(view: ViewPointer, caller: usize) -> TokenPointer {
    match view_of(view) {
        Some(id) => ensure_by(id, caller),
        None => null_mut(),
    }
}

#[inline(always)]
fn ensure_by(id: InterpreterId, caller: usize) -> TokenPointer {
    match attach::nest_by_id(id.into()) {
        Some(level) => token(Some(level)),
        None => ensure_new(id, caller),
    }
}

/// A function of its own, so that nesting pays nothing for what this one needs.
#[inline(never)]
fn ensure_new(id: InterpreterId, caller: usize) -> TokenPointer {
    token(attach::enter_id(id, Site::code(caller)))
}

#[inline(always)]
fn release_token(level: TokenPointer) -> Result<(), ReleaseError> {
    attach::release(Level::from_bits(level as u64).ok_or(ReleaseError::Unknown)?)
}

unsafe extern "C" fn release(level: TokenPointer) {
    let what: &CStr = match release_token(level) {
        Ok(()) => return,
        Err(ReleaseError::OutOfOrder | ReleaseError::Unknown) => {
            c"PyThreadState_Release: this token is not that of the innermost PyThreadState_Ensure of this thread"
        }
        Err(_) => {
            c"PyThreadState_Release: the thread state of this PyThreadState_Ensure is not attached"
        }
    };
    // SAFETY: ends the process; callable always.
    unsafe { ffi::Py_FatalError(what.as_ptr()) }
}

unsafe extern "C" fn release_checked(level: TokenPointer) -> c_int {
    release_token(level).map_or(status::INVALID, |()| status::OK)
}

unsafe extern "C" fn lookup_at(id: i64, out: *mut InterpGuard, caller: usize) -> c_int {
    let Ok(named) = InterpreterId::try_from(id) else {
        // SAFETY: the header asks for a writable `out`.
        unsafe { out.write(InterpGuard { word: 0, id, reserved: [0; 2] }) };
        return status::NOT_FOUND;
    };
    let (word, answer) = match REGISTRY.lookup_at_home(named) {
        Ok(guard) => (GuardWord::new(guard).bits(), status::OK),
        Err(NotAtHome::Refused(refused)) => (0, status_of(refused)),
        // SAFETY: the caller's promise.
        Err(NotAtHome::Elsewhere) => return unsafe { lookup_elsewhere(named, out, caller) },
        // SAFETY: the caller's promise; as it has just said.
        Err(NotAtHome::Counted(at)) => return unsafe { lookup_backs_out(named, out, at) },
    };
    // SAFETY: the header asks for a writable `out`.
    unsafe { out.write(InterpGuard { word, id, reserved: [0; 2] }) };
    answer
}

/// # Safety
/// `out` is writable.
#[cold]
#[inline(never)]
unsafe fn lookup_elsewhere(id: InterpreterId, out: *mut InterpGuard, caller: usize) -> c_int {
    let (word, answer) = match REGISTRY.lookup_at(id, Site::code(caller)) {
        Ok(guard) => (GuardWord::new(guard).bits(), status::OK),
        Err(refused) => (0, status_of(refused)),
    };
    // SAFETY: the caller's promise.
    unsafe { out.write(InterpGuard { word, id: id.into(), reserved: [0; 2] }) };
    answer
}

/// # Safety
/// `out` is writable, and `lookup_at_home` has answered `Counted(at)` for `id`.
#[cold]
#[inline(never)]
unsafe fn lookup_backs_out(id: InterpreterId, out: *mut InterpGuard, at: u32) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { out.write(InterpGuard { word: 0, id: id.into(), reserved: [0; 2] }) };
    // SAFETY: the caller's promise.
    status_of(unsafe { REGISTRY.back_out_at_home(at, id) })
}

unsafe extern "C" fn dup_at(guard: *const InterpGuard, out: *mut InterpGuard, caller: usize) -> c_int {
    if std::ptr::eq(guard, out) {
        return status::INVALID; // the one that is there would be lost
    }
    // SAFETY: the header asks for a readable guard, null excepted, that is zeroed or not closed yet.
    let Some((guard, from)) = (unsafe { guard.as_ref().and_then(|from| Some((borrow(from.word)?, from))) })
    else {
        return status::INVALID;
    };
    let word = GuardWord::new(guard.clone_at(Site::code(caller))).bits();
    // SAFETY: the header asks for a writable `out`.
    unsafe { out.write(InterpGuard { word, id: from.id, reserved: [0; 2] }) };
    status::OK
}

unsafe extern "C" fn close(guard: *mut InterpGuard) -> c_int {
    // SAFETY: the header asks for a readable and writable guard, null excepted.
    let Some(guard) = (unsafe { guard.as_mut() }) else { return status::INVALID };
    let Some(word) = GuardWord::from_bits(std::mem::take(&mut guard.word)) else { return status::INVALID };
    guard.id = 0;
    // SAFETY: the word was taken out, so that this guard is closed once; what was closed through a copy, the ledger knows,
    // if it is on.
    match unsafe { word.give_up() } {
        Ok(()) => status::OK,
        Err(OverRelease) => status::INVALID,
    }
}

unsafe extern "C" fn interpreter(guard: *const InterpGuard) -> *mut PyInterpreterState {
    // SAFETY: the header asks for a readable guard, null excepted, that is zeroed or not closed yet.
    let guard = unsafe { guard.as_ref().and_then(|guard| borrow(guard.word)) };
    guard.map_or(registry::NONE, |guard| guard.state)
}

unsafe extern "C" fn id(guard: *const InterpGuard) -> i64 {
    // SAFETY: the header asks for a readable guard, null excepted.
    let guard = unsafe { guard.as_ref() }.filter(|guard| guard.word != 0);
    guard.map_or(-1, |guard| guard.id)
}

unsafe extern "C" fn ensure_guard_at(guard: *const InterpGuard, caller: usize) -> TokenPointer {
    // SAFETY: the header asks for a readable guard, null excepted, that is zeroed or not closed yet.
    let guard = unsafe { guard.as_ref().and_then(|guard| borrow(guard.word)) };
    token(guard.and_then(|guard| attach::ensure(&guard, Site::code(caller))))
}

unsafe extern "C" fn ensure_id_at(id: i64, caller: usize) -> TokenPointer {
    match InterpreterId::try_from(id) {
        Ok(id) => ensure_by(id, caller),
        Err(_) => null_mut(),
    }
}

unsafe extern "C" fn drain(id: i64, timeout_ns: i64) -> c_int {
    drain::drain(id, timeout_ns, false).answer().0
}

unsafe extern "C" fn current_id() -> i64 {
    // SAFETY: the header asks for an attached caller.
    let (_, id) = unsafe { registry::current() };
    id.map_or(-1, i64::from)
}

unsafe extern "C" fn on_close(id: i64, call: Option<on_close::Native>, data: *mut c_void) -> c_int {
    let Some(call) = call else { return status::INVALID };
    let Ok(id) = InterpreterId::try_from(id) else { return status::NOT_FOUND };
    on_close::add_native(id, call, data).map_or_else(status_of, |()| status::OK)
}
