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

use crate::ground::creating::creating;
use crate::ground::registry::{self, Interpreter, REGISTRY};
use crate::python::{self, PyThreadState_GetInterpreter};
use crate::this_thread::this_thread;
use crate::word::Held;
use interp_guard::raw::GuardParts;
use interp_guard::{Guard, InterpreterId, Site};
use pyo3_ffi::{self as ffi, PyInterpreterState, PyThreadState};
use std::ptr::{NonNull, null_mut};

pub type InterpreterGuard = Guard<'static, Interpreter>;

/// One ensure that is not released yet, on the thread that made it. Its address is the token.
pub struct Level {
    outer: *mut Level,
    id: InterpreterId,
    guard: Option<Held>,
    /// What this level attached or found attached.
    state: *mut PyThreadState,
    /// Ensures of the same interpreter inside this level that are counted here.
    nested: u32,
    origin: Origin,
    /// What was attached before, in another interpreter; or null.
    previous: *mut PyThreadState,
    /// The thread's own state, detached, to be bound to it again at release (L5); or null.
    bound: *mut PyThreadState,
    /// The ID of the interpreter of `previous` or `bound`.
    behind: Option<InterpreterId>,
    /// A guard of it (L2).
    left_behind: Option<Held>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    FoundAttached,
    FoundDetached,
    Created,
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

#[inline(always)]
fn top() -> *mut Level {
    this_thread().top.get()
}

/// This thread's levels, innermost first.
fn levels() -> impl Iterator<Item = &'static Level> {
    // SAFETY: levels live until this thread pops them, and no caller in this file keeps one across a pop.
    let at = |level: *mut Level| unsafe { level.as_ref() };
    std::iter::successors(at(top()), move |level| at(level.outer))
}

/// Counts one more ensure in the innermost level, if that has the guard whose word this is, or one like it, and is attached.
///
/// Context: normal; attached or not.
#[inline(always)]
pub fn nest_by_guard(bits: u64) -> Option<NonNull<Level>> {
    nest(|level| level.guard.as_ref().is_some_and(|guard| guard.is_like(bits)))
}

/// Counts one more ensure in the innermost level, if that has a guard of interpreter `id` and is attached.
///
/// Context: normal; attached or not.
#[inline(always)]
pub fn nest_by_id(id: i64) -> Option<NonNull<Level>> {
    nest(|level| i64::from(level.id) == id && level.guard.is_some())
}

#[inline(always)]
fn nest(is_wanted: impl Fn(&Level) -> bool) -> Option<NonNull<Level>> {
    let mut level = NonNull::new(top())?;
    // SAFETY: this thread's innermost level; nothing else refers to it now.
    let innermost = unsafe { level.as_mut() };
    if !is_wanted(innermost) || !innermost.is_attached() {
        return None;
    }
    innermost.nested = innermost.nested.checked_add(1)?;
    Some(level)
}

/// Attaches this thread to the interpreter of `guard`, which stays the caller's: the level has one of its own.
///
/// Context: normal; attached or not.
pub fn ensure(guard: &InterpreterGuard, site: Site) -> Result<NonNull<Level>, Refused> {
    match nest_by_id(guard.id.into()) {
        Some(level) => Ok(level),
        None => push(guard.id, guard.clone_at(site)),
    }
}

/// Attaches this thread to interpreter `id`, which [`nest_by_id`] did not.
///
/// Inside a level of that interpreter it succeeds also while the interpreter is closing: that level's guard is out.
///
/// Context: normal; attached or not.
pub fn ensure_id(id: InterpreterId, site: Site) -> Result<NonNull<Level>, Refused> {
    push(id, guard_by_id(id, site)?)
}

/// A guard of `id`: of a level of this thread that has one, also while the interpreter is closing; or a new one.
#[inline(always)]
pub fn guard_by_id(id: InterpreterId, site: Site) -> Result<InterpreterGuard, Refused> {
    if !top().is_null()
        && let Some(guard) = guard_of_a_level(id, site)
    {
        return Ok(guard);
    }
    REGISTRY.lookup_at(id, site).map_err(|_| Refused::NoGuard)
}

#[inline(never)]
fn guard_of_a_level(id: InterpreterId, site: Site) -> Option<InterpreterGuard> {
    let mut guards = levels().filter(|level| level.id == id).filter_map(|level| level.guard.as_ref());
    guards.next().map(|guard| guard.another(site))
}

/// Attaches this thread to the interpreter of `guard`, in a level of its own, which has the guard.
///
/// Context: normal; attached or not.
pub fn enter(guard: InterpreterGuard) -> Result<NonNull<Level>, Refused> {
    push(guard.id, guard)
}

#[inline(always)]
fn push(id: InterpreterId, guard: InterpreterGuard) -> Result<NonNull<Level>, Refused> {
    let interpreter = guard.state;
    let guard = Held::new(guard);
    // Most ensures are a thread's first, with nothing attached.
    if top().is_null()
        && python::attached(null_mut()).is_null()
        && let Some((state, origin)) = attach_first(interpreter)
    {
        return Ok(Level { state, origin, ..Level::new(null_mut(), id, guard) }.put());
    }
    push_beside(id, guard, interpreter)
}

/// Attaches this thread, which is in no level and has nothing attached, by its own state or a new one. `None` if its own is
/// another interpreter's, or without memory.
#[inline(always)]
fn attach_first(interpreter: *mut PyInterpreterState) -> Option<(*mut PyThreadState, Origin)> {
    // SAFETY: reads a thread-specific value.
    let bound = unsafe { ffi::PyGILState_GetThisThreadState() };
    let (state, origin) = if bound.is_null() {
        // SAFETY: guarded, so the interpreter exists; needs no GIL.
        (creating(|| unsafe { ffi::PyThreadState_New(interpreter) }), Origin::Created)
    } else {
        (bound, Origin::FoundDetached)
    };
    // SAFETY: just made, or bound to this thread, so it exists.
    if state.is_null() || unsafe { PyThreadState_GetInterpreter(state) } != interpreter {
        return None;
    }
    // SAFETY: a detached state of this thread; its interpreter is guarded, and so it is not finalizing.
    unsafe { ffi::PyEval_RestoreThread(state) };
    Some((state, origin))
}

/// Attaches this thread, whatever it is in and has attached.
#[inline(never)]
fn push_beside(
    id: InterpreterId,
    guard: Held,
    interpreter: *mut PyInterpreterState,
) -> Result<NonNull<Level>, Refused> {
    let outer = top();
    let mut level = Level::new(outer, id, guard);
    // SAFETY: `outer` is null or this thread's innermost level.
    let ours = unsafe { outer.as_ref() }.map_or(null_mut(), |level| level.state);
    let current = python::attached(ours);
    // SAFETY: `current` is attached here, so it exists.
    if !current.is_null() && unsafe { PyThreadState_GetInterpreter(current) } == interpreter {
        level.state = current;
    } else {
        level.switch(interpreter, current)?;
    }
    Ok(level.put())
}

impl Level {
    /// A level that has attached nothing yet.
    #[inline(always)]
    fn new(outer: *mut Level, id: InterpreterId, guard: Held) -> Self {
        Self {
            outer,
            id,
            guard: Some(guard),
            state: null_mut(),
            nested: 0,
            origin: Origin::FoundAttached,
            previous: null_mut(),
            bound: null_mut(),
            behind: None,
            left_behind: None,
        }
    }

    /// Makes this the innermost level of this thread.
    #[inline(always)]
    fn put(self) -> NonNull<Level> {
        let here = this_thread();
        // SAFETY: a level's memory, which nobody else has.
        let level = unsafe { (*here.take_memory()).write(self) };
        here.top.set(level);
        NonNull::from(level)
    }

    /// Is the state of this level, one of this thread's, attached on this thread?
    #[inline(always)]
    fn is_attached(&self) -> bool {
        // Up to 3.11 too: a state of this thread's that holds the GIL holds it here.
        python::unchecked() == self.state
    }

    /// Detaches `current`, if that is not null, and attaches a state of `interpreter`.
    fn switch(
        &mut self,
        interpreter: *mut PyInterpreterState,
        current: *mut PyThreadState,
    ) -> Result<(), Refused> {
        // SAFETY: reads a thread-specific value.
        let bound = unsafe { ffi::PyGILState_GetThisThreadState() };
        let found = find_detached(self.id, interpreter, bound);
        if !current.is_null() {
            self.leave_behind(current);
            self.previous = current;
            // SAFETY: `current` is attached here.
            unsafe { ffi::PyEval_SaveThread() };
        } else if !bound.is_null() && found != Some(bound) {
            self.leave_behind(bound);
            self.bound = bound;
        }
        match found {
            Some(state) => (self.state, self.origin) = (state, Origin::FoundDetached),
            None => {
                // SAFETY: guarded, so the interpreter exists; needs no GIL.
                let state = creating(|| unsafe { ffi::PyThreadState_New(interpreter) });
                if state.is_null() {
                    self.go_back();
                    return Err(Refused::NoMemory);
                }
                (self.state, self.origin) = (state, Origin::Created);
            }
        }
        // SAFETY: a detached state of this thread; its interpreter is guarded, and so it is not finalizing.
        unsafe { ffi::PyEval_RestoreThread(self.state) };
        Ok(())
    }

    /// Notes whose `state` is, a state of this thread, attached or bound; and guards that, unless a level does so already, or
    /// it has no guard to give.
    #[inline(never)]
    fn leave_behind(&mut self, state: *mut PyThreadState) {
        // SAFETY: it exists as long as its interpreter does.
        self.behind = unsafe { registry::id_of(PyThreadState_GetInterpreter(state)) };
        if !levels().any(|level| level.state == state) {
            self.left_behind = self.behind.and_then(|id| REGISTRY.lookup(id).ok()).map(Held::new);
        }
    }

    /// Attaches what was attached before, or binds what was bound before (L5). Nothing is attached now, and the level is not
    /// one of this thread's any more.
    #[inline(always)]
    fn go_back(&self) {
        if !self.previous.is_null() || !self.bound.is_null() {
            self.go_back_to_what_was_there();
        }
    }

    #[inline(never)]
    fn go_back_to_what_was_there(&self) {
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

/// A state of this thread for interpreter `id`, which is guarded, that is not attached: in its levels first, for up to 3.11 and
/// between levels the bound one may be another.
///
/// Levels are asked for IDs, which no two interpreters ever have: a daemon's level, or one that left a closing interpreter
/// behind, may have states of one that has ended.
fn find_detached(
    id: InterpreterId,
    interpreter: *mut PyInterpreterState,
    bound: *mut PyThreadState,
) -> Option<*mut PyThreadState> {
    let in_levels = levels().find_map(|level| match level.behind {
        _ if level.id == id => Some(level.state),
        Some(behind) if behind == id => {
            Some(if level.previous.is_null() { level.bound } else { level.previous })
        }
        _ => None,
    });
    // SAFETY: bound to this thread, so it exists.
    let is_its =
        |state: &_| !bound.is_null() && unsafe { PyThreadState_GetInterpreter(*state) } == interpreter;
    in_levels.or_else(|| Some(bound).filter(is_its))
}

/// Undoes the innermost ensure of this thread, which must be the one that returned `token`.
///
/// Context: normal; attached as ensure left it.
#[inline(always)]
pub fn release(token: *mut Level) -> Result<(), Misuse> {
    if token.is_null() || token != top() {
        return Err(Misuse::OutOfOrder);
    }
    // SAFETY: this thread's innermost level.
    let level = unsafe { &mut *token };
    if !level.is_attached() {
        return Err(Misuse::NotAttached);
    }
    match level.nested.checked_sub(1) {
        Some(nested) => level.nested = nested,
        None => pop(token),
    }
    Ok(())
}

/// Ends this thread's innermost level, `token`, which is attached.
#[inline(never)]
fn pop(token: *mut Level) {
    // SAFETY: this thread's innermost level. Not a reference that lasts: clearing a state can run Python code, which may
    // ensure and release inside this level.
    let (state, origin) = unsafe { ((*token).state, (*token).origin) };
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
    let here = this_thread();
    // SAFETY: still this thread's innermost level: whatever ran in between released what it ensured.
    let level = unsafe { &mut *token };
    here.top.set(level.outer);
    if origin != Origin::FoundAttached {
        level.go_back();
    }
    let (guard, left_behind) = (level.guard.take(), level.left_behind.take());
    // SAFETY: from `push`, which had its memory from there; nothing is left in it.
    unsafe { here.keep_memory(token) };
    // The guards last (L1).
    drop(guard);
    if left_behind.is_some() {
        give_up(left_behind);
    }
}

/// Out of the way of those that have none.
#[inline(never)]
fn give_up(guard: Option<Held>) {
    drop(guard);
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
    if level.nested > 0 || !level.is_attached() {
        return Err(Refused::NoGuard);
    }
    let guard = match (daemon, &level.guard) {
        (true, _) if registry::is_sub(level.id) && python::minor_version() <= 13 => {
            return Err(Refused::NoGuard);
        }
        (true, _) => None,
        (false, Some(_)) => return Ok(()),
        (false, None) => Some(Held::new(guard_by_id(level.id, site)?)),
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
        level.id == id && level.guard.is_some()
            || level.left_behind.as_ref().is_some_and(|guard| guard.interpreter().id == id)
    })
}

/// Hands the parts of each guard of this thread's levels to `keep`, and puts them together again as it leaves them.
pub fn for_each_guard(keep: &mut dyn FnMut(&mut GuardParts)) {
    let mut at = top();
    // SAFETY: null or a level of this thread; nothing else refers to it now.
    while let Some(level) = unsafe { at.as_mut() } {
        for guard in [&mut level.guard, &mut level.left_behind].into_iter().flatten() {
            guard.change(&mut *keep);
        }
        at = level.outer;
    }
}

/// What is attached on this thread, or null.
pub fn attached() -> *mut PyThreadState {
    // SAFETY: null or this thread's innermost level.
    python::attached(unsafe { top().as_ref() }.map_or(null_mut(), |level| level.state))
}
