//! What differs between the versions of CPython, resolved once, at import; and which thread state is attached here.

use pyo3_ffi::{self as ffi, PyInterpreterState, PyObject, PyThreadState};
use std::ffi::{CStr, c_int};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

// Exported by every libpython from 3.9 on, though not in the limited API's headers.
unsafe extern "C" {
    pub fn PyDict_SetDefault(dict: *mut PyObject, key: *mut PyObject, value: *mut PyObject) -> *mut PyObject;
    pub fn PyInterpreterState_ThreadHead(state: *mut PyInterpreterState) -> *mut PyThreadState;
    pub fn PyThreadState_DeleteCurrent();
    pub fn PyThreadState_GetInterpreter(state: *mut PyThreadState) -> *mut PyInterpreterState;
    pub fn PyThreadState_Next(state: *mut PyThreadState) -> *mut PyThreadState;
}

/// `Py_IsFinalizing`, `_Py_IsFinalizing` before 3.13.
static IS_FINALIZING: OnceLock<unsafe extern "C" fn() -> c_int> = OnceLock::new();

type UncheckedGetter = unsafe extern "C" fn() -> *mut PyThreadState;

/// `PyThreadState_GetUnchecked`, `_PyThreadState_UncheckedGet` before 3.13.
static UNCHECKED: AtomicPtr<()> = AtomicPtr::new(nothing_is_attached as UncheckedGetter as *mut ());

/// Up to 3.11 the getter names the holder of the process's one GIL, on whichever thread; then this is where a thread state
/// has the ident of the thread that created it. From 3.12 on the getter is thread-local and exact, and this is 0.
static THREAD_ID: AtomicU32 = AtomicU32::new(0);

/// Where `PyExc_PythonFinalizationError` is; null before 3.13.
static FINALIZATION_ERROR: AtomicPtr<*mut PyObject> = AtomicPtr::new(null_mut());

/// The getter until there is one.
unsafe extern "C" fn nothing_is_attached() -> *mut PyThreadState {
    null_mut()
}

/// What is attached on this thread; up to 3.11 on any thread.
///
/// Context: any; attached or not.
#[inline(always)]
pub fn unchecked() -> *mut PyThreadState {
    // Relaxed: a function's address, stored once, with nothing behind it that would have to be visible too.
    let getter = UNCHECKED.load(Ordering::Relaxed);
    // SAFETY: only functions of this type are stored there; callable always, and touch nothing that the pointer points to.
    unsafe { std::mem::transmute::<*mut (), UncheckedGetter>(getter)() }
}

/// 9 to 15 and beyond, for 3.9 to 3.15 and beyond.
pub fn minor_version() -> u32 {
    // SAFETY: returns a static, terminated string; callable always.
    let version = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(9)
}

/// Is this library for free-threaded Pythons, whose objects are laid out otherwise than the stable ABI's?
pub const FREE_THREADED: bool = cfg!(Py_GIL_DISABLED);

/// Why this library cannot be used by the Python that has loaded it, if it cannot.
///
/// Context: any; it needs nothing of how objects are laid out.
pub fn misfit() -> Option<&'static str> {
    // SAFETY: returns a static, terminated string; callable always.
    let version = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
    match (version.contains("free-threading build"), FREE_THREADED) {
        (true, false) if minor_version() < 14 => Some(
            "free-threaded CPython 3.13 is not supported: use 3.14 or later, or a build that has the GIL",
        ),
        (true, false) => Some(
            "this is the package for Pythons that have the GIL, and a free-threaded one cannot load it: \
             build it with this Python, in a checkout of its repository, by pip install ./python",
        ),
        (false, true) => Some(
            "this is the package for a free-threaded Python, and this one has the GIL: \
             build it with this Python, in a checkout of its repository, by pip install ./python",
        ),
        _ => None,
    }
}

/// Runs `f` while no other thread does so with the same object. Where there is a GIL, that is by itself so.
///
/// `f` lets go of no thread state and runs no Python code: CPython would let others in meanwhile.
///
/// # Safety
/// Attached; `object` is an object, and stays one.
#[inline(always)]
pub unsafe fn alone_with<R>(object: *mut PyObject, f: impl FnOnce() -> R) -> R {
    #[cfg(Py_GIL_DISABLED)]
    {
        struct Section(ffi::PyCriticalSection);
        impl Drop for Section {
            fn drop(&mut self) {
                // SAFETY: begun below, on this thread; what was begun since has ended.
                unsafe { ffi::PyCriticalSection_End(&mut self.0) }
            }
        }
        // SAFETY: a struct of a number and a pointer, which `Begin` writes.
        let mut section = Section(unsafe { std::mem::zeroed() });
        // SAFETY: the caller's promise. The section stays where it is until it is dropped, right here.
        unsafe { ffi::PyCriticalSection_Begin(&mut section.0, object) };
        f()
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = object;
        f()
    }
}

/// The value that a dict has for a key, once `value` has been put there unless another was; borrowed. Of two threads one is first,
/// and both get its value. Null with an exception set.
///
/// # Safety
/// Attached; `dict` is a dict, and `value` an object.
pub unsafe fn first_in(dict: *mut PyObject, key: &CStr, value: *mut PyObject) -> *mut PyObject {
    // SAFETY: the caller's promise; the key is checked for null and given back.
    unsafe {
        let key = ffi::PyUnicode_FromString(key.as_ptr());
        let kept = if key.is_null() { null_mut() } else { PyDict_SetDefault(dict, key, value) };
        ffi::Py_XDECREF(key);
        kept
    }
}

/// Looks up what the limited API does not name. To be called before anything else here.
pub fn resolve() -> Result<(), &'static str> {
    if IS_FINALIZING.get().is_some() {
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
    let thread_id = match minor_version() {
        9 | 10 => 176, // offsetof(PyThreadState, thread_id) in the 64-bit headers; checked by a test
        11 => 152,
        _ => 0,
    };
    // Relaxed: see `unchecked`; whoever gets to call this library at all was told by the thread that imports it.
    THREAD_ID.store(thread_id, Ordering::Relaxed);
    if let Some(error) = symbol(c"PyExc_PythonFinalizationError") {
        FINALIZATION_ERROR.store(error.cast(), Ordering::Relaxed);
    }
    UNCHECKED.store(unchecked.cast(), Ordering::Relaxed); // both names have had the getter's signature since 3.5
    // SAFETY: both names have had this signature since 3.7.
    let is_finalizing =
        unsafe { std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> c_int>(is_finalizing) };
    let _ = IS_FINALIZING.set(is_finalizing); // whoever was first resolved the same
    Ok(())
}

/// Has CPython begun to tear the main interpreter down (its atexit callbacks are over)?
pub fn is_finalizing() -> bool {
    // SAFETY: reads a flag; callable always.
    IS_FINALIZING.get().is_some_and(|is_finalizing| unsafe { is_finalizing() } != 0)
}

/// `PythonFinalizationError`, or `RuntimeError` before 3.13; borrowed.
///
/// # Safety
/// Attached.
pub unsafe fn finalization_error() -> *mut PyObject {
    // Relaxed: see `unchecked`.
    let error = FINALIZATION_ERROR.load(Ordering::Relaxed);
    // SAFETY: null, or where CPython has a static class; so is the other.
    unsafe { error.as_ref().map_or(ffi::PyExc_RuntimeError, |error| *error) }
}

/// Is the attached thread state the only one of its interpreter?
///
/// # Safety
/// Attached.
pub unsafe fn is_alone() -> bool {
    // SAFETY: attached. New states come in at the head of the list, and those of others, which may be freed at any
    // moment, are not looked into: only the interpreter and the state of this thread are.
    unsafe {
        let state = ffi::PyThreadState_Get();
        PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(state)) == state
            && PyThreadState_Next(state).is_null()
    }
}

/// Is there one GIL for all interpreters? Up to 3.11.
#[inline(always)]
pub fn has_one_gil() -> bool {
    THREAD_ID.load(Ordering::Relaxed) != 0 // a constant once resolved
}

/// Does `PyThreadState_New` take a lock that `os.fork` neither waits for nor repairs in the child? Up to 3.11, and where
/// there is no GIL.
#[inline(always)]
pub fn new_is_unsafe_across_fork() -> bool {
    FREE_THREADED || has_one_gil()
}

/// The thread state attached on this thread, or null.
///
/// Context: normal; attached or not. On 3.9 to 3.11 a state attached on a thread that did not create it is not
/// recognised.
#[inline(always)]
pub fn attached() -> *mut PyThreadState {
    let state = unchecked();
    if state.is_null() {
        return state;
    }
    // Relaxed: a constant once resolved.
    match THREAD_ID.load(Ordering::Relaxed) {
        0 => state,
        thread_id => attached_if_mine(state, thread_id as usize),
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
    if read_word(state as usize + thread_id) == Some(this_thread()) { state } else { null_mut() }
}

/// The calling thread, as CPython numbers it: its `pthread_t`, which is a number, or, in musl, an address.
///
/// Context: any, async-signal-safe.
pub fn this_thread() -> u64 {
    // SAFETY: pthread_self is always callable.
    unsafe { libc::pthread_self() as usize as u64 }
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
