//! Closing and draining interpreters when they end, and saying so while it takes long.
//!
//! Each interpreter has an `atexit` hook, which runs while its threads can still attach. A subinterpreter's closes and
//! drains that interpreter. The main interpreter's closes *every* interpreter first and then drains them all, newest
//! first: once the main interpreter finalizes, no thread of any interpreter can attach any more. A hook that runs later
//! than that finds nobody to wait for.

use crate::interrupt::{self, Watch};
use crate::late::Late;
use crate::table::{self, Interpreter, REGISTRY};
use crate::{fork, keeper, levels, on_close, python, signals};
use interp_guard::{CloseError, Closing, DrainError, DrainOptions, InterpreterId};
use pyo3_ffi as ffi;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a drain waits before it looks whether there is something else to do.
const SLICE: Duration = Duration::from_millis(100);

/// How long a hook waits before it first says for whom; each later report takes twice as long to come.
const FIRST_REPORT: Duration = Duration::from_millis(500);
const REPORTS_AT_MOST_EVERY: Duration = Duration::from_secs(30);

/// Has the main interpreter's hook begun in this epoch? Then what registers has come too late: nobody would wait for it.
static MAIN_IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Has the main interpreter's hook run in this epoch? Then threads may be gone or stuck, and nothing may wait for them.
static MAIN_IS_DRAINED: AtomicBool = AtomicBool::new(false);

/// The thread on which the main interpreter's hook ran last, as `pthread_self` says, or 0.
static MAIN_ENDS_ON: AtomicU64 = AtomicU64::new(0);

/// Writes one line to standard error, which may be closed.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "interp_guard: {line}");
}

/// Python is gone, and may come back.
pub fn begin_epoch() {
    // Release: with the Acquire loads, though no Python thread exists that could see it otherwise.
    MAIN_IS_DRAINED.store(false, Ordering::Release);
    MAIN_IS_ENDING.store(false, Ordering::Release);
    MAIN_ENDS_ON.store(0, Ordering::Relaxed);
    fork::begin_epoch();
}

/// Is this the thread on which the main interpreter ends, in an `atexit` callback after our hook? It can still attach,
/// and the interpreter cannot get any further before it returns.
pub fn main_ends_on_this_thread() -> bool {
    // SAFETY: always callable.
    let (me, initialized) = unsafe { (libc::pthread_self(), ffi::Py_IsInitialized() != 0) };
    // Relaxed: only what this thread has stored itself is of interest.
    initialized && MAIN_ENDS_ON.load(Ordering::Relaxed) == me
}

/// Has the main interpreter begun to close all others?
pub fn main_is_ending() -> bool {
    MAIN_IS_ENDING.load(Ordering::Acquire)
}

/// Would an `atexit` callback registered now never be called? CPython says so nowhere: `_atexit.py` looks for signs of it.
/// `None` with an exception set.
///
/// # Safety
/// The caller is attached, with no exception set.
pub unsafe fn too_late_for_hooks() -> Option<bool> {
    if main_is_ending() || python::is_finalizing() {
        return Some(true);
    }
    // SAFETY: attached; objects are checked for null and given back.
    unsafe {
        let module = ffi::PyImport_ImportModule(c"interp_guard._atexit".as_ptr());
        if module.is_null() {
            return None;
        }
        let answer = ffi::PyObject_CallMethod(module, c"is_running".as_ptr(), std::ptr::null());
        ffi::Py_DecRef(module);
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
    let (_, Some(id)) = (unsafe { table::current() }) else { return };
    let is_main = Some(id) == table::main_id();
    if !is_main && (MAIN_IS_DRAINED.load(Ordering::Acquire) || python::is_finalizing()) {
        return table::retire(id);
    }
    // Before it looks who there is. Whoever registers afterwards sees this, or is seen (the registry's mutex is in between).
    MAIN_IS_ENDING.fetch_or(is_main, Ordering::AcqRel);
    if is_main {
        // Relaxed: see `main_ends_on_this_thread`.
        // SAFETY: always callable.
        MAIN_ENDS_ON.store(unsafe { libc::pthread_self() }, Ordering::Relaxed);
    }
    let mut ids = if is_main { table::ids() } else { vec![id] };
    ids.reverse(); // newest first, the main interpreter last
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
            Err(CloseError::NotFound) => {}
        }
    }
    late.finish(&mut wait);
    if is_main {
        drop(wait);
        MAIN_IS_DRAINED.store(true, Ordering::Release);
        // SAFETY: attached to the main interpreter.
        unsafe { signals::before_main_ends() };
    } else {
        Watch::end(wait.watch);
    }
}

/// How long a hook waits that was called when Python does not end: what is still out then is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program runs its `atexit` callbacks itself. It may go on, or end the process without any further callback: so the
/// interpreter stays open, and what is guarded is waited for.
///
/// # Safety
/// The caller is attached.
pub unsafe fn wait_without_closing() {
    // SAFETY: the caller is attached.
    let (_, Some(id)) = (unsafe { table::current() }) else { return };
    let is_main = Some(id) == table::main_id();
    let mut ids = if is_main { table::ids() } else { vec![id] };
    ids.reverse();
    // SAFETY: attached.
    let late = unsafe { Late::begin() };
    for &id in &ids {
        on_close::tell(id, REGISTRY.lookup(id).ok());
    }
    let mut wait = Wait::begin(is_main);
    for id in ids {
        if levels::holds(id) {
            say(&format!(
                "atexit callbacks are run inside PyThreadState_Ensure of interpreter {id}: its guards are not waited for here"
            ));
        } else {
            wait.until_none_is_out(id);
        }
    }
    late.finish_callbacks();
    Watch::end(wait.watch);
}

/// A level of the calling thread keeps one of the interpreters alive, and no other thread can release it. Going on would
/// be a crash, and waiting a hang without end.
fn refuse_to_wait_for_oneself(mut ids: impl Iterator<Item = InterpreterId>) {
    let Some(id) = ids.find(|&id| levels::holds(id)) else { return };
    say(&format!(
        "interpreter {id} cannot finalize: this thread is inside PyThreadState_Ensure for it, and would wait for itself. \
         Release it first. The process ends with status 1"
    ));
    // SAFETY: attached; objects are checked for null and given back; the process then ends.
    unsafe {
        for stream in [c"stdout", c"stderr"] {
            let stream = ffi::PySys_GetObject(stream.as_ptr());
            if !stream.is_null() {
                ffi::Py_XDECREF(ffi::PyObject_CallMethod(stream, c"flush".as_ptr(), std::ptr::null()));
                ffi::PyErr_Clear();
            }
        }
        libc::_exit(1);
    }
}

/// One hook's waiting: with the GIL released, looking up now and then.
pub struct Wait {
    watch: Option<Watch>,
    began: Instant,
    asked: u32,
    next_report: Instant,
    interval: Duration,
}

impl Wait {
    /// To be called attached.
    fn begin(is_main: bool) -> Self {
        Self {
            watch: Watch::begin(is_main),
            began: Instant::now(),
            asked: 0,
            next_report: Instant::now() + FIRST_REPORT,
            interval: FIRST_REPORT,
        }
    }

    /// Is it time to say who is waited for?
    pub fn report_is_due(&mut self) -> bool {
        let pressed = self.watch.as_ref().map_or(0, Watch::pressed);
        let asked = pressed > std::mem::replace(&mut self.asked, pressed);
        let due = Instant::now() >= self.next_report;
        if due {
            self.interval = (2 * self.interval).min(REPORTS_AT_MOST_EVERY);
            self.next_report = Instant::now() + self.interval;
        }
        due || asked
    }

    /// Waits until `closing` is drained. Attached before and after, not while it waits.
    fn drain(&mut self, mut closing: Closing<'static, Interpreter>) {
        loop {
            // SAFETY: attached.
            let state = unsafe { ffi::PyEval_SaveThread() };
            let mut looked = Instant::now();
            let look_up = || {
                if looked.elapsed() >= SLICE {
                    // SAFETY: saved above, and saved again.
                    unsafe {
                        ffi::PyEval_RestoreThread(state);
                        run_signal_handlers();
                        ffi::PyEval_SaveThread();
                    }
                    looked = Instant::now();
                }
                if self.report_is_due() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let result = closing.drain_with(DrainOptions::new().interrupt(look_up));
            // SAFETY: saved above.
            unsafe { ffi::PyEval_RestoreThread(state) };
            closing = match result {
                Ok(interpreter) => return keeper::end(interpreter),
                Err(DrainError::Superseded(_)) => return,
                Err(DrainError::Unbalanced(timeout)) => {
                    // Which guards are out, if any, nobody can tell any more, and none of them can be waited for.
                    return say(&format!("more guards were closed than taken: {timeout}"));
                }
                Err(DrainError::Interrupted(timeout)) => {
                    let waited = self.began.elapsed().as_secs_f64();
                    say(&format!("waiting, {waited:.1} s so far, before Python can end: {timeout}"));
                    timeout.into_closing()
                }
                Err(refused) => {
                    if self.report_is_due() {
                        say(&refused.to_string());
                    }
                    detached(|| std::thread::sleep(SLICE)); // the answer came at once: not too often
                    run_signal_handlers();
                    refused.into_closing()
                }
            };
        }
    }

    /// Python goes on: waits until no guard of `id` is out, or patience is.
    fn until_none_is_out(&mut self, id: InterpreterId) {
        let end = self.began + PATIENCE;
        while let Some(out @ 1..) = REGISTRY.outstanding(id) {
            if Instant::now() >= end {
                return say(&format!(
                    "interpreter {id}: waited {} s for {out} guards, and go on, since Python does not end",
                    PATIENCE.as_secs()
                ));
            }
            detached(|| std::thread::sleep(SLICE / 10));
            if self.report_is_due() {
                say(&format!(
                    "waiting: interpreter {id}: {out} guards are out. The program runs the atexit callbacks itself, and they \
                     may be all that comes before the process ends"
                ));
            }
            run_signal_handlers();
        }
    }

    /// Another thread drains `id`, and has to finish before anything may end.
    fn until_somebody_else_has_drained(&mut self, id: InterpreterId) {
        while let Some(out) = REGISTRY.outstanding(id) {
            if let Ok(closing) = REGISTRY.close(id) {
                return self.drain(closing); // it gave up
            }
            detached(|| std::thread::sleep(SLICE / 10));
            if self.report_is_due() {
                say(&format!("interpreter {id}: another thread is draining it, with {out} guards out"));
            }
            run_signal_handlers();
        }
    }
}

/// Runs `f` with the GIL released.
pub fn detached<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the callers are attached.
    let state = unsafe { ffi::PyEval_SaveThread() };
    let result = f();
    // SAFETY: saved above, by this thread.
    unsafe { ffi::PyEval_RestoreThread(state) };
    result
}

/// A handler that Python code has set runs as it would, and so does what `Py_AddPendingCall` left: the thread that waits may be the
/// only one that runs either. What they raise is shown, and the waiting goes on.
pub fn run_signal_handlers() {
    // SAFETY: attached.
    unsafe {
        if ffi::Py_MakePendingCalls() != 0 {
            ffi::PyErr_WriteUnraisable(std::ptr::null_mut());
        }
    }
}

/// What became of [`drain`].
pub enum Drained {
    Done,
    NotFound,
    AlreadyClosing,
    WouldDeadlock,
    /// With the report.
    TimedOut(String),
    /// More guards were closed than taken, or the kernel refused: with the report.
    Failed(String),
    /// A Python exception is set: what a signal handler raised.
    Raised,
}

/// Closes and drains an interpreter from the outside. Context: normal; attached or not. `raises`: the caller takes what Python's
/// handlers raise, which run now and then if it is attached to the main interpreter. Else, in the process's main thread, Ctrl-C is
/// as in a hook: the first asks who holds the guards, the second ends the process.
pub fn drain(id: InterpreterId, timeout: Option<Duration>, raises: bool) -> Drained {
    if levels::holds(id) {
        return Drained::WouldDeadlock;
    }
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    // SAFETY: asked only where this thread is attached.
    let current = (!levels::attached().is_null()).then(|| unsafe { table::current() }.1).flatten();
    let in_main = current.is_some() && current == table::main_id();
    if raises && in_main {
        return drain_until(id, end, true, None);
    }
    let watch = interrupt::in_main_thread().then(|| Watch::begin(in_main)).flatten();
    let drained = drain_until(id, end, false, watch.as_ref());
    Watch::end(watch);
    drained
}

/// `signals` and `watch`: how it hears of Ctrl-C, if at all. See [`drain`].
fn drain_until(id: InterpreterId, end: Option<Instant>, signals: bool, watch: Option<&Watch>) -> Drained {
    let mut closing = match on_close::close(id) {
        Ok((closing, guard)) => {
            on_close::tell(id, guard);
            closing
        }
        Err(CloseError::NotFound) => return Drained::NotFound,
        Err(CloseError::AlreadyClosing) => return Drained::AlreadyClosing,
    };
    let is_attached = !levels::attached().is_null();
    let mut asked = 0;
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let slice = if signals { Some(left.map_or(SLICE, |left| left.min(SLICE))) } else { left };
        let mut options = DrainOptions::new().timeout(slice);
        if let Some(watch) = watch {
            options = options.interrupt(|| match watch.pressed() > asked {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            });
        }
        let result = match is_attached {
            true => detached(|| closing.drain_with(options)),
            false => closing.drain_with(options),
        };
        closing = match result {
            Ok(interpreter) => {
                keeper::end(interpreter);
                return Drained::Done;
            }
            Err(DrainError::Timeout(timeout)) if end.is_some_and(|end| Instant::now() >= end) => {
                return Drained::TimedOut(timeout.to_string());
            }
            Err(DrainError::Timeout(timeout)) => timeout.into_closing(),
            Err(DrainError::Interrupted(timeout)) => {
                asked += 1;
                say(&format!("waiting: {timeout}"));
                timeout.into_closing()
            }
            Err(other) => return Drained::Failed(other.to_string()),
        };
        // SAFETY: with `signals` the caller is attached.
        if signals && unsafe { ffi::Py_MakePendingCalls() } != 0 {
            return Drained::Raised;
        }
    }
}
