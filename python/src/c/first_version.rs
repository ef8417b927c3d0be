//! PEP 788's first version: references that have nothing but the interpreter's pointer. Behind `pep788_v1.h`.
//!
//! A guard is more than a pointer: in which slot it was counted, in which fork generation, as which entry of the ledger.
//! For a *reference* by pointer this file keeps that, for any number of references to one interpreter, without saying
//! which is which; they are interchangeable. The slot is found by the ID, in any state.
//!
//! ```text
//! ledger off : OUT[slot]              how many references are out; a release that finds none changes nothing
//! ledger on  : TAKEN[ticket's place]  the ticket of each reference, with its interpreter and thread; release takes one out
//!              IN_USE                 a bit for each place that has one
//! ```
//!
//! All of it is async-signal-safe: loads, stores and exchanges in static memory.

use super::call_site::with_call_site;
use super::pointers::{GuardPointer, as_pointer, borrow};
use crate::attach;
use crate::ground::refusals::set_no_guard;
use crate::ground::registry::{self, Interpreter, REGISTRY};
use crate::ground::threads::this_thread;
use crate::ground::word::GuardWord;
use interp_guard::bindings::RegistryExt as _;
use interp_guard::raw::{GuardParts, LEDGER_ENTRIES};
use interp_guard::thread_state::ReleaseError;
use interp_guard::{Guard, InterpreterId, Site};
use pyo3_ffi::{self as ffi, PyInterpreterState};
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// As many as the table has slots: `Registry::new` is twice its capacity of 1,024. With more, a reference in one of them
/// is refused.
const SLOTS: usize = 2048;

static OUT: [AtomicU32; SLOTS] = [const { AtomicU32::new(0) }; SLOTS];

/// A recorded reference. The ticket is 0 while nobody's is here; it is stored last and taken out first.
struct Taken {
    ticket: AtomicU64,
    id: AtomicI64,
    thread: AtomicU32,
}

static TAKEN: [Taken; LEDGER_ENTRIES] =
    [const { Taken { ticket: AtomicU64::new(0), id: AtomicI64::new(0), thread: AtomicU32::new(0) } };
        LEDGER_ENTRIES];

const BITS: usize = u64::BITS as usize;

static IN_USE: [AtomicU64; LEDGER_ENTRIES / BITS] = [const { AtomicU64::new(0) }; LEDGER_ENTRIES / BITS];

/// The bit of a place.
fn in_use(place: usize) -> (&'static AtomicU64, u64) {
    (&IN_USE[place / BITS % IN_USE.len()], 1 << (place % BITS))
}

/// Each recorded reference to `id`, with its ticket.
fn recorded(id: InterpreterId) -> impl Iterator<Item = (usize, &'static Taken, u64)> {
    let places = IN_USE.iter().enumerate().flat_map(|(at, word)| {
        // Acquire: pairs with the Release in `keep`: whoever has a reference finds it.
        let mut left = word.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(at * BITS + bit)
        })
    });
    places.filter_map(move |place| {
        let taken = &TAKEN[place];
        // Acquire: pairs with the Release in `keep`, for the two facts.
        let ticket = taken.ticket.load(Ordering::Acquire);
        (ticket != 0 && taken.id.load(Ordering::Relaxed) == i64::from(id)).then_some((place, taken, ticket))
    })
}

/// Turns a guard into a reference. Null if it cannot be kept; the guard is given up then.
///
/// Context: any, async-signal-safe.
fn keep(guard: Guard<'static, Interpreter>) -> *mut PyInterpreterState {
    let state = guard.state;
    let parts = guard.into_raw().into_parts();
    if parts.ticket != 0 {
        // The ledger's entry is this guard's alone, and with it this place.
        let place = parts.ticket as usize % LEDGER_ENTRIES;
        let taken = &TAKEN[place];
        taken.id.store(parts.id.into(), Ordering::Relaxed); // published by the store of the ticket
        taken.thread.store(this_thread(), Ordering::Relaxed);
        // Release, both: pair with the Acquires in `recorded`.
        taken.ticket.store(parts.ticket, Ordering::Release);
        let (word, bit) = in_use(place);
        word.fetch_or(bit, Ordering::Release);
        return state;
    }
    match OUT.get(parts.slot as usize) {
        // Relaxed: whoever releases this reference got it from here by a synchronisation of its own.
        Some(out) => drop(out.fetch_add(1, Ordering::Relaxed)),
        None => {
            // SAFETY: taken apart right above, and put together once.
            drop(unsafe { REGISTRY.guard_from_parts(parts) });
            return registry::NONE;
        }
    }
    state
}

/// The parts of one reference to `id`, taken out: the calling thread's own rather than another's.
///
/// Context: any, async-signal-safe. O(references) with the ledger on.
fn take(id: InterpreterId) -> Option<GuardParts> {
    let mut parts = REGISTRY.parts_of(id)?;
    if let Some(ticket) = take_recorded(id) {
        parts.ticket = ticket;
        return Some(parts);
    }
    let out = OUT.get(parts.slot as usize)?;
    // Relaxed: as in `keep`.
    out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |out| out.checked_sub(1)).ok()?;
    Some(parts)
}

fn take_recorded(id: InterpreterId) -> Option<u64> {
    let me = this_thread();
    let mine = |taken: &Taken| taken.thread.load(Ordering::Relaxed) == me;
    // Tickets are never used again: if the exchange succeeds, the facts read were this ticket's.
    let take = |(place, taken, ticket): (usize, &Taken, u64)| {
        taken.ticket.compare_exchange(ticket, 0, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        // The place is nobody else's before the ledger's entry is, which is when the guard is given up.
        let (word, bit) = in_use(place);
        word.fetch_and(!bit, Ordering::Relaxed);
        Some(ticket)
    };
    recorded(id).filter(|(_, taken, _)| mine(taken)).find_map(take).or_else(|| recorded(id).find_map(take))
}

/// A guard that a reference to `id` stands for, to clone; not given up. `None` if no reference is out.
///
/// Context: any, async-signal-safe.
fn borrow_reference(id: InterpreterId) -> Option<ManuallyDrop<Guard<'static, Interpreter>>> {
    let parts = REGISTRY.parts_of(id)?;
    let is_out = OUT.get(parts.slot as usize)?.load(Ordering::Relaxed) > 0 // as in `keep`
        || recorded(id).next().is_some();
    // SAFETY: a reference is out, which the caller of this library vouches for besides, so that the interpreter is guarded;
    // not dropped, so that the parts are given up by nobody here.
    is_out.then(|| ManuallyDrop::new(unsafe { REGISTRY.guard_from_parts(parts) }))
}

/// In a forked child, by its only thread: the references of the parent protect nothing here, and a release of one changes
/// nothing.
///
/// Context: normal.
pub fn after_fork_child() {
    for out in &OUT {
        out.store(0, Ordering::Relaxed); // no other thread exists
    }
    for word in &IN_USE {
        word.store(0, Ordering::Relaxed);
    }
}

/// The ID behind a pointer.
///
/// # Safety
/// Null, or an interpreter that exists.
unsafe fn id_of(state: *mut PyInterpreterState) -> Option<InterpreterId> {
    if state.is_null() {
        return None;
    }
    // SAFETY: the caller's promise. CPython's function reads one field, on every version: it is signal-safe.
    unsafe { registry::id_of(state) }
}

with_call_site!(pub hold() -> *mut PyInterpreterState, 0, hold_at);
with_call_site!(pub lookup(i64) -> *mut PyInterpreterState, 1, lookup_at);
with_call_site!(pub ensure(*mut PyInterpreterState, c_int) -> c_int, 2, ensure_at);
with_call_site!(pub set_daemon(c_int) -> c_int, 1, set_daemon_at);
with_call_site!(pub handle_ensure(GuardPointer) -> c_int, 1, handle_ensure_at);
with_call_site!(pub handle_lookup(i64) -> GuardPointer, 1, handle_lookup_at);
with_call_site!(pub handle_dup(GuardPointer) -> GuardPointer, 1, handle_dup_at);

unsafe extern "C" fn hold_at(caller: usize) -> *mut PyInterpreterState {
    // SAFETY: the header asks for an attached caller.
    let (_, id) = unsafe { registry::current() };
    let state = match id.map(|id| REGISTRY.lookup_at(id, Site::code(caller))) {
        Some(Ok(guard)) => keep(guard),
        _ => registry::NONE,
    };
    if state.is_null() {
        // SAFETY: as above.
        unsafe { set_no_guard() };
    }
    state
}

unsafe extern "C" fn lookup_at(id: i64, caller: usize) -> *mut PyInterpreterState {
    let guard =
        InterpreterId::try_from(id).ok().and_then(|id| REGISTRY.lookup_at(id, Site::code(caller)).ok());
    guard.map_or(registry::NONE, keep)
}

/// `PyInterpreterState_Release`.
///
/// # Safety
/// The header asks for a reference that is not released yet, or null.
pub unsafe extern "C" fn release_reference(state: *mut PyInterpreterState) {
    // SAFETY: the reference keeps the interpreter.
    if let Some(parts) = unsafe { id_of(state) }.and_then(take) {
        // SAFETY: a reference's, taken out.
        drop(unsafe { REGISTRY.guard_from_parts(parts) });
    }
}

/// `PyThreadState_Ensure`: 0, or -1. `consume`: the level gets the reference, and gives it up at its release.
unsafe extern "C" fn ensure_at(state: *mut PyInterpreterState, consume: c_int, caller: usize) -> c_int {
    // SAFETY: the header asks for a reference that is not released yet, or null.
    let Some(id) = (unsafe { id_of(state) }) else { return -1 };
    let Some(guard) = borrow_reference(id) else { return -1 };
    let site = Site::code(caller);
    if attach::enter(guard.clone_at(site), site).is_none() {
        return -1;
    }
    if consume != 0 {
        // SAFETY: as above. The level has a guard of its own.
        unsafe { release_reference(state) };
    }
    0
}

/// `PyThreadState_Release`.
///
/// # Safety
/// The header asks for a thread as its innermost ensure left it. Anything else that can be noticed is a fatal error.
pub unsafe extern "C" fn release_innermost() {
    let what = match attach::innermost().map_or(Err(ReleaseError::Unknown), attach::release) {
        Ok(()) => return,
        Err(ReleaseError::Unknown | ReleaseError::OutOfOrder) => {
            c"PyThreadState_Release: this thread is in no PyThreadState_Ensure"
        }
        Err(_) => {
            c"PyThreadState_Release: the thread state of the innermost PyThreadState_Ensure is not attached"
        }
    };
    // SAFETY: ends the process; callable always.
    unsafe { ffi::Py_FatalError(what.as_ptr()) }
}

unsafe extern "C" fn set_daemon_at(daemon: c_int, caller: usize) -> c_int {
    attach::set_daemon(daemon != 0, Site::code(caller)).map_or(-1, |()| 0)
}

/// `PyThreadState_GetDaemon`: 1, 0, or -1 where nothing is attached.
pub extern "C" fn get_daemon() -> c_int {
    attach::is_daemon().map_or(-1, c_int::from)
}

unsafe extern "C" fn handle_lookup_at(id: i64, caller: usize) -> GuardPointer {
    let guard =
        InterpreterId::try_from(id).ok().and_then(|id| REGISTRY.lookup_at(id, Site::code(caller)).ok());
    guard.map_or(std::ptr::null_mut(), |guard| as_pointer(GuardWord::new(guard).bits()))
}

unsafe extern "C" fn handle_dup_at(handle: GuardPointer, caller: usize) -> GuardPointer {
    // SAFETY: the header asks for a handle that is not closed yet, or null.
    let guard = unsafe { borrow(handle as u64) };
    guard.map_or(std::ptr::null_mut(), |guard| {
        as_pointer(GuardWord::new(guard.clone_at(Site::code(caller))).bits())
    })
}

unsafe extern "C" fn handle_ensure_at(handle: GuardPointer, caller: usize) -> c_int {
    // SAFETY: the header asks for a handle that is not closed yet, or null.
    let Some(guard) = (unsafe { borrow(handle as u64) }) else { return -1 };
    let site = Site::code(caller);
    attach::enter(guard.clone_at(site), site).map_or(-1, |_| 0)
}

/// The interpreter of a handle; null if it protects nothing.
///
/// # Safety
/// The header asks for a handle that is not closed yet, or null.
pub unsafe extern "C" fn handle_interpreter(handle: GuardPointer) -> *mut PyInterpreterState {
    // SAFETY: the caller's promise.
    unsafe { borrow(handle as u64) }.map_or(registry::NONE, |guard| guard.state)
}
