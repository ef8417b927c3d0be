//! Closing and draining interpreters when they end, and saying so while it takes long.
//!
//! Each interpreter has an `atexit` hook, which runs while its threads can still attach. A subinterpreter's closes and
//! drains that interpreter. The main interpreter's closes *every* interpreter first and then drains them all, newest
//! first: once the main interpreter finalizes, no thread of any interpreter can attach any more. A hook that runs later
//! than that finds nobody to wait for.

use crate::deadline::{self, Then};
use crate::interrupt::{self, Watch};
use crate::late::Late;
use crate::residents::{self, Asks, LOOK_EVERY, STAY_AT_MOST};
use crate::table::{self, Interpreter, REGISTRY};
use crate::threads::Names;
use crate::{attach, fork, keeper, on_close, python, report, selfhold, signals};
use interp_guard::{CloseError, Closing, DrainError, DrainOptions, DrainTimeout, InterpreterId};
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

/// Has an end of this epoch gone on with guards out, as the application chose? It was said who has them.
static GONE_ON: AtomicBool = AtomicBool::new(false);

/// Writes one line to standard error, which may be closed.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "interp_guard: {line}");
}

/// See [`GONE_ON`].
pub fn has_gone_on() -> bool {
    GONE_ON.load(Ordering::Relaxed) // read where it was set, or when that is long over
}

/// Python is gone, and may come back.
pub fn begin_epoch() {
    // Release: with the Acquire loads, though no Python thread exists that could see it otherwise.
    MAIN_IS_DRAINED.store(false, Ordering::Release);
    MAIN_IS_ENDING.store(false, Ordering::Release);
    MAIN_ENDS_ON.store(0, Ordering::Relaxed);
    GONE_ON.store(false, Ordering::Relaxed);
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
        if attach::holds(id) {
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
    let Some(id) = ids.find(|&id| attach::holds(id)) else { return };
    say(&format!(
        "interpreter {id} cannot finalize: this thread is inside PyThreadState_Ensure for it, and would wait for itself. \
         Release it first. The process ends with status 1"
    ));
    // SAFETY: the callers are attached.
    unsafe { end_process() }
}

/// Ends the process with status 1. What Python code has printed is not lost.
///
/// # Safety
/// Attached.
unsafe fn end_process() -> ! {
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

/// Soon threads are refused, and end by it: see `_quiet.py`.
///
/// # Safety
/// Attached, with no exception set.
unsafe fn hush_refused_threads() {
    // SAFETY: attached; objects are checked for null and given back.
    unsafe {
        let module = ffi::PyImport_ImportModule(c"interp_guard._quiet".as_ptr());
        if !module.is_null() {
            ffi::Py_XDECREF(ffi::PyObject_CallMethod(module, c"hush_threading".as_ptr(), std::ptr::null()));
            ffi::Py_DecRef(module);
        }
        if !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_WriteUnraisable(std::ptr::null_mut()); // as what a signal handler raises
        }
    }
}

/// One hook's waiting: with the GIL released, looking up now and then.
pub struct Wait {
    watch: Option<Watch>,
    is_main: bool,
    began: Instant,
    /// When it ceases to wait for threads that have left their guards.
    threads_until: Option<Instant>,
    asked: u32,
    next_report: Instant,
    interval: Duration,
}

impl Wait {
    /// To be called attached.
    fn begin(is_main: bool) -> Self {
        Self {
            watch: Watch::begin(is_main),
            is_main,
            began: Instant::now(),
            threads_until: None,
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

    /// What comes now, if the time that the application has set is over.
    fn over(&self) -> Option<Then> {
        deadline::limit().and_then(|(limit, then)| (self.began.elapsed() >= limit).then_some(then))
    }

    /// Is it certain that nobody can close the guards of `id`? Where the application has set a time, that is kept to.
    fn is_hopeless(&self, id: InterpreterId) -> bool {
        deadline::limit().is_none() && selfhold::is_hopeless(id, self.watch.is_some())
    }

    /// `Python cannot end yet: what (1.5 s)`
    fn say(&self, id: InterpreterId, what: &str, lines: &str) {
        let who = if self.is_main { "Python".to_owned() } else { format!("interpreter {id}") };
        let waited = self.began.elapsed().as_secs_f64();
        say(&format!("{who} cannot end yet: {what} ({waited:.1} s){lines}"));
    }

    /// Says that the end does not wait any longer, and what comes now. To be called attached.
    fn give_up(&self, then: Then, what: &str, lines: &str) {
        let waited = self.began.elapsed().as_secs_f64();
        let next = match then {
            Then::GoOn => "Python goes on",
            Then::Exit => "the process ends with status 1",
        };
        say(&format!("the wait is over after {waited:.1} s, as was asked for: {what}; {next}{lines}"));
        match then {
            Then::GoOn => GONE_ON.store(true, Ordering::Relaxed), // see `has_gone_on`
            // SAFETY: attached.
            Then::Exit => unsafe { end_process() },
        }
    }

    /// Waits until `closing` is drained. Attached before and after, not while it waits.
    fn drain(&mut self, mut closing: Closing<'static, Interpreter>) {
        loop {
            // SAFETY: attached.
            let state = unsafe { ffi::PyEval_SaveThread() };
            let mut looked: Option<Instant> = None;
            let mut hopeless = false;
            let id = closing.id();
            let look_up = || {
                if looked.is_none_or(|looked| looked.elapsed() >= SLICE) {
                    // SAFETY: saved above, and saved again.
                    unsafe {
                        ffi::PyEval_RestoreThread(state);
                        run_signal_handlers();
                        ffi::PyEval_SaveThread();
                    }
                    hopeless = self.is_hopeless(id);
                    looked = Some(Instant::now());
                }
                let stop = hopeless || self.over().is_some() || self.report_is_due();
                if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let result = closing.drain_with(DrainOptions::new().interrupt(look_up));
            // SAFETY: saved above.
            unsafe { ffi::PyEval_RestoreThread(state) };
            closing = match result {
                Ok(interpreter) => return keeper::end(interpreter),
                Err(DrainError::Superseded(_)) => return,
                Err(DrainError::Unbalanced(timeout)) => {
                    // Which guards are out, if any, nobody can tell any more, and none of them can be waited for.
                    return say(&report::unbalanced(&timeout, id, &names_to_show()));
                }
                Err(DrainError::Interrupted(timeout)) => {
                    let (out, lines) = (report::still_out(id, timeout.outstanding()), lines_of(&timeout));
                    if hopeless {
                        refuse_to_wait_alone(id, &out, &lines);
                    }
                    if let Some(then) = self.over() {
                        self.give_up(then, &out, &lines);
                        // SAFETY: `timeout` has the `Closing`.
                        return unsafe { keeper::end_undrained(id) };
                    }
                    self.say(id, &out, &lines);
                    timeout.into_closing()
                }
                Err(refused) => {
                    if let Some(then) = self.over() {
                        self.give_up(then, &refused.to_string(), "");
                        // SAFETY: `refused` has the `Closing`.
                        return unsafe { keeper::end_undrained(id) };
                    }
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
            let what = format!("{}, and another thread is draining it", report::still_out(id, out));
            if let Some(then) = self.over() {
                return self.give_up(then, &what, "");
            }
            if self.report_is_due() {
                self.say(id, &what, "");
            }
            run_signal_handlers();
        }
    }

    /// Waits, for a while, until the threads that had a guard of `id` have left it. Attached before and after.
    fn until_threads_have_left(&mut self, id: InterpreterId) {
        // SAFETY: attached, with no exception set.
        while let Some(still) = unsafe { residents::still_in(id, Asks::TheEnd) } {
            let lines = || still.lines(&names_to_show());
            let until = *self.threads_until.get_or_insert_with(|| Instant::now() + STAY_AT_MOST);
            match self.over() {
                Some(then) => return self.give_up(then, &still.what(id), &lines()),
                None if deadline::limit().is_none() && Instant::now() >= until => {
                    let waited = self.began.elapsed().as_secs_f64();
                    let what = still.what(id);
                    return say(&format!("Python goes on after {waited:.1} s, although {what}{}", lines()));
                }
                None if self.report_is_due() => self.say(id, &still.what(id), &lines()),
                None => {}
            }
            detached(|| std::thread::sleep(LOOK_EVERY));
            run_signal_handlers();
        }
    }
}

/// A line for each guard, by the attached interpreter's names of threads.
fn lines_of(timeout: &DrainTimeout<'_, Interpreter>) -> String {
    report::holder_lines(timeout, &names_to_show())
}

/// The names of threads. To be called attached; what a signal handler raises meanwhile is shown.
fn names_to_show() -> Names {
    // SAFETY: attached.
    unsafe {
        let names = Names::of_interpreter();
        if !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_WriteUnraisable(std::ptr::null_mut());
        }
        names
    }
}

/// The only thread of the process waits for its own guards. As [`refuse_to_wait_for_oneself`].
fn refuse_to_wait_alone(id: InterpreterId, out: &str, lines: &str) {
    say(&format!(
        "interpreter {id} cannot finalize: {out}, and this thread, which would wait, is the only one that could close it. \
         The process ends with status 1{lines}"
    ));
    // SAFETY: the callers are attached.
    unsafe { end_process() }
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
    if attach::holds(id) {
        return Drained::WouldDeadlock;
    }
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    // SAFETY: asked only where this thread is attached.
    let current = (!attach::attached().is_null()).then(|| unsafe { table::current() }.1).flatten();
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
    let (is_attached, began) = (!attach::attached().is_null(), Instant::now());
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
                return match is_attached {
                    true => until_threads_have_left(id, end, signals),
                    false => Drained::Done, // the interpreter's own hook waits for them
                };
            }
            Err(DrainError::Timeout(timeout)) if end.is_some_and(|end| Instant::now() >= end) => {
                let names = names(is_attached, signals);
                // SAFETY: with `signals` the caller is attached.
                if signals && unsafe { !ffi::PyErr_Occurred().is_null() } {
                    return Drained::Raised;
                }
                return Drained::TimedOut(report::timed_out(&timeout, id, began.elapsed(), &names));
            }
            Err(DrainError::Timeout(timeout)) => timeout.into_closing(),
            Err(DrainError::Interrupted(timeout)) => {
                asked += 1;
                let (out, waited) =
                    (report::still_out(id, timeout.outstanding()), began.elapsed().as_secs_f64());
                let lines = report::holder_lines(&timeout, &names(is_attached, false));
                say(&format!("the drain waits: {out} ({waited:.1} s){lines}"));
                timeout.into_closing()
            }
            Err(DrainError::Unbalanced(timeout)) => {
                return Drained::Failed(report::unbalanced(&timeout, id, &names(is_attached, false)));
            }
            Err(other) => return Drained::Failed(other.to_string()),
        };
        // SAFETY: with `signals` the caller is attached.
        if signals && unsafe { ffi::Py_MakePendingCalls() } != 0 {
            return Drained::Raised;
        }
    }
}

/// The names of threads. With `raises`, what a signal handler raises meanwhile is set afterwards; without, the
/// caller's own exception stays as it is.
#[allow(deprecated)] // the functions of 3.9
fn names(is_attached: bool, raises: bool) -> Names {
    if !is_attached {
        return Names::said();
    }
    // SAFETY: attached; what is fetched is restored.
    unsafe {
        if raises {
            return Names::of_interpreter();
        }
        let [mut kind, mut value, mut trace] = [std::ptr::null_mut(); 3];
        ffi::PyErr_Fetch(&mut kind, &mut value, &mut trace);
        let names = names_to_show();
        ffi::PyErr_Restore(kind, value, trace);
        names
    }
}

/// Waits, for a while, until the threads that had a guard of `id`, which is drained, have left it. To be called
/// attached.
fn until_threads_have_left(id: InterpreterId, end: Option<Instant>, signals: bool) -> Drained {
    let until = Instant::now() + STAY_AT_MOST;
    let until = end.map_or(until, |end| end.min(until));
    // SAFETY: attached.
    while let Some(still) = unsafe { residents::still_in(id, Asks::Drain) } {
        if Instant::now() >= until {
            let lines = still.lines(&names(true, false));
            say(&format!("the drain is over, although {}{lines}", still.what(id)));
            break;
        }
        detached(|| std::thread::sleep(LOOK_EVERY));
        // SAFETY: attached.
        if signals && unsafe { ffi::PyErr_CheckSignals() } != 0 {
            return Drained::Raised;
        }
    }
    Drained::Done
}
