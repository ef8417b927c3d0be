//! Threads that had a guard of a subinterpreter and are still in it: the end waits for them too, for a while.
//!
//! A thread that Python started goes on when it has closed its guard, to tidy up: it has a state in the interpreter
//! until it has ended. Up to 3.13 `Py_EndInterpreter` ends the process if there is any state but its caller's; later
//! versions stop the thread where it is. So after the guards an end waits for these threads, at most
//! [`STAY_AT_MOST`], and says so.
//!
//! CPython offers two ways to see them, and each is used for what it can say:
//!
//! - *The state's dict*, which CPython clears when the thread leaves. A thread that takes a guard of its own interpreter
//!   from Python puts a capsule there, whose destructor takes the thread off the list here. The oldest state of an
//!   interpreter is not its threads' but its owner's, who may keep it until the end: that one says nothing. Visits may use
//!   it, which are asked for with `is_running`.
//! - *The list of states*, of which an attached thread can tell safely whether there is any other than its own
//!   ([`python::is_alone`]). That sees every state, of whatever thread, and also one that is only kept for later: it is good
//!   for the interpreter's own end, up to 3.13, and not for a drain from the outside.
//!
//! Not seen from the outside: guards that C code takes for a thread that Python started. The interpreter's own end
//! sees those too.

use super::report;
use crate::ground::helpers::keeping_exception;
use crate::ground::python;
use crate::ground::registry;
use crate::ground::threads::{self, Names, this_thread};
use interp_guard::{InterpreterId, Place, Site};
use pyo3_ffi::{self as ffi, PyObject};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_longlong, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an end waits for them, where `deadline` says nothing else.
pub const STAY_AT_MOST: Duration = Duration::from_secs(10);

/// How often it looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The key in a state's dict, and the capsule's name.
const MARK: &CStr = c"interp_guard.had_a_guard";

#[derive(Clone)]
struct Resident {
    id: InterpreterId,
    thread: u32,
    /// When and where it took its first guard.
    since: Instant,
    site: Site,
    /// Is its state the interpreter's oldest? Then it is a visitor, who may have left without a trace.
    visits: bool,
}

/// By the number that the thread's capsule has. Only attached threads lock it, and run no Python code meanwhile: no `os.fork` finds
/// it locked.
static RESIDENTS: Mutex<BTreeMap<usize, Resident>> = Mutex::new(BTreeMap::new());

fn with<R>(f: impl FnOnce(&mut BTreeMap<usize, Resident>) -> R) -> R {
    f(&mut RESIDENTS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Notes that the calling thread has taken a guard of `id` at `site`, if that is the subinterpreter to which it is
/// attached.
///
/// # Safety
/// Attached, with no exception set.
pub unsafe fn note(id: InterpreterId, site: Site) {
    // SAFETY: attached; dict and item are borrowed, the capsule's reference is given back.
    unsafe {
        if !registry::is_sub(id) || registry::current().1 != Some(id) {
            return;
        }
        let dict = ffi::PyThreadState_GetDict();
        if dict.is_null() || !ffi::PyDict_GetItemString(dict, MARK.as_ptr()).is_null() {
            return;
        }
        threads::say_own_name();
        let visits = python::PyThreadState_Next(ffi::PyThreadState_Get()).is_null();
        let resident = Resident { id, thread: this_thread(), since: Instant::now(), site, visits };
        let number = with(|residents| {
            let number = residents.last_key_value().map_or(1, |(last, _)| last + 1);
            residents.insert(number, resident);
            number
        });
        let capsule =
            ffi::PyCapsule_New(std::ptr::without_provenance_mut(number), MARK.as_ptr(), Some(leaves));
        if capsule.is_null() {
            with(|residents| residents.remove(&number));
        } else {
            ffi::PyDict_SetItemString(dict, MARK.as_ptr(), capsule);
            ffi::Py_DecRef(capsule); // without a place in the dict it is gone, and with it the note
        }
        ffi::PyErr_Clear();
    }
}

/// The state is being cleared: its thread leaves.
unsafe extern "C" fn leaves(capsule: *mut PyObject) {
    // SAFETY: called by CPython, attached, with a capsule of `note`.
    let number = unsafe { ffi::PyCapsule_GetPointer(capsule, MARK.as_ptr()) }.cast::<c_void>().addr();
    with(|residents| residents.remove(&number));
}

/// In the child of an `os.fork`: other threads are not there.
pub fn after_fork_child() {
    with(BTreeMap::clear);
}

/// Python is gone, and all its states.
pub fn begin_epoch() {
    with(BTreeMap::clear);
}

/// Who is still in an interpreter whose guards are all closed.
pub struct Still {
    residents: Vec<Resident>,
    /// Another thread runs `run_string` in it, or has a state that no guard says anything of.
    others: bool,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// The interpreter that ends, or the main one, for all.
    TheEnd,
    /// Somebody who is about to end it.
    Drain,
}

/// Who is still in it, other than the calling thread? `None`: nobody for whom there is a reason to wait.
///
/// # Safety
/// Attached. The caller's exception stays as it is.
pub unsafe fn still_in(id: InterpreterId, asks: Asks) -> Option<Still> {
    if !registry::is_sub(id) {
        return None;
    }
    let me = this_thread();
    let mut residents: Vec<_> =
        with(|residents| residents.values().filter(|resident| resident.id == id).cloned().collect());
    let guarded_visit = residents.iter().any(|resident| resident.visits);
    residents.retain(|resident| !resident.visits && resident.thread != me);
    // SAFETY: attached.
    let others = unsafe {
        if registry::current().1 == Some(id) {
            // CPython would end the process.
            asks == Asks::TheEnd && python::minor_version() <= 13 && !python::is_alone()
        } else {
            // Up to 3.12 the end of the main interpreter would.
            let any = asks == Asks::TheEnd && python::minor_version() <= 12;
            (any || guarded_visit) && is_running(id)
        }
    };
    (others || !residents.is_empty()).then_some(Still { residents, others })
}

/// Does some thread run code in the subinterpreter, by `_interpreters` or, before 3.13, `_xxsubinterpreters`?
///
/// # Safety
/// Attached. The caller's exception stays as it is.
unsafe fn is_running(id: InterpreterId) -> bool {
    let number = registry::number_of(id) as c_longlong;
    let is_running_by = |name: &CStr| {
        // SAFETY: attached; every object is checked for null and given back.
        unsafe {
            let name = ffi::PyUnicode_FromString(name.as_ptr());
            // Whoever is in it came by one of these, so that the module is there already.
            let module = if name.is_null() { null_mut() } else { ffi::PyImport_GetModule(name) };
            ffi::Py_XDECREF(name);
            if module.is_null() {
                return false;
            }
            let answer = ffi::PyObject_CallMethod(module, c"is_running".as_ptr(), c"L".as_ptr(), number);
            ffi::Py_DecRef(module);
            let running = !answer.is_null() && ffi::PyObject_IsTrue(answer) == 1;
            ffi::Py_XDECREF(answer);
            running
        }
    };
    // What that raises says that there is no such interpreter, or that more than one thread is in it, which is seen by
    // their notes.
    // SAFETY: attached.
    unsafe { keeping_exception(|| [c"_interpreters", c"_xxsubinterpreters"].into_iter().any(is_running_by)) }
}

impl Still {
    /// `2 threads that had a guard of interpreter 1 are still in it`
    pub fn what(&self, id: InterpreterId) -> String {
        match (self.residents.len(), self.others) {
            (0, _) => format!("another thread is still in interpreter {id}"),
            (1, _) => format!("1 thread that had a guard of interpreter {id} is still in it"),
            (many, _) => format!("{many} threads that had a guard of interpreter {id} are still in it"),
        }
    }

    /// A line for each.
    pub fn lines(&self, names: &Names) -> String {
        let rows = self.residents.iter().map(|resident| {
            let name = names.get_or(resident.thread, "thread");
            let place = match resident.site.place() {
                Place::Unknown => String::new(), // the ledger is off
                _ => resident.site.to_string(),
            };
            (name, resident.since.elapsed(), place)
        });
        report::lines(rows)
    }
}
