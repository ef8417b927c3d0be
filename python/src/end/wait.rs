//! One hook's waiting, and saying so while it takes long.

use super::deadline::{self, Then};
use super::interrupt::Watch;
use super::residents::{self, Asks, LOOK_EVERY, STAY_AT_MOST};
use super::{report, selfhold, state};
use crate::ground::helpers::{detached, run_signal_handlers, say};
use crate::ground::registry::{Interpreter, REGISTRY};
use crate::ground::threads::Names;
use crate::keeper;
use interp_guard::{Closing, DrainError, DrainOptions, InterpreterId, Undrained};
use pyo3_ffi as ffi;
use std::ops::ControlFlow;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

/// How long a drain waits before it looks whether there is something else to do.
pub const SLICE: Duration = Duration::from_millis(100);

/// How long a hook waits before it first says for whom; each later report takes twice as long to come.
const FIRST_REPORT: Duration = Duration::from_millis(500);
const REPORTS_AT_MOST_EVERY: Duration = Duration::from_secs(30);

/// How long a hook waits that was called when Python does not end: what is still out then is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(30);

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
    pub fn begin(is_main: bool) -> Self {
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

    /// Puts back what was there, and tells it of a Ctrl-C that came meanwhile.
    pub fn end(self) {
        Watch::end(self.watch);
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
            Then::GoOn => state::go_on(),
            // SAFETY: attached.
            Then::Exit => unsafe { end_process() },
        }
    }

    /// Waits until `closing` is drained. Attached before and after, not while it waits.
    pub fn drain(&mut self, mut closing: Closing<'static, Interpreter>) {
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
    pub fn until_none_is_out(&mut self, id: InterpreterId) {
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
    pub fn until_somebody_else_has_drained(&mut self, id: InterpreterId) {
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
    pub fn until_threads_have_left(&mut self, id: InterpreterId) {
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
fn lines_of(timeout: &Undrained<'_, Interpreter>) -> String {
    report::holder_lines(timeout, &names_to_show())
}

/// The names of threads. To be called attached; what a signal handler raises meanwhile is shown.
pub fn names_to_show() -> Names {
    // SAFETY: attached.
    unsafe {
        let names = Names::of_interpreter();
        if !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_WriteUnraisable(null_mut());
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

/// Ends the process with status 1. What Python code has printed is not lost.
///
/// # Safety
/// Attached.
pub unsafe fn end_process() -> ! {
    // SAFETY: attached; objects are checked for null and given back; the process then ends.
    unsafe {
        let sys = ffi::PyImport_ImportModule(c"sys".as_ptr());
        for stream in [c"stdout", c"stderr"] {
            // A reference of its own: another thread may put another stream in place of it.
            let stream = match sys.is_null() {
                true => null_mut(),
                false => ffi::PyObject_GetAttrString(sys, stream.as_ptr()),
            };
            if !stream.is_null() {
                ffi::Py_XDECREF(ffi::PyObject_CallMethod(stream, c"flush".as_ptr(), null()));
            }
            ffi::Py_XDECREF(stream);
            ffi::PyErr_Clear();
        }
        libc::_exit(1);
    }
}
