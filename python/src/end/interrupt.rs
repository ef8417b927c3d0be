//! Ctrl-C while a drain waits: the first asks who holds the guards, the second ends the process.
//!
//! CPython's own SIGINT handler only leaves a note for the main thread, which is the one that waits. So while a hook or
//! `InterpGuard_Drain` waits, a handler of ours takes its place, if what is installed is CPython's and Python code has not
//! set a handler of its own.

use crate::ground::helpers::{installed, keeping_exception, object_of};
use crate::ground::threads::in_main_thread;
use pyo3_ffi as ffi;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Is there a [`Watch`]? Without one, our handler, which somebody may have chained to meanwhile, leaves it to CPython's.
static WATCHING: AtomicBool = AtomicBool::new(false);

/// How often SIGINT came during the current wait.
static PRESSED: AtomicU32 = AtomicU32::new(0);

/// The address of CPython's handler, once ours has taken its place.
static CPYTHONS: AtomicUsize = AtomicUsize::new(0);

/// Is this CPython's own, as `PyOS_setsig` installs it? `faulthandler`'s lies in the same code, and has other flags.
fn is_cpythons(action: &libc::sigaction) -> bool {
    const NEVER: libc::c_int = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_NODEFER;
    let python = object_of(ffi::PyErr_CheckSignals as *const () as usize);
    action.sa_flags & NEVER == 0 && python.is_some() && python == object_of(action.sa_sigaction)
}

/// Is `signal.default_int_handler` what Python code has for SIGINT? To be called attached to the main interpreter; the caller's
/// exception stays as it is.
fn default_in_python() -> bool {
    let ask = || {
        // SAFETY: attached; every object is checked for null and given back.
        unsafe {
            let signal = ffi::PyImport_ImportModule(c"_signal".as_ptr());
            let same = !signal.is_null() && {
                let default = ffi::PyObject_GetAttrString(signal, c"default_int_handler".as_ptr());
                let current =
                    ffi::PyObject_CallMethod(signal, c"getsignal".as_ptr(), c"i".as_ptr(), libc::SIGINT);
                ffi::Py_XDECREF(default);
                ffi::Py_XDECREF(current);
                !default.is_null() && default == current
            };
            ffi::Py_XDECREF(signal);
            same
        }
    };
    // SAFETY: attached.
    unsafe { keeping_exception(ask) }
}

/// A forked child does not wait for what its parent waits for.
pub fn after_fork_child() {
    WATCHING.store(false, Ordering::Relaxed); // read by this thread alone
}

/// Our handler, for as long as this lives.
pub struct Watch(libc::sigaction);

impl Watch {
    /// Installs the handler, if CPython's is there and Python's own default is behind it. `main`: the caller is attached
    /// to the main interpreter, and can ask. Elsewhere only the process's main thread installs it, and does not know what is
    /// behind CPython's: while Python's main thread waits, no handler of Python code can run anyway. Dropped, it puts back what
    /// was there and keeps to itself what came.
    pub fn begin(main: bool) -> Option<Self> {
        let before = installed(libc::SIGINT);
        if !is_cpythons(&before) || !(if main { default_in_python() } else { in_main_thread() }) {
            return None;
        }
        // Relaxed, all of them: the handler is installed by this thread, and by a system call that comes after.
        CPYTHONS.store(before.sa_sigaction, Ordering::Relaxed);
        PRESSED.store(0, Ordering::Relaxed);
        WATCHING.store(true, Ordering::Relaxed);
        let mut ours = before;
        ours.sa_sigaction = address_of_ours();
        ours.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: installs a handler that is async-signal-safe; `before` keeps what it replaces.
        (unsafe { libc::sigaction(libc::SIGINT, &ours, std::ptr::null_mut()) } == 0).then_some(Self(before))
    }

    /// How often Ctrl-C was pressed since.
    pub fn pressed(&self) -> u32 {
        PRESSED.load(Ordering::Relaxed) // a count, read by its own thread or later
    }

    /// Puts back what was there, and tells it of a Ctrl-C that came meanwhile.
    pub fn end(watch: Option<Self>) {
        if watch.map(drop).is_some() && PRESSED.load(Ordering::Relaxed) > 0 {
            // SAFETY: sends this process a signal.
            unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHING.store(false, Ordering::Relaxed); // before the system call, in this thread
        // Somebody may have put another handler in place of ours, and keeps ours to call it: that stays.
        if installed(libc::SIGINT).sa_sigaction == address_of_ours() {
            // SAFETY: puts back what was there.
            unsafe { libc::sigaction(libc::SIGINT, &self.0, std::ptr::null_mut()) };
        }
    }
}

fn address_of_ours() -> usize {
    on_sigint as extern "C" fn(libc::c_int) as usize
}

extern "C" fn on_sigint(signal: libc::c_int) {
    // Relaxed, all of them: nothing else is told by them.
    if !WATCHING.load(Ordering::Relaxed) {
        let cpythons = CPYTHONS.load(Ordering::Relaxed);
        // SAFETY: the address of a handler of one argument, which `begin` found installed before ours.
        return unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(cpythons)(signal) };
    }
    if PRESSED.fetch_add(1, Ordering::Relaxed) > 0 {
        let text = b"interp_guard: interrupted again while waiting for guards; the process ends\n";
        // SAFETY: both are async-signal-safe; `text` is readable for its length.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::_exit(130);
        }
    }
}
