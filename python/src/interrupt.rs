//! Ctrl-C while a drain waits: the first asks who holds the guards, the second ends the process.
//!
//! CPython's own SIGINT handler only leaves a note for the main thread, which is the one that waits. So while a hook
//! waits, a handler of ours takes its place, if what is installed is CPython's and Python code has not set a handler of
//! its own.

use pyo3_ffi as ffi;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The address of CPython's handler, as found at the first import in an epoch; 0 if it was not installed then.
static CPYTHONS: AtomicUsize = AtomicUsize::new(0);

/// How often SIGINT came during the current wait.
static PRESSED: AtomicU32 = AtomicU32::new(0);

/// Notes what CPython's handler is. To be called attached to the main interpreter.
pub fn remember() {
    if default_in_python() {
        // Relaxed: a number that does not change while Python runs.
        CPYTHONS.store(installed().sa_sigaction, Ordering::Relaxed);
    }
}

fn installed() -> libc::sigaction {
    // SAFETY: a sigaction is plain data; zero is a valid one to write over.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks; `action` is writable.
    unsafe { libc::sigaction(libc::SIGINT, std::ptr::null(), &mut action) };
    action
}

/// Is `signal.default_int_handler` what Python code has for SIGINT? To be called attached to the main interpreter.
fn default_in_python() -> bool {
    // SAFETY: attached; every object is checked for null and given back.
    unsafe {
        let signal = ffi::PyImport_ImportModule(c"_signal".as_ptr());
        if signal.is_null() {
            ffi::PyErr_Clear();
            return false;
        }
        let default = ffi::PyObject_GetAttrString(signal, c"default_int_handler".as_ptr());
        let current = ffi::PyObject_CallMethod(signal, c"getsignal".as_ptr(), c"i".as_ptr(), libc::SIGINT);
        let same = !default.is_null() && default == current;
        ffi::PyErr_Clear();
        ffi::Py_XDECREF(default);
        ffi::Py_XDECREF(current);
        ffi::Py_DecRef(signal);
        same
    }
}

/// Our handler, for as long as this lives.
pub struct Watch(libc::sigaction);

impl Watch {
    /// Installs the handler, if CPython's is there and Python's own default is behind it. `main`: the caller is attached
    /// to the main interpreter, and can ask. Elsewhere only the process's main thread installs it: while that waits,
    /// no Python handler can run anyway.
    pub fn begin(main: bool) -> Option<Self> {
        let before = installed();
        // Relaxed: as in `remember`.
        let cpythons = CPYTHONS.load(Ordering::Relaxed);
        // SAFETY: both calls only read numbers.
        let in_main_thread = || unsafe { libc::gettid() == libc::getpid() };
        if cpythons == 0
            || before.sa_sigaction != cpythons
            || !(if main { default_in_python() } else { in_main_thread() })
        {
            return None;
        }
        PRESSED.store(0, Ordering::Relaxed); // the handler that counts comes after
        let mut ours = before;
        ours.sa_sigaction = on_sigint as extern "C" fn(libc::c_int) as usize;
        ours.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: installs a handler that is async-signal-safe; `before` keeps what it replaces.
        (unsafe { libc::sigaction(libc::SIGINT, &ours, std::ptr::null_mut()) } == 0).then_some(Self(before))
    }

    /// How often Ctrl-C was pressed since.
    pub fn pressed(&self) -> u32 {
        PRESSED.load(Ordering::Relaxed) // a count, read by its own thread or later
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: puts back what was there.
        unsafe { libc::sigaction(libc::SIGINT, &self.0, std::ptr::null_mut()) };
    }
}

extern "C" fn on_sigint(_: libc::c_int) {
    // Relaxed: nothing else is told by it.
    if PRESSED.fetch_add(1, Ordering::Relaxed) > 0 {
        let text = b"interp_guard: interrupted again while waiting for guards; the process ends\n";
        // SAFETY: both are async-signal-safe; `text` is readable for its length.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::_exit(130);
        }
    }
}
