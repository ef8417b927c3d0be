//! What differs between the versions of CPython, resolved once, at import; and which thread state is attached here.

use pyo3_ffi::{self as ffi, PyInterpreterState, PyThreadState};
use std::ffi::{CStr, c_int};
use std::ptr::null_mut;
use std::sync::OnceLock;

// Exported by every libpython from 3.9 on, though not in the limited API's headers.
unsafe extern "C" {
    pub fn PyThreadState_DeleteCurrent();
    pub fn PyThreadState_GetInterpreter(state: *mut PyThreadState) -> *mut PyInterpreterState;
}

/// What [`resolve`] found.
struct Python {
    /// `PyThreadState_GetUnchecked`, `_PyThreadState_UncheckedGet` before 3.13.
    unchecked: unsafe extern "C" fn() -> *mut PyThreadState,
    is_finalizing: unsafe extern "C" fn() -> c_int,
    /// Up to 3.11 `unchecked` names the holder of the process's one GIL, on whichever thread; then this is where a
    /// thread state has the ident of the thread that created it. From 3.12 on `unchecked` is thread-local and exact.
    thread_id: Option<usize>,
}

static PYTHON: OnceLock<Python> = OnceLock::new();

/// 9 to 15 and beyond, for 3.9 to 3.15 and beyond.
pub fn minor_version() -> u32 {
    // SAFETY: returns a static, terminated string; callable always.
    let version = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(9)
}

/// Looks up what the limited API does not name. To be called before anything else here.
pub fn resolve() -> Result<(), &'static str> {
    if PYTHON.get().is_some() {
        return Ok(());
    }
    let symbol = |name: &CStr| {
        // SAFETY: dlsym with a terminated name.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    };
    let unchecked = symbol(c"PyThreadState_GetUnchecked")
        .or_else(|| symbol(c"_PyThreadState_UncheckedGet"))
        .ok_or("this Python has no unchecked thread-state getter")?;
    let is_finalizing = symbol(c"Py_IsFinalizing")
        .or_else(|| symbol(c"_Py_IsFinalizing"))
        .ok_or("this Python has no Py_IsFinalizing")?;
    let python = Python {
        // SAFETY: both names have had this signature since 3.5.
        unchecked: unsafe {
            std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> *mut PyThreadState>(unchecked)
        },
        // SAFETY: both names have had this signature since 3.7.
        is_finalizing: unsafe {
            std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> c_int>(is_finalizing)
        },
        thread_id: match minor_version() {
            9 | 10 => Some(176), // offsetof(PyThreadState, thread_id) in the 64-bit headers; checked by a test
            11 => Some(152),
            _ => None,
        },
    };
    let _ = PYTHON.set(python); // whoever was first resolved the same
    Ok(())
}

/// Has CPython begun to tear the main interpreter down (its atexit callbacks are over)?
pub fn is_finalizing() -> bool {
    // SAFETY: reads a flag; callable always.
    PYTHON.get().is_some_and(|python| unsafe { (python.is_finalizing)() } != 0)
}

/// Does `PyThreadState_New` take a lock that `os.fork` neither waits for nor repairs in the child? Up to 3.11.
pub fn new_is_unsafe_across_fork() -> bool {
    PYTHON.get().is_some_and(|python| python.thread_id.is_some())
}

/// The thread state attached on this thread, or null. `ours` is the state of this thread's innermost level, or null.
///
/// Context: normal; attached or not. On 3.9 to 3.11 a state attached on a thread that did not create it is not
/// recognised.
#[inline]
pub fn attached(ours: *mut PyThreadState) -> *mut PyThreadState {
    let Some(python) = PYTHON.get() else { return null_mut() };
    // SAFETY: callable always; returns a pointer without touching what it points to.
    let state = unsafe { (python.unchecked)() };
    match python.thread_id {
        None => state,
        Some(_) if state.is_null() || state == ours => state,
        Some(offset) => attached_if_mine(state, offset),
    }
}

/// Up to 3.11: `state` holds the GIL. Is it this thread that holds it?
#[cold]
fn attached_if_mine(state: *mut PyThreadState, thread_id: usize) -> *mut PyThreadState {
    // SAFETY: reads a thread-specific value.
    if state == unsafe { ffi::PyGILState_GetThisThreadState() } {
        return state;
    }
    // Another thread's state may be freed at any moment: its memory is read by the kernel, which cannot fault.
    // SAFETY: pthread_self is always callable.
    let me = unsafe { libc::pthread_self() };
    if read_word(state as usize + thread_id) == Some(me) { state } else { null_mut() }
}

/// The word at an address that may not be mapped.
fn read_word(address: usize) -> Option<u64> {
    let mut word = 0_u64;
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: 8 };
    // SAFETY: reads this very process; `word` is the only memory written.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    if read == 8 {
        return Some(word);
    }
    // A seccomp filter may forbid the call; the same through the file system.
    let memory = std::fs::File::open("/proc/self/mem").ok()?;
    let mut bytes = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, address as u64).ok()?;
    Some(u64::from_ne_bytes(bytes))
}
