//! What is called in place of CPython's functions, of `dlsym`, and of `pthread_join`.
//!
//! | called | before CPython's own | after it |
//! |---|---|---|
//! | `PyGILState_Ensure`, by a thread that is not attached | a guard, or the thread comes too late | the guard is kept |
//! | `PyEval_RestoreThread`, `PyEval_AcquireThread` | the same | kept inside an ensure, or if the state is not the thread's own |
//! | `PyThreadState_New`, `PyThreadState_Delete`, by a thread that is not attached | the same | given up |
//! | `PyGILState_Release` of such an ensure, `PyEval_SaveThread`, `PyEval_ReleaseThread`, `PyThreadState_DeleteCurrent` | | the guard is given up |
//!
//! CPython ends threads elsewhere, too: those that take the GIL again in the middle of Python code, for which
//! the end has waited in vain, or which nobody waits for. It calls `pthread_exit` for that, and that call is
//! redirected as well: they are parked.
//!
//! Where it cannot be, CPython may end a thread that is inside its function. That unwinds through ours: they
//! have nothing to drop then, and are `C-unwind`.

use super::table::{Callers, Function};
use super::threads::{self, Here};
use super::{gate, redirect, report};
use crate::ground::helpers::keeping_errno;
use crate::ground::python;
use interp_guard::jump_with_caller;
use pyo3_ffi::{self as ffi, PyInterpreterState, PyThreadState};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::time::Duration;

macro_rules! functions {
    ($($static:ident: $name:literal, $ours:ident, $callers:ident;)*) => {
        $(static $static: Function = Function::new($name, $ours, Callers::$callers);)*
        /// All of them.
        pub static FUNCTIONS: [&Function; [$($name),*].len()] = [$(&$static),*];
    };
}

functions! {
    ENSURE: c"PyGILState_Ensure", ensure_entry, OfPython;
    RELEASE: c"PyGILState_Release", release_entry, OfPython;
    RESTORE: c"PyEval_RestoreThread", restore_entry, OfPython;
    ACQUIRE: c"PyEval_AcquireThread", acquire_entry, OfPython;
    SAVE: c"PyEval_SaveThread", save_entry, OfPython;
    RELEASE_THREAD: c"PyEval_ReleaseThread", release_thread_entry, OfPython;
    DELETE_CURRENT: c"PyThreadState_DeleteCurrent", delete_current_entry, OfPython;
    NEW: c"PyThreadState_New", new_entry, OfPython;
    DELETE: c"PyThreadState_Delete", delete_entry, OfPython;
    DLSYM: c"dlsym", dlsym_entry, All;
    JOIN: c"pthread_join", join_entry, Others;
    EXIT: c"pthread_exit", exit_entry, Python;
}

/// An exported-looking function with the registers of its caller's, and that caller's address behind its so
/// many arguments.
macro_rules! entry {
    ($name:ident, $arguments:tt, $body:path) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            jump_with_caller!($arguments, $body)
        }
    };
}

entry!(ensure_entry, 0, ensure);
entry!(release_entry, 1, release);
entry!(restore_entry, 1, restore);
entry!(acquire_entry, 1, acquire);
entry!(save_entry, 0, save);
entry!(release_thread_entry, 1, release_thread);
entry!(delete_current_entry, 0, delete_current);
entry!(new_entry, 1, new);
entry!(delete_entry, 1, delete);
entry!(join_entry, 2, join);
entry!(exit_entry, 1, exit);

type Ensure = unsafe extern "C-unwind" fn() -> c_int;
type Release = unsafe extern "C-unwind" fn(c_int);
type Attach = unsafe extern "C-unwind" fn(*mut PyThreadState);
type Save = unsafe extern "C-unwind" fn() -> *mut PyThreadState;
type DeleteCurrent = unsafe extern "C-unwind" fn();
type New = unsafe extern "C-unwind" fn(*mut PyInterpreterState) -> *mut PyThreadState;
type Join = unsafe extern "C-unwind" fn(libc::pthread_t, *mut *mut c_void) -> c_int;
type Exit = unsafe extern "C-unwind" fn(*mut c_void) -> !;
type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// The real function, which has this type: safe, since `redirect` has found it under the name for which the C
/// headers say so.
macro_rules! real {
    ($function:ident as $type:ty) => {
        std::mem::transmute::<*mut c_void, $type>($function.real())
    };
}

/// What `PyGILState_Ensure` answers if it has attached the thread: `PyGILState_UNLOCKED`.
const HAS_ATTACHED: c_int = 1;

/// Is this thread attached as `PyGILState_Ensure` sees it, which then only counts?
#[inline(always)]
fn is_attached() -> bool {
    // SAFETY: reads a thread-specific value.
    let own = unsafe { ffi::PyGILState_GetThisThreadState() };
    !own.is_null() && python::unchecked() == own
}

unsafe extern "C-unwind" fn ensure(caller: usize) -> c_int {
    // SAFETY: see `real`.
    let real = unsafe { real!(ENSURE as Ensure) };
    let begin = |here: &Here| {
        if here.is_guarded() || is_attached() {
            return;
        }
        if let Some(guard) = gate::admit() {
            here.keep(guard);
            here.is_inside(caller);
        }
    };
    // SAFETY: as the caller calls it.
    unsafe {
        if threads::here(begin).is_none() {
            return guarded(|| real());
        }
        let state = real();
        if state == HAS_ATTACHED {
            threads::here(Here::enter);
        }
        state
    }
}

unsafe extern "C-unwind" fn release(state: c_int, _caller: usize) {
    // SAFETY: as the caller calls it.
    unsafe { real!(RELEASE as Release)(state) };
    if state == HAS_ATTACHED {
        threads::here(Here::leave);
    }
}

unsafe extern "C-unwind" fn restore(state: *mut PyThreadState, caller: usize) {
    // SAFETY: as the caller calls it.
    unsafe { attach(state, caller, real!(RESTORE as Attach), |here| here.restores(state)) };
}

unsafe extern "C-unwind" fn acquire(state: *mut PyThreadState, caller: usize) {
    // SAFETY: as the caller calls it.
    unsafe { attach(state, caller, real!(ACQUIRE as Attach), |_| ()) };
}

/// # Safety
/// `real` is a function that attaches `state`, which the caller may.
#[inline(always)]
unsafe fn attach(state: *mut PyThreadState, caller: usize, real: Attach, note: impl FnOnce(&Here)) {
    // Until when is the guard kept?
    let begin = |here: &Here| {
        note(here);
        if here.is_guarded() {
            return false;
        }
        let Some(guard) = gate::admit() else { return false };
        // SAFETY: the state exists, since Python has not ended; who gave it to us says so, too.
        let interpreter = unsafe { python::PyThreadState_GetInterpreter(state) };
        // A subinterpreter's end is its owner's affair.
        let stays = here.comes_to_call(state) && guard.is(interpreter);
        here.keep(guard);
        if stays {
            here.is_inside(caller);
        }
        !stays
    };
    // SAFETY: the caller's promise.
    let real = || unsafe { real(state) };
    // Whoever ends a section without the GIL still has the error number of what was in it.
    keeping_errno(|| match threads::here(begin) {
        Some(only_attaches) => {
            real();
            if only_attaches {
                threads::here(Here::give_up);
            }
        }
        None => guarded(real),
    });
}

/// Guarded for as long as the call takes. So attaches a thread that ends, in a destructor of what it alone has,
/// and has nothing of ours any more.
#[cold]
#[inline(never)]
fn guarded<R>(call: impl FnOnce() -> R) -> R {
    let guard = ManuallyDrop::new(gate::admit()); // where CPython ends the thread inside, nothing is dropped
    let result = call();
    drop(ManuallyDrop::into_inner(guard));
    result
}

/// Neither needs the GIL, and both need an interpreter that is not being taken apart: `PyThreadState_New` is
/// what comes before `PyEval_AcquireThread`, and `PyThreadState_Delete` after `PyEval_ReleaseThread`.
unsafe extern "C-unwind" fn new(interpreter: *mut PyInterpreterState, _caller: usize) -> *mut PyThreadState {
    // SAFETY: as the caller calls it.
    let new = || unsafe { real!(NEW as New)(interpreter) };
    if is_inside() { new() } else { guarded(new) }
}

unsafe extern "C-unwind" fn delete(state: *mut PyThreadState, _caller: usize) {
    // SAFETY: as the caller calls it.
    let delete = || unsafe { real!(DELETE as Attach)(state) };
    if is_inside() { delete() } else { guarded(delete) }
}

/// Is the calling thread attached, or guarded all the same?
fn is_inside() -> bool {
    threads::here(Here::is_guarded) == Some(true) || !python::attached().is_null()
}

unsafe extern "C-unwind" fn save(_caller: usize) -> *mut PyThreadState {
    // SAFETY: as the caller calls it.
    let state = unsafe { real!(SAVE as Save)() };
    detaches(state);
    state
}

unsafe extern "C-unwind" fn release_thread(state: *mut PyThreadState, _caller: usize) {
    // SAFETY: as the caller calls it.
    unsafe { real!(RELEASE_THREAD as Attach)(state) };
    detaches(state);
}

#[inline(always)]
fn detaches(state: *mut PyThreadState) {
    keeping_errno(|| threads::here(|here| here.detaches(state)));
}

unsafe extern "C-unwind" fn delete_current(_caller: usize) {
    // SAFETY: as the caller calls it.
    unsafe { real!(DELETE_CURRENT as DeleteCurrent)() };
    threads::here(Here::deletes);
}

/// `dlsym` looks at its caller, for `RTLD_NEXT` and for what that caller can see. So it is jumped to, after a
/// look at what is asked for.
#[unsafe(naked)]
unsafe extern "C" fn dlsym_entry() {
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-32]!",
        "stp x0, x1, [sp, #16]",
        "mov x29, sp",
        "bl {look}",
        "mov x9, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        "cbz x9, 2f",
        "mov x0, x9",
        "ret",
        "2:",
        "adrp x9, {dlsym}",
        "add x9, x9, :lo12:{dlsym}",
        "ldr x9, [x9, {real}]",
        "br x9",
        look = sym before_dlsym,
        dlsym = sym DLSYM,
        real = const std::mem::offset_of!(Function, real),
    );
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8", // a multiple of 16, with the return address
        "call {look}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jz 2f",
        "ret",
        "2: jmp qword ptr [rip + {dlsym} + {real}]",
        look = sym before_dlsym,
        dlsym = sym DLSYM,
        real = const std::mem::offset_of!(Function, real),
    )
}

/// Redirects what has been loaded since: `dlopen` is followed by this for the first function that is wanted.
/// Ours, if one of those is asked for that are redirected; else null.
unsafe extern "C" fn before_dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    redirect::what_was_loaded();
    if name.is_null() || handle == libc::RTLD_NEXT || !gate::is_kept() {
        return null_mut();
    }
    // SAFETY: the caller of `dlsym` has given it a terminated name.
    let name = unsafe { CStr::from_ptr(name) };
    let Some(function) = FUNCTIONS.iter().find(|function| function.is_pythons() && function.name == name)
    else {
        return null_mut();
    };
    // SAFETY: as the caller calls it, but for who that is.
    let found = unsafe { real!(DLSYM as Dlsym)(handle, name.as_ptr()) };
    if redirect::is_real(function, found) { function.ours as *mut c_void } else { null_mut() }
}

/// A thread that is parked for good will never end. Without us CPython would have ended it, or, from 3.14 on,
/// stopped it as well. So somebody who joins it, such as a destructor that is run when the process exits, is
/// told that it has ended.
unsafe extern "C-unwind" fn join(thread: libc::pthread_t, value: *mut *mut c_void, _caller: usize) -> c_int {
    if !gate::is_closed() {
        // SAFETY: as the caller calls it.
        return unsafe { real!(JOIN as Join)(thread, value) };
    }
    loop {
        if gate::is_parked(thread as usize as u64) {
            report::note_join();
            // SAFETY: null, or writable, as the caller says.
            if let Some(value) = unsafe { value.as_mut() } {
                *value = null_mut();
            }
            return 0;
        }
        let until = std::time::SystemTime::now() + Duration::from_millis(5);
        let until = until.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let until = libc::timespec { tv_sec: until.as_secs() as _, tv_nsec: until.subsec_nanos().into() };
        // SAFETY: as the caller calls it; not joined before where it answers so.
        let answer = unsafe { libc::pthread_timedjoin_np(thread, value, &until) };
        if answer != libc::ETIMEDOUT {
            return answer;
        }
    }
}

/// CPython ends the calling thread. If that is because Python ends, it is parked: what is above CPython on its
/// stack may not be unwound. (Up to 3.12 every thread of `_thread` ends with this call as well.)
unsafe extern "C-unwind" fn exit(value: *mut c_void, _caller: usize) -> ! {
    gate::park_if_python_ends();
    // SAFETY: as the caller calls it.
    unsafe { real!(EXIT as Exit)(value) }
}
