//! What the standard library is asked for while the end waits, after its own part of the shutdown: callbacks for `atexit`,
//! threads that are no daemons, pending calls. CPython would lose them; 3.15 comes back for what came meanwhile, in a loop, and
//! so does this. Pending calls are run while the hook waits (`run_signal_handlers`).
//!
//! `interp_guard._late` collects the callbacks and knows the threads. When every interpreter is drained, [`Late::finish`] runs the
//! callbacks, the latest first, and joins the threads, until nothing is new.

use crate::ground::helpers::{run_signal_handlers, say};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::CStr;
use std::ptr::{null, null_mut};

/// How many pending calls may each leave another one, at the last.
const CHAIN: u32 = 32;

/// How often callbacks may each register further ones: 3.15 has no such limit, and no end.
const GENERATIONS: u32 = 1000;

/// One wait's.
pub struct Late {
    /// `interp_guard._late`, or null.
    module: *mut PyObject,
}

impl Late {
    /// From here on callbacks that are registered with `atexit` are ours to call.
    ///
    /// # Safety
    /// Attached, as long as this lives.
    pub unsafe fn begin() -> Self {
        // SAFETY: attached.
        let late = Self { module: unsafe { ffi::PyImport_ImportModule(c"interp_guard._late".as_ptr()) } };
        if late.module.is_null() {
            // SAFETY: attached, with an exception set.
            unsafe { ffi::PyErr_WriteUnraisable(null_mut()) };
        }
        late.ask(c"begin");
        late
    }

    /// Calls a function of the module. Null if that raised, which is shown.
    fn call(&self, function: &CStr) -> *mut PyObject {
        if self.module.is_null() {
            return null_mut();
        }
        // SAFETY: attached, since `begin`; what comes is the caller's.
        unsafe {
            let answer = ffi::PyObject_CallMethod(self.module, function.as_ptr(), null());
            if answer.is_null() {
                ffi::PyErr_WriteUnraisable(self.module);
            }
            answer
        }
    }

    /// The number that a function of the module answers; 0 if it raised.
    fn ask(&self, function: &CStr) -> i64 {
        let answer = self.call(function);
        // SAFETY: attached; null is checked for, and the functions that are asked answer small integers.
        unsafe {
            let number = if answer.is_null() { 0 } else { ffi::PyLong_AsLongLong(answer) };
            ffi::Py_XDECREF(answer);
            number
        }
    }

    /// Calls the callbacks that have come, the latest first. Were there any?
    fn run(&self) -> bool {
        let mut any = false;
        loop {
            let callback = self.call(c"take");
            // SAFETY: attached; null is checked for, the parts of the tuple are borrowed from it.
            unsafe {
                if callback.is_null() || callback == ffi::Py_None() {
                    ffi::Py_XDECREF(callback);
                    return any;
                }
                any = true;
                let part = |at| ffi::PyTuple_GetItem(callback, at);
                let done = ffi::PyObject_Call(part(0), part(1), part(2));
                if done.is_null() {
                    ffi::PyErr_WriteUnraisable(part(0));
                }
                ffi::Py_XDECREF(done);
                ffi::Py_DecRef(callback);
            }
        }
    }

    /// Everything is drained: runs and joins what came, and what that asks for, until nothing is new. `report_is_due`:
    /// is it time to say for whom?
    pub fn finish(self, report_is_due: &mut dyn FnMut() -> bool) {
        for _ in 0..GENERATIONS {
            let mut any = false;
            while self.ask(c"join") > 0 {
                any = true;
                if report_is_due() {
                    self.ask(c"report");
                }
                run_signal_handlers();
            }
            (0..CHAIN).for_each(|_| run_signal_handlers());
            if !self.run() && !any {
                return;
            }
        }
        say(&format!(
            "callbacks that are registered with atexit register others, {GENERATIONS} times: no more"
        ));
    }

    /// Python goes on, and its threads with it: runs the callbacks, which `atexit` would drop.
    pub fn finish_callbacks(self) {
        self.run();
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        let lost = self.ask(c"end");
        if lost > 0 {
            say(&format!(
                "{lost} callbacks that were registered with atexit while it waited, by a reference to atexit.register from \
                 before, are not called"
            ));
        }
        // SAFETY: attached; the module's reference is this one's.
        unsafe { ffi::Py_XDECREF(self.module) };
    }
}
