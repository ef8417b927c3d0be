//! Ensure and release for C: the `Runtime` trait as a table of callbacks. Normal context, but for `ig_current_id`.

use crate::boundary::contained;
use crate::guard::{borrow, ig_guard};
use crate::registry::{Interp, ig_registry, with, with_id};
use crate::status::ig_status::{self, *};
use interp_guard::thread_state::{self, Attached, CreateError, EnsureError, ReleaseError, Runtime, Token};
use interp_guard::{InterpreterId, gilstate};
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// What a runtime supplies so that ig_ensure can attach threads to its interpreters. A thread state is a pointer of the
/// runtime's; each function is about the calling thread. None of them may longjmp or throw.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ig_runtime {
    /// The thread state that is attached on this thread; NULL if none is.
    pub attached: Option<unsafe extern "C" fn() -> *mut c_void>,
    /// The ID under which the interpreter of an attached thread state is registered.
    pub interpreter_of: Option<unsafe extern "C" fn(state: *mut c_void) -> i64>,
    /// Makes a thread state of `interp`, as it was registered, for this thread, and does not attach it. NULL if it cannot.
    pub create: Option<unsafe extern "C" fn(interp: *mut c_void) -> *mut c_void>,
    /// Attaches; waits as long as it takes. Nothing is attached when it is called.
    pub attach: Option<unsafe extern "C" fn(state: *mut c_void)>,
    /// Detaches an attached thread state.
    pub detach: Option<unsafe extern "C" fn(state: *mut c_void)>,
    /// Destroys an attached thread state that `create` made, and leaves nothing attached.
    pub destroy: Option<unsafe extern "C" fn(state: *mut c_void)>,
}

/// An ig_runtime in which nothing is missing.
struct Complete {
    attached: unsafe extern "C" fn() -> *mut c_void,
    interpreter_of: unsafe extern "C" fn(*mut c_void) -> i64,
    create: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    attach: unsafe extern "C" fn(*mut c_void),
    detach: unsafe extern "C" fn(*mut c_void),
    destroy: unsafe extern "C" fn(*mut c_void),
}

static RUNTIME: OnceLock<Complete> = OnceLock::new();

/// Has `ig_runtime_set` been called?
pub fn is_runtime_set() -> bool {
    RUNTIME.get().is_some()
}

fn runtime() -> &'static Complete {
    RUNTIME.get().expect("the exports look before they call")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State(NonNull<c_void>);

// SAFETY: (1) to (5) are what `ig_runtime` asks of the C runtime, whose callbacks these are; C has no unwinding, and
// dropping an `Interp` touches nothing.
unsafe impl Runtime for Interp {
    type ThreadState = State;

    fn attached() -> Option<State> {
        // SAFETY: `ig_runtime_set`'s caller promised a function of this type.
        NonNull::new(unsafe { (runtime().attached)() }).map(State)
    }

    fn interpreter_of(state: State) -> InterpreterId {
        // SAFETY: as above; the state is attached on this thread.
        let id = unsafe { (runtime().interpreter_of)(state.0.as_ptr()) };
        let nobodys = || InterpreterId::try_from(i64::MAX - 1).expect("the largest ID");
        InterpreterId::try_from(id).unwrap_or_else(|_| nobodys())
    }

    fn create(&self) -> Result<State, CreateError> {
        // SAFETY: as above; the interpreter is guarded.
        let state = NonNull::new(unsafe { (runtime().create)(self.0) });
        state.map(State).ok_or(CreateError::new("ig_runtime.create answered NULL"))
    }

    unsafe fn attach(state: State) {
        // SAFETY: the trait's requirements are the callback's.
        unsafe { (runtime().attach)(state.0.as_ptr()) }
    }

    unsafe fn detach(state: State) {
        // SAFETY: the trait's requirements are the callback's.
        unsafe { (runtime().detach)(state.0.as_ptr()) }
    }

    unsafe fn destroy(state: State) {
        // SAFETY: the trait's requirements are the callback's.
        unsafe { (runtime().destroy)(state.0.as_ptr()) }
    }
}

/// Says how the program's runtime attaches threads. Once per process, before the first ig_ensure; the table is copied.
///
/// Context: normal.
/// Returns: IG_OK; IG_INVALID for a null argument, a table in which a function is missing, or a second call.
///
/// # Safety
/// `runtime` is null or points to functions that do what the comments at `ig_runtime` say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_runtime_set(runtime: *const ig_runtime) -> ig_status {
    // SAFETY: the caller's promise.
    let complete = unsafe { runtime.as_ref() }.and_then(|given| {
        Some(Complete {
            attached: given.attached?,
            interpreter_of: given.interpreter_of?,
            create: given.create?,
            attach: given.attach?,
            detach: given.detach?,
            destroy: given.destroy?,
        })
    });
    contained(|| match complete.map(|complete| RUNTIME.set(complete)) {
        Some(Ok(())) => IG_OK,
        _ => IG_INVALID,
    })
}

/// Attaches this thread to a guarded interpreter, whatever is attached on it already. Ensures nest to any depth, also across
/// interpreters, and are released last in, first out.
///
/// Context: normal; allocates; waits as the runtime's `attach` does.
/// Returns: IG_OK; IG_UNAVAILABLE if the runtime could not make a thread state; IG_INVALID for a null argument, a zeroed guard,
/// or without ig_runtime_set; IG_FINALIZING or IG_NOT_FOUND only for a guard that a forked child inherited and did not keep.
/// Ownership: the guard stays the caller's: the level takes its own. With IG_OK, `*token` names the level, which this thread
/// owes one ig_release; else it is 0.
///
/// # Safety
/// `guard` is null, zeroed, or held by the caller throughout the call; `token` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_ensure(guard: *const ig_guard, token: *mut u64) -> ig_status {
    contained(|| {
        // SAFETY: the caller's promise.
        let guard = unsafe { borrow(guard) };
        // SAFETY: the caller's promise.
        unsafe { enter(token, || guard.map(|guard| thread_state::ensure(&guard).map(Attached::into_token))) }
    })
}

/// Attaches this thread to an interpreter by its ID. Inside an ensure of the same interpreter it succeeds while that is closing,
/// too.
///
/// Context: normal; allocates; waits as the runtime's `attach` does.
/// Returns: IG_OK; IG_FINALIZING; IG_NOT_FOUND; else as ig_ensure.
/// Ownership: as ig_ensure.
///
/// # Safety
/// `registry` is null or not freed before the release; `token` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_ensure_id(registry: *mut ig_registry, id: i64, token: *mut u64) -> ig_status {
    // SAFETY: the caller's promise.
    if let Some(token) = unsafe { token.as_mut() } {
        *token = 0; // whatever else is wrong
    }
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| {
        // SAFETY: the caller's promise.
        unsafe { enter(token, || Some(thread_state::ensure_id(rust, id).map(Attached::into_token))) }
    })
}

/// Restores exactly what was attached before the matching ensure, destroys the thread state only if that made it, and gives
/// the level's guard up last.
///
/// Context: normal.
/// Returns: IG_OK; IG_INVALID if `token` is not this thread's innermost level, or its thread state is not attached: then
/// nothing has changed; IG_FINALIZING if it is released, but the interpreter attached before has been finalized meanwhile.
///
/// # Safety
/// The registry of the ensure has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_release(token: u64) -> ig_status {
    contained(|| {
        let Some(token) = Token::from_bits(token) else { return IG_INVALID };
        // SAFETY: the caller's promise.
        match unsafe { token.release() } {
            Ok(()) => IG_OK,
            Err(ReleaseError::Gone) => IG_FINALIZING,
            Err(_) => IG_INVALID,
        }
    })
}

/// The legacy contract, as PyGILState_Ensure has it: attaches this thread to the main interpreter, as a daemon, which guards
/// nothing. It has no answer for a thread that comes too late: where the main interpreter is finalizing or gone, this does not
/// return, and the thread is parked for good. New code uses ig_ensure_id with ig_main, which guards and can say no.
///
/// Context: normal; allocates; waits as the runtime's `attach` does; may never return.
/// Returns: IG_OK; IG_NOT_FOUND if nothing was ever registered; IG_UNAVAILABLE if the runtime could not make a thread state;
/// IG_INVALID for a null argument, or without ig_runtime_set.
/// Ownership: with IG_OK, `*token` names the level, which this thread owes one ig_gilstate_release; else it is 0.
///
/// # Safety
/// `registry` is null or not freed before the release; `token` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_gilstate_ensure(registry: *mut ig_registry, token: *mut u64) -> ig_status {
    // SAFETY: the caller's promise.
    if let Some(token) = unsafe { token.as_mut() } {
        *token = 0; // whatever else is wrong
    }
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| {
        let ensure = || Some(gilstate::try_ensure(rust).map(gilstate::State::into_token));
        // SAFETY: the caller's promise.
        unsafe { enter(token, ensure) }
    })
}

/// Restores what was attached before ig_gilstate_ensure. Where that has been finalized, this does not return: the thread is parked
/// for good.
///
/// Context: normal; may never return.
/// Returns: IG_OK; IG_INVALID as ig_release.
///
/// # Safety
/// The registry of the ensure has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_gilstate_release(token: u64) -> ig_status {
    // SAFETY: the caller's promise.
    match unsafe { ig_release(token) } {
        IG_FINALIZING => thread_state::park_for_good(),
        answer => answer,
    }
}

/// How many threads are parked for good.
///
/// Context: normal.
/// Returns: how many.
#[unsafe(no_mangle)]
pub extern "C" fn ig_parked() -> usize {
    thread_state::parked()
}

/// Begins an allow-threads section: detaches what this thread's innermost ensure has attached, so that others can run while this
/// thread waits for something. Where nothing is attached there is nothing to do, and that is no error; so sections nest, and
/// code that cannot know may use them too.
///
/// Context: normal.
/// Returns: IG_OK, with what ig_allow_threads_end wants in `*section`; IG_INVALID, and 0 there, if something is attached that the
/// innermost ensure did not attach, for a null argument, or without ig_runtime_set.
/// Ownership: what a level guards stays guarded. The thread owes one ig_allow_threads_end, and before that the release of
/// every ensure inside the section.
///
/// # Safety
/// `section` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_allow_threads_begin(section: *mut u64) -> ig_status {
    contained(|| {
        if section.is_null() {
            return IG_INVALID;
        }
        // SAFETY: the caller's promise.
        unsafe { section.write(0) };
        if !is_runtime_set() {
            return IG_INVALID;
        }
        // SAFETY: what C touches inside the section is C's.
        match unsafe { thread_state::allow_threads_begin::<Interp>() } {
            // SAFETY: the caller's promise.
            Some(token) => unsafe { section.write(token.to_bits()) },
            None if Interp::attached().is_some() => return IG_INVALID,
            None => {}
        }
        IG_OK
    })
}

/// Ends an allow-threads section: attaches again what ig_allow_threads_begin has detached. Under a guard, also while the
/// interpreter is closing, it cannot be refused and never hangs.
///
/// Context: normal; waits as the runtime's `attach` does.
/// Returns: IG_OK, also for 0, the section in which nothing was detached; IG_INVALID if `section` is none of this thread's
/// innermost level, or if something is attached: then nothing has changed; IG_FINALIZING or IG_NOT_FOUND if the level is a daemon
/// and its interpreter is about to be handed back, or has been: nothing is attached, and the level owes its ig_release still.
///
/// # Safety
/// The registry of the ensure has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_allow_threads_end(section: u64) -> ig_status {
    contained(|| {
        let Some(token) = Token::from_bits(section) else { return IG_OK };
        if !is_runtime_set() {
            return IG_INVALID;
        }
        // SAFETY: the caller's promise.
        match unsafe { token.allow_threads_end::<Interp>() } {
            Some(Ok(())) => IG_OK,
            Some(Err(refused)) => refused.into(),
            None => IG_INVALID,
        }
    })
}

/// With 1, gives up the guard of this thread's innermost level: the interpreter may finalize under it. With 0, takes one again.
///
/// Context: normal.
/// Returns: IG_OK; with 0 also IG_FINALIZING or IG_NOT_FOUND, and the level is a daemon as before; IG_INVALID for a null registry, or
/// if the innermost level is none of this registry's.
///
/// # Safety
/// `registry` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_set_daemon(registry: *mut ig_registry, daemon: c_int) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| match thread_state::set_innermost_daemon(rust, daemon != 0) {
        Some(Ok(())) => IG_OK,
        Some(Err(refused)) => refused.into(),
        None => IG_INVALID,
    })
}

/// Is this thread's innermost level a daemon?
///
/// Context: normal.
/// Returns: IG_OK, with 1 or 0 in `*daemon`; IG_INVALID for a null argument, or if that level is none of this registry's.
///
/// # Safety
/// `registry` is null or not freed during the call; `daemon` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_is_daemon(registry: *mut ig_registry, daemon: *mut c_int) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| match thread_state::is_daemon(rust) {
        Some(answer) if !daemon.is_null() => {
            // SAFETY: the caller's promise.
            unsafe { daemon.write(answer.into()) };
            IG_OK
        }
        _ => IG_INVALID,
    })
}

/// The interpreter that an ensure has attached on this thread: for a profiler, to tag its samples with.
///
/// Context: any, async-signal-safe.
/// Returns: the ID; -1 if none is attached.
/// Touches: two words in the static block of this thread, which is there from the thread's beginning.
#[unsafe(no_mangle)]
pub extern "C" fn ig_current_id() -> i64 {
    thread_state::current_id().map_or(-1, i64::from)
}

/// # Safety
/// `token` is null or may be written to.
unsafe fn enter(token: *mut u64, ensure: impl FnOnce() -> Option<Result<Token, EnsureError>>) -> ig_status {
    if token.is_null() {
        return IG_INVALID;
    }
    // SAFETY: the caller's promise.
    unsafe { token.write(0) };
    if !is_runtime_set() {
        return IG_INVALID;
    }
    match ensure() {
        Some(Ok(level)) => {
            // SAFETY: the caller's promise.
            unsafe { token.write(level.to_bits()) };
            IG_OK
        }
        Some(Err(EnsureError::NotFound)) => IG_NOT_FOUND,
        Some(Err(EnsureError::Finalizing)) => IG_FINALIZING,
        Some(Err(_)) => IG_UNAVAILABLE,
        None => IG_INVALID,
    }
}
