// May import: ground.
//! CPython as a runtime of `interp_guard::thread_state`: what of ensure and release is its own.
//!
//! The rules L1 to L5 are that module's. Of CPython in particular:
//!
//! - Interpreters are changed by Save and Restore, never by `PyThreadState_Swap`, which up to 3.11 does not take the GIL (L3).
//! - A state that a level made is deleted while it is attached (`DeleteCurrent`), so that a fork, whose caller holds the GIL or has
//!   stopped all attached threads, never sees CPython's list of states half-changed by us (L4). `PyThreadState_New` needs no GIL; see
//!   [`creating`].
//! - From 3.12 on, attaching binds the state to the thread (gilstate), and deleting it leaves none bound (L5).
//! - An interpreter lives on after its hook has drained it, with the threads that are attached to it.

use crate::ground::creating::creating;
use crate::ground::python::{self, PyThreadState_GetInterpreter};
use crate::ground::registry::{self, Interpreter, REGISTRY};
use crate::ground::word::GuardWord;
use interp_guard::thread_state::{self, CreateError, ReleaseError, Runtime, raw};
use interp_guard::{Guard, InterpreterId, LookupError, Site};
use pyo3_ffi::{self as ffi, PyThreadState};
use std::ptr::{NonNull, null_mut};

pub type InterpreterGuard = Guard<'static, Interpreter>;

/// A level, which the ensures that are counted in it share: what `PyThreadStateToken *` is.
pub use raw::RawLevel as Level;

/// A thread state that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State(NonNull<PyThreadState>);

impl State {
    pub fn as_ptr(self) -> *mut PyThreadState {
        self.0.as_ptr()
    }
}

// SAFETY: (1), (2) CPython's own functions, and what they document; `create` leaves attached what it finds, also where it has to
// wait. (3) A state is not freed while its thread may come back to it but with its interpreter. (4) C. (5) Dropping an
// `Interpreter` touches nothing. (6) They read. (7) IDs are not used again in a process. (8) `owns` compares interpreters, which
// exist; `attached_or_anothers` tells a state of this thread's, `ALONE`
// because this library has the one registry; `LIVES_ON` by what a hook is. (9) There is no other. (10) As for
// whoever calls Python from a thread.
unsafe impl Runtime for Interpreter {
    type ThreadState = State;

    const CREATES_ALONE: bool = true;
    const NOTES: bool = false;
    const ALONE: bool = true;
    const LIVES_ON: bool = true;

    #[inline(always)]
    fn attached() -> Option<State> {
        NonNull::new(python::attached()).map(State)
    }

    #[inline(always)]
    fn attached_or_anothers() -> Option<State> {
        // Up to 3.11 too: a state of this thread's that holds the GIL holds it here.
        NonNull::new(python::unchecked()).map(State)
    }

    fn interpreter_of(state: State) -> InterpreterId {
        let nobodys = || InterpreterId::try_from(i64::MAX - 1).expect("the largest ID");
        // SAFETY: the state exists, and so does its interpreter.
        unsafe { registry::id_of(PyThreadState_GetInterpreter(state.as_ptr())) }.unwrap_or_else(nobodys)
    }

    #[inline(always)]
    fn owns(&self, state: State) -> Option<bool> {
        // SAFETY: the state exists.
        Some(unsafe { PyThreadState_GetInterpreter(state.as_ptr()) } == self.state)
    }

    #[inline(always)]
    fn own() -> Option<State> {
        // SAFETY: reads a thread-specific value.
        NonNull::new(unsafe { ffi::PyGILState_GetThisThreadState() }).map(State)
    }

    #[inline(always)]
    fn create(&self) -> Result<State, CreateError> {
        // SAFETY: guarded, so the interpreter exists; needs no GIL.
        let state = creating(|| unsafe { ffi::PyThreadState_New(self.state) });
        NonNull::new(state).map(State).ok_or(CreateError::new("CPython has no memory for one"))
    }

    #[inline(always)]
    unsafe fn attach(state: State) {
        // SAFETY: a detached state of this thread; its interpreter stays, and so it is not finalizing.
        unsafe { ffi::PyEval_RestoreThread(state.as_ptr()) };
    }

    #[inline(always)]
    unsafe fn detach(_: State) {
        // SAFETY: attached.
        unsafe { ffi::PyEval_SaveThread() };
    }

    #[inline(always)]
    unsafe fn destroy(state: State) {
        // SAFETY: attached, and made by a level, so that nobody else has it.
        unsafe {
            ffi::PyThreadState_Clear(state.as_ptr());
            python::PyThreadState_DeleteCurrent();
        }
    }
}

/// Counts one more ensure in the innermost level, if that has the guard whose word this is, or one like it, and is attached.
///
/// Context: normal; attached or not.
#[inline(always)]
pub fn nest_by_guard(bits: u64) -> Option<Level> {
    let (slot, generation) = GuardWord::place(bits)?;
    raw::nest_like(&REGISTRY, slot, generation)
}

/// Counts one more ensure in the innermost level, if that is guarded, of interpreter `id`, and attached.
///
/// Context: normal; attached or not.
#[inline(always)]
pub fn nest_by_id(id: i64) -> Option<Level> {
    raw::nest(&REGISTRY, id)
}

/// Attaches this thread to the interpreter of `guard`, which stays the caller's.
///
/// Context: normal; attached or not.
#[inline(always)]
pub fn ensure(guard: &InterpreterGuard, site: Site) -> Option<Level> {
    raw::ensure(guard, site).ok()
}

/// Attaches this thread to interpreter `id`; inside a level of it also while it is closing.
///
/// Context: normal; attached or not.
#[inline(always)]
pub fn ensure_id(id: InterpreterId, site: Site) -> Option<Level> {
    raw::ensure_id(&REGISTRY, id, site).ok()
}

/// [`ensure_id`], which [`nest_by_id`] has refused.
#[inline(always)]
pub fn enter_id(id: InterpreterId, site: Site) -> Option<Level> {
    raw::enter_id(&REGISTRY, id, site).ok()
}

/// Attaches this thread to the interpreter of `guard`, in a level of its own, which has the guard.
///
/// Context: normal; attached or not.
pub fn enter(guard: InterpreterGuard, site: Site) -> Option<Level> {
    raw::enter(guard, site).ok()
}

/// A guard of `id`: of a level of this thread that has one, also while the interpreter is closing; or a new one.
#[inline(always)]
pub fn guard_by_id(id: InterpreterId, site: Site) -> Result<InterpreterGuard, LookupError> {
    raw::guard(&REGISTRY, id, site)
}

/// Undoes the innermost ensure of this thread, which must be one of this level's.
///
/// Context: normal; attached as ensure left it.
#[inline(always)]
pub fn release(level: Level) -> Result<(), ReleaseError> {
    raw::release(&REGISTRY, level)
}

/// This thread's innermost level.
pub fn innermost() -> Option<Level> {
    raw::innermost(&REGISTRY)
}

/// Why a level's daemon flag is as it was.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

/// Gives up the guard of this thread's innermost level, or takes one. Its interpreter may finalize under a level without
/// one, and CPython then ends or parks the thread when it attaches.
///
/// Up to 3.13 CPython aborts where a subinterpreter ends and a thread has a state in it: no daemons there.
///
/// Context: normal; attached as ensure left it.
pub fn set_daemon(daemon: bool, site: Site) -> Result<(), Refused> {
    let (id, state) = raw::innermost_state(&REGISTRY).ok_or(Refused)?;
    if Interpreter::attached_or_anothers() != Some(state)
        || daemon && registry::is_sub(id) && python::minor_version() <= 13
    {
        return Err(Refused);
    }
    raw::set_innermost_daemon(&REGISTRY, daemon, site).and_then(Result::ok).ok_or(Refused)
}

/// Does this thread's innermost level have no guard? Nor has a thread that Python or somebody else attached. `None` if
/// nothing is attached.
///
/// Context: normal.
pub fn is_daemon() -> Option<bool> {
    let attached = raw::attached::<Interpreter>()?;
    let is_ours = raw::innermost_state(&REGISTRY).is_some_and(|(_, state)| state == attached);
    Some(!is_ours || thread_state::is_daemon(&REGISTRY) == Some(true))
}

/// Is the calling thread inside a level that keeps interpreter `id` from finalizing?
pub fn holds(id: InterpreterId) -> bool {
    raw::holds(&REGISTRY, id)
}

/// What is attached on this thread, or null.
pub fn attached() -> *mut PyThreadState {
    raw::attached::<Interpreter>().map_or(null_mut(), State::as_ptr)
}
