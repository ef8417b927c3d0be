//! Closing and draining interpreters when they end.
//!
//! Each interpreter has an `atexit` hook, which runs while its threads can still attach. A subinterpreter's closes and
//! drains that interpreter. The main interpreter's closes *every* interpreter first and then drains them all, newest
//! first: once the main interpreter finalizes, no thread of any interpreter can attach any more. A hook that runs later
//! than that finds nobody to wait for.

use super::late::Late;
use super::retire::retire;
use super::wait::{Wait, end_process};
use super::{on_close, state};
use crate::ground::helpers::{call, say};
use crate::ground::python;
use crate::ground::registry::{self, REGISTRY};
use crate::holding::holds;
use crate::signals;
use interp_guard::{CloseError, InterpreterId};
use pyo3_ffi as ffi;
use std::ptr::null_mut;

/// Would an `atexit` callback registered now never be called? CPython says so nowhere: `_atexit.py` looks for signs of it.
/// `None` with an exception set.
///
/// # Safety
/// The caller is attached, with no exception set.
pub unsafe fn too_late_for_hooks() -> Option<bool> {
    if state::main_is_ending() || python::is_finalizing() {
        return Some(true);
    }
    // SAFETY: attached; the answer is checked for null and given back.
    unsafe {
        let answer = call(c"interp_guard._atexit", c"is_running");
        let running = if answer.is_null() { -1 } else { ffi::PyObject_IsTrue(answer) };
        ffi::Py_XDECREF(answer);
        (running >= 0).then_some(running == 1)
    }
}

/// What an interpreter's hook does at the end.
///
/// # Safety
/// The caller is attached.
pub unsafe fn close_and_drain() {
    // SAFETY: the caller is attached.
    let (_, Some(id)) = (unsafe { registry::current() }) else { return };
    let is_main = Some(id) == registry::main_id();
    if !is_main && (state::main_is_drained() || python::is_finalizing()) {
        return retire(id);
    }
    if is_main {
        state::main_begins_to_end();
    }
    let mut ids = if is_main { registry::ids() } else { vec![id] };
    ids.reverse(); // newest first, the main interpreter last
    // SAFETY: attached.
    unsafe { hush_refused_threads() };
    // SAFETY: attached.
    let late = unsafe { Late::begin() };
    let mut closings: Vec<_> = ids.into_iter().map(|id| (id, on_close::close(id))).collect();
    refuse_to_wait_for_oneself(closings.iter().map(|(id, _)| *id));
    for (id, closing) in &mut closings {
        if let Ok((_, guard)) = closing {
            on_close::tell(*id, guard.take());
        }
    }

    let mut wait = Wait::begin(is_main);
    for (id, closing) in closings {
        match closing {
            Ok((closing, _)) => wait.drain(closing),
            Err(CloseError::AlreadyClosing) => wait.until_somebody_else_has_drained(id),
            Err(CloseError::NotFound) => {} // drained before, from the outside
        }
        wait.until_threads_have_left(id);
    }
    late.finish(&mut || wait.report_is_due());
    if is_main {
        drop(wait);
        state::main_has_drained();
        // SAFETY: attached to the main interpreter.
        unsafe { signals::before_main_ends() };
    } else {
        wait.end();
    }
}

/// The program runs its `atexit` callbacks itself. It may go on, or end the process without any further callback: so the
/// interpreter stays open, and what is guarded is waited for.
///
/// # Safety
/// The caller is attached.
pub unsafe fn wait_without_closing() {
    // SAFETY: the caller is attached.
    let (_, Some(id)) = (unsafe { registry::current() }) else { return };
    let is_main = Some(id) == registry::main_id();
    let mut ids = if is_main { registry::ids() } else { vec![id] };
    ids.reverse();
    // SAFETY: attached.
    let late = unsafe { Late::begin() };
    for &id in &ids {
        on_close::tell(id, REGISTRY.lookup(id).ok());
    }
    let mut wait = Wait::begin(is_main);
    for id in ids {
        if holds(id) {
            say(&format!(
                "atexit callbacks are run inside PyThreadState_Ensure of interpreter {id}: its guards are not waited for here"
            ));
        } else {
            wait.until_none_is_out(id);
        }
    }
    late.finish_callbacks();
    wait.end();
}

/// A level of the calling thread keeps one of the interpreters alive, and no other thread can release it. Going on would
/// be a crash, and waiting a hang without end.
fn refuse_to_wait_for_oneself(mut ids: impl Iterator<Item = InterpreterId>) {
    let Some(id) = ids.find(|&id| holds(id)) else { return };
    say(&format!(
        "interpreter {id} cannot finalize: this thread is inside PyThreadState_Ensure for it, and would wait for itself. \
         Release it first. The process ends with status 1"
    ));
    // SAFETY: the callers are attached.
    unsafe { end_process() }
}

/// Soon threads are refused, and end by it: see `_quiet.py`.
///
/// # Safety
/// Attached, with no exception set.
unsafe fn hush_refused_threads() {
    // SAFETY: attached; the answer is given back.
    unsafe {
        ffi::Py_XDECREF(call(c"interp_guard._quiet", c"hush_threading"));
        if !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_WriteUnraisable(null_mut()); // as what a signal handler raises
        }
    }
}
