//! Ensure and release: thread states, nested to any depth and across interpreters.
//!
//! Each thread has a stack of levels. Ensure pushes one, and release pops exactly that one:
//!
//! | at ensure, this thread | the level | at release |
//! |---|---|---|
//! | is inside a level of that interpreter, attached | is counted in that level | is counted out |
//! | is attached to that interpreter | reuses the state | leaves it attached |
//! | has a detached state for it: in its levels, or the gilstate one | attaches that | detaches it |
//! | has none | makes and attaches one | clears and deletes it |
//!
//! In the last two rows the state attached before, if any, is detached, and attached again by release.
//!
//! # Rules, each learnt from a crash or a hang
//!
//! - **L1** A level's own guard is given up last, after the previous state is attached again: once it is gone the
//!   main interpreter may finalize, and attaching then ends or parks the thread.
//! - **L2** The interpreter left behind is guarded for the duration, where it is registered and live, so that going back
//!   to it cannot hang.
//! - **L3** Interpreters are changed by Save and Restore, never by `PyThreadState_Swap`, which up to 3.11 does not take
//!   the GIL.
//! - **L4** A state that a level made is deleted with the GIL held (`DeleteCurrent`), so that a fork, whose caller holds
//!   the GIL, never sees CPython's list of states half-changed by us.
//! - **L5** From 3.12 on, attaching binds the state to the thread (gilstate), and deleting it leaves none bound. Release
//!   binds the thread's own state again, so that `PyGILState_Ensure` finds it.

use crate::fork;
use crate::python::{self, PyThreadState_GetInterpreter};
use crate::table::{self, Interpreter, REGISTRY};
use interp_guard::raw::GuardParts;
use interp_guard::{Guard, InterpreterId, Site};
use pyo3_ffi::{self as ffi, PyInterpreterState, PyThreadState};
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};

type InterpreterGuard = Guard<'static, Interpreter>;

/// One ensure that is not released yet, on the thread that made it. Its address is the token.
pub struct Level {
    outer: *mut Level,
    id: InterpreterId,
    interpreter: *mut PyInterpreterState,
    /// What this level attached or found attached.
    state: *mut PyThreadState,
    origin: Origin,
    /// What was attached before, in another interpreter; or null.
    previous: *mut PyThreadState,
    /// The thread's own state, detached, to be bound to it again at release (L5); or null.
    bound: *mut PyThreadState,
    /// Ensures of the same interpreter inside this level that are counted here.
    nested: u32,
    guard: Option<InterpreterGuard>,
    /// Of the interpreter of `previous` or `bound` (L2).
    left_behind: Option<InterpreterGuard>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    FoundAttached,
    FoundDetached,
    Created,
}

thread_local! {
    /// This thread's innermost level, or null. Has no destructor, and so is there until the thread is gone.
    static TOP: Cell<*mut Level> = const { Cell::new(null_mut()) };
    static SPARE: Spare = const { Spare(Cell::new(null_mut())) };
}

/// A level's memory, kept for the next one.
struct Spare(Cell<*mut Level>);

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(level) = NonNull::new(self.0.get()) {
            // SAFETY: put here by `free`, which had it from `Box`, with nothing left in it to drop.
            drop(unsafe { Box::from_raw(level.cast::<std::mem::MaybeUninit<Level>>().as_ptr()) });
        }
    }
}

/// Why an ensure attached nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No guard was to be had.
    NoGuard,
    /// CPython could not make a thread state.
    NoMemory,
}

/// A release that does not match the innermost ensure of its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// The token is not that of this thread's innermost level.
    OutOfOrder,
    /// The level's thread state is not attached.
    NotAttached,
}

fn top() -> *mut Level {
    TOP.with(Cell::get)
}

/// This thread's levels, innermost first.
fn levels() -> impl Iterator<Item = &'static Level> {
    // SAFETY: levels live until this thread pops them, and no caller in this file keeps one across a pop.
    let at = |level: *mut Level| unsafe { level.as_ref() };
    std::iter::successors(at(top()), move |level| at(level.outer))
}

/// Attaches this thread to the interpreter of `guard`, which stays the caller's: the level has one of its own.
///
/// Context: normal; attached or not.
pub fn ensure(guard: &InterpreterGuard, site: Site) -> Result<NonNull<Level>, Refused> {
    let interpreter = guard.state;
    match nest(|level| level.interpreter == interpreter) {
        Some(level) => Ok(level),
        None => push(guard.clone_at(site)),
    }
}

/// Attaches this thread to interpreter `id`.
///
/// Inside a level of that interpreter it succeeds also while the interpreter is closing: that level's guard is out.
///
/// Context: normal; attached or not.
pub fn ensure_id(id: InterpreterId, site: Site) -> Result<NonNull<Level>, Refused> {
    if let Some(level) = nest(|level| level.id == id) {
        return Ok(level);
    }
    push(guard_by_id(id, site)?)
}

/// A guard of `id`: of a level of this thread that has one, also while the interpreter is closing; or a new one.
fn guard_by_id(id: InterpreterId, site: Site) -> Result<InterpreterGuard, Refused> {
    let of_a_level = levels().find_map(|level| level.guard.as_ref().filter(|_| level.id == id));
    match of_a_level {
        Some(guard) => Ok(guard.clone_at(site)),
        None => REGISTRY.lookup_at(id, site).map_err(|_| Refused::NoGuard),
    }
}

/// Attaches this thread to the interpreter of `guard`, in a level of its own, which has the guard.
///
/// Context: normal; attached or not.
pub fn enter(guard: InterpreterGuard) -> Result<NonNull<Level>, Refused> {
    push(guard)
}

/// Counts one more ensure in the innermost level, if that is wanted and attached.
#[inline]
fn nest(is_wanted: impl Fn(&Level) -> bool) -> Option<NonNull<Level>> {
    let mut level = NonNull::new(top())?;
    // SAFETY: this thread's innermost level; nothing else refers to it now.
    let innermost = unsafe { level.as_mut() };
    // A daemon level has no guard under which another could count.
    if !is_wanted(innermost)
        || innermost.guard.is_none()
        || python::attached(innermost.state) != innermost.state
    {
        return None;
    }
    innermost.nested = innermost.nested.checked_add(1)?;
    Some(level)
}

fn push(guard: InterpreterGuard) -> Result<NonNull<Level>, Refused> {
    let outer = top();
    let interpreter = guard.state;
    // SAFETY: `outer` is null or this thread's innermost level.
    let ours = unsafe { outer.as_ref() }.map_or(null_mut(), |level| level.state);
    let current = python::attached(ours);
    let mut level = Level {
        outer,
        id: guard.id,
        interpreter,
        state: current,
        origin: Origin::FoundAttached,
        previous: null_mut(),
        bound: null_mut(),
        nested: 0,
        guard: Some(guard),
        left_behind: None,
    };
    // SAFETY: `current` is attached here, so it exists.
    if current.is_null() || unsafe { PyThreadState_GetInterpreter(current) } != interpreter {
        level.switch(current)?;
    }
    let level = store(level);
    TOP.set(level.as_ptr());
    Ok(level)
}

impl Level {
    /// Detaches `current`, if that is not null, and attaches a state of `self.interpreter`.
    fn switch(&mut self, current: *mut PyThreadState) -> Result<(), Refused> {
        // SAFETY: reads a thread-specific value.
        let bound = unsafe { ffi::PyGILState_GetThisThreadState() };
        let behind = if current.is_null() { bound } else { current };
        self.left_behind = guard_of(behind);
        if !current.is_null() {
            // SAFETY: `current` is attached here.
            unsafe { ffi::PyEval_SaveThread() };
            self.previous = current;
        }
        match find_detached(self.interpreter, bound) {
            Some(state) => (self.state, self.origin) = (state, Origin::FoundDetached),
            None => {
                // SAFETY: guarded, so the interpreter exists; needs no GIL.
                let state = fork::creating(|| unsafe { ffi::PyThreadState_New(self.interpreter) });
                if state.is_null() {
                    self.go_back();
                    return Err(Refused::NoMemory);
                }
                (self.state, self.origin) = (state, Origin::Created);
            }
        }
        if current.is_null() && !bound.is_null() && bound != self.state {
            self.bound = bound;
        }
        // SAFETY: a detached state of this thread; its interpreter is guarded, and so it is not finalizing.
        unsafe { ffi::PyEval_RestoreThread(self.state) };
        Ok(())
    }

    /// Attaches what was attached before, or binds what was bound before (L5). Nothing is attached now.
    fn go_back(&self) {
        if !self.previous.is_null() {
            // SAFETY: detached by `switch`; guarded where that was possible (L2).
            unsafe { ffi::PyEval_RestoreThread(self.previous) };
        } else if !self.bound.is_null() {
            // SAFETY: reads a thread-specific value.
            let bound = unsafe { ffi::PyGILState_GetThisThreadState() };
            if bound != self.bound && self.behind_is_guarded() {
                // SAFETY: this thread's own state, detached since before `switch`; its interpreter is guarded, so that
                // attaching neither hangs nor finds it freed.
                unsafe {
                    ffi::PyEval_RestoreThread(self.bound);
                    ffi::PyEval_SaveThread();
                }
            }
        }
    }

    /// Is the interpreter of `bound` kept alive, by this level or by one further out?
    fn behind_is_guarded(&self) -> bool {
        self.left_behind.is_some() || levels().any(|level| level.state == self.bound)
    }
}

/// A guard of the interpreter of a state of this thread, unless a level has one already, or it has none to give.
fn guard_of(state: *mut PyThreadState) -> Option<InterpreterGuard> {
    if state.is_null() || levels().any(|level| level.state == state) {
        return None;
    }
    // SAFETY: a state of this thread, attached or bound; it exists as long as its interpreter does.
    let interpreter = unsafe { PyThreadState_GetInterpreter(state) };
    // SAFETY: as above.
    let id = unsafe { table::id_of(interpreter) }?;
    REGISTRY.lookup(id).ok()
}

/// A state of this thread for `interpreter` that is not attached: in its levels first, for up to 3.11 and between levels
/// the bound one may be another.
fn find_detached(
    interpreter: *mut PyInterpreterState,
    bound: *mut PyThreadState,
) -> Option<*mut PyThreadState> {
    let in_levels = levels().flat_map(|level| [level.state, level.previous, level.bound]);
    in_levels.chain([bound]).find(|&state| {
        // SAFETY: levels' states live as long as the levels; the bound one as in `guard_of`.
        !state.is_null() && unsafe { PyThreadState_GetInterpreter(state) } == interpreter
    })
}

/// Undoes the innermost ensure of this thread, which must be the one that returned `token`.
///
/// Context: normal; attached as ensure left it.
pub fn release(token: *mut Level) -> Result<(), Misuse> {
    let innermost = top();
    if token.is_null() || token != innermost {
        return Err(Misuse::OutOfOrder);
    }
    // SAFETY: this thread's innermost level. Not a reference that lasts: clearing a state can run Python code, which may
    // ensure and release inside this level.
    let (state, origin, nested) = unsafe { ((*token).state, (*token).origin, (*token).nested) };
    if python::attached(state) != state {
        return Err(Misuse::NotAttached);
    }
    if nested > 0 {
        // SAFETY: as above.
        unsafe { (*token).nested = nested - 1 };
        return Ok(());
    }
    match origin {
        Origin::FoundAttached => {}
        Origin::FoundDetached => {
            // SAFETY: attached.
            unsafe { ffi::PyEval_SaveThread() };
        }
        Origin::Created => {
            // SAFETY: attached, and made by this level, so that nobody else has it (L4).
            unsafe {
                ffi::PyThreadState_Clear(state);
                python::PyThreadState_DeleteCurrent();
            }
        }
    }
    // SAFETY: still this thread's innermost level: whatever ran in between released what it ensured.
    let level = unsafe { token.read() };
    TOP.set(level.outer);
    if origin != Origin::FoundAttached {
        level.go_back();
    }
    free(token);
    drop(level); // the guards, last (L1)
    Ok(())
}

/// This thread's innermost level, or null.
pub fn innermost() -> *mut Level {
    top()
}

/// Gives up the guard of this thread's innermost level, or takes one. Its interpreter may finalize under a level without
/// one, and CPython then ends or parks the thread when it attaches.
///
/// Up to 3.13 CPython aborts where a subinterpreter ends and a thread has a state in it: no daemons there.
///
/// Context: normal; attached as ensure left it.
pub fn set_daemon(daemon: bool, site: Site) -> Result<(), Refused> {
    // SAFETY: null or this thread's innermost level; the reference ends before anything else is done with it.
    let Some(level) = (unsafe { top().as_ref() }) else { return Err(Refused::NoGuard) };
    // Ensures that are counted in a level would lose what they count under.
    if level.nested > 0 || python::attached(level.state) != level.state {
        return Err(Refused::NoGuard);
    }
    let guard = match (daemon, &level.guard) {
        (true, _) if table::is_sub(level.id) && python::minor_version() <= 13 => {
            return Err(Refused::NoGuard);
        }
        (true, _) => None,
        (false, Some(_)) => return Ok(()),
        (false, None) => Some(guard_by_id(level.id, site)?),
    };
    // SAFETY: as above. What the level had is dropped when it is in no level any more.
    drop(std::mem::replace(unsafe { &mut (*top()).guard }, guard));
    Ok(())
}

/// Does this thread's innermost level have no guard? Nor has a thread that Python or somebody else attached. `None` if
/// nothing is attached.
///
/// Context: normal.
pub fn is_daemon() -> Option<bool> {
    let attached = attached();
    if attached.is_null() {
        return None;
    }
    Some(levels().next().is_none_or(|level| level.state != attached || level.guard.is_none()))
}

/// Is the calling thread inside a level that keeps interpreter `id` from finalizing?
pub fn holds(id: InterpreterId) -> bool {
    levels().any(|level| {
        level.guard.as_ref().is_some_and(|guard| guard.id == id)
            || level.left_behind.as_ref().is_some_and(|guard| guard.id == id)
    })
}

/// Hands the parts of each guard of this thread's levels to `keep`, and puts them together again as it leaves them.
pub fn for_each_guard(keep: &mut dyn FnMut(&mut GuardParts)) {
    let mut at = top();
    // SAFETY: null or a level of this thread; nothing else refers to it now.
    while let Some(level) = unsafe { at.as_mut() } {
        for guard in [&mut level.guard, &mut level.left_behind] {
            if let Some(held) = guard.take() {
                let mut parts = held.into_raw().into_parts();
                keep(&mut parts);
                // SAFETY: taken apart above, and put together only here.
                *guard = Some(unsafe { REGISTRY.guard_from_parts(parts) });
            }
        }
        at = level.outer;
    }
}

/// What is attached on this thread, or null.
pub fn attached() -> *mut PyThreadState {
    // SAFETY: null or this thread's innermost level.
    python::attached(unsafe { top().as_ref() }.map_or(null_mut(), |level| level.state))
}

fn store(level: Level) -> NonNull<Level> {
    let spare = SPARE.try_with(|spare| NonNull::new(spare.0.replace(null_mut()))).ok().flatten();
    match spare {
        Some(memory) => {
            // SAFETY: a level's memory, with nothing in it.
            unsafe { memory.write(level) };
            memory
        }
        None => NonNull::from(Box::leak(Box::new(level))),
    }
}

/// Keeps the memory of a level whose contents were moved out.
fn free(level: *mut Level) {
    let kept = SPARE.try_with(|spare| spare.0.replace(level));
    // Thread-locals with destructors are gone when other destructors run at the end of a thread: nothing is kept then.
    if let Some(memory) = NonNull::new(kept.unwrap_or(level)) {
        // SAFETY: a level's memory from `Box`, with nothing left in it to drop.
        drop(unsafe { Box::from_raw(memory.cast::<std::mem::MaybeUninit<Level>>().as_ptr()) });
    }
}
