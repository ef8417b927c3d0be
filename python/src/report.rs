//! What there is to say of guards and of the machine: reports, `holders`, and what `python -m interp_guard` prints.

use crate::table::{Interpreter, REGISTRY};
use crate::threads::Names;
use interp_guard::{Counters, Holder, Holders, InterpreterId, Undrained, platform};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::{CStr, CString, c_int};
use std::fmt::Write;
use std::ptr::null_mut;
use std::time::Duration;

fn text(words: &str) -> CString {
    CString::new(words.replace('\0', " ")).unwrap_or_default()
}

/// # Safety
/// Attached. Takes the reference to `value` over.
unsafe fn set(dict: *mut PyObject, key: &CStr, value: *mut PyObject) -> bool {
    // SAFETY: attached; null is checked for, and the reference is given back.
    unsafe {
        let done =
            !dict.is_null() && !value.is_null() && ffi::PyDict_SetItemString(dict, key.as_ptr(), value) == 0;
        ffi::Py_XDECREF(value);
        done
    }
}

/// How many lines a report has at most.
const LINES: usize = 32;

/// Rows of name, age and place as lines, each begun by a line break.
pub fn lines(rows: impl Iterator<Item = (String, Duration, String)>) -> String {
    let rows: Vec<_> =
        rows.map(|(name, age, place)| (name, format!("{:.1} s", age.as_secs_f64()), place)).collect();
    let shown = &rows[..rows.len().min(LINES)];
    let names = shown.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    let ages = shown.iter().map(|(_, age, _)| age.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, age, place) in shown {
        let line = format!("  {name:names$}  {age:>ages$}  {place}");
        text = text + "\n" + line.trim_end();
    }
    if rows.len() > shown.len() {
        let _ = write!(text, "\n  and {} more", rows.len() - shown.len());
    }
    text
}

/// `guard is` and `1`, or `guards are` and how many.
fn guards(out: u64) -> (&'static str, &'static str) {
    if out == 1 { ("guard", "is") } else { ("guards", "are") }
}

/// `1 guard of interpreter 0 is still out`
pub fn still_out(id: InterpreterId, out: u64) -> String {
    let (guards, are) = guards(out);
    format!("{out} {guards} of interpreter {id} {are} still out")
}

/// A line for each guard that the ledger has, or how to get them; and for each queue with calls of the interpreter.
pub fn holder_lines(timeout: &Undrained<'_, Interpreter>, names: &Names) -> String {
    let mut text = recorded(timeout.holders(), names, "the thread that waits");
    for waiting in timeout.pending() {
        let _ = write!(text, "\n  {waiting}"); // a String takes everything
    }
    text
}

fn recorded(holders: &Holders, names: &Names, me: &str) -> String {
    let out = holders.outstanding();
    if out == 0 && holders.iter().len() == 0 {
        return String::new();
    }
    if !holders.is_recorded() {
        let (it, was) = if out == 1 { ("it", "it was") } else { ("them", "they were") };
        return format!(
            "\n  INTERP_GUARD_LEDGER=1 in the environment has a line here for each: \
             who holds {it}, since when, and where {was} taken"
        );
    }
    let here = std::env::current_dir().ok();
    let rows = holders.iter().map(|holder| {
        let (mut name, mut place) = (name_of(holder, names), place_of(holder, here.as_deref()));
        if holder.thread_ended {
            name += " (ended)";
        }
        if holder.in_handler {
            place += ", in a signal handler";
        }
        if holder.by_this_thread {
            place = place + ", by " + me;
        }
        (name, holder.age, place)
    });
    let mut text = lines(rows);
    if let more @ 1.. = holders.unrecorded() {
        let _ = write!(text, "\n  and {more} for which the ledger had no room"); // as above
    }
    text
}

/// What `threading` calls the holder's thread, or the kernel's name and ID.
fn name_of(holder: &Holder, names: &Names) -> String {
    names.get_or(holder.thread_id, &holder.thread_name)
}

/// Where the guard was taken, from the working folder on if that is further up.
fn place_of(holder: &Holder, here: Option<&std::path::Path>) -> String {
    let site = holder.site.to_string();
    let within = here.and_then(|here| site.strip_prefix(here.to_str()?)?.strip_prefix('/'));
    within.map(str::to_owned).unwrap_or(site)
}

/// More guards were closed than taken: there is no saying what is out.
pub fn unbalanced(timeout: &Undrained<'_, Interpreter>, id: InterpreterId, names: &Names) -> String {
    let (out, lines) = (still_out(id, timeout.outstanding()), holder_lines(timeout, names));
    format!("more guards were closed than taken: {out}{lines}")
}

/// What `drain` raises with `TimeoutError`.
pub fn timed_out(
    timeout: &Undrained<'_, Interpreter>,
    id: InterpreterId,
    waited: Duration,
    names: &Names,
) -> String {
    let (out, (guards, are)) = (timeout.outstanding(), guards(timeout.outstanding()));
    let lines = holder_lines(timeout, names);
    format!("interpreter {id}: {out} {guards} {are} out after {:.1} s{lines}", waited.as_secs_f64())
}

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

/// `holders(id)`: (outstanding, report, [(thread ID, name, ended, site, age, in a handler, by this thread)]), or None.
pub unsafe extern "C" fn holders(_: *mut PyObject, number: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached; every object is checked for null; `N` takes the list over.
    unsafe {
        let id = ffi::PyLong_AsLongLong(number);
        if id == -1 && !ffi::PyErr_Occurred().is_null() {
            return null_mut();
        }
        let Some(holders) = InterpreterId::try_from(id).ok().and_then(|id| REGISTRY.holders(id)) else {
            return ffi::Py_BuildValue(c"".as_ptr()); // None
        };
        let list = ffi::PyList_New(0);
        let names = Names::of_interpreter();
        if !ffi::PyErr_Occurred().is_null() {
            ffi::Py_XDECREF(list);
            return null_mut();
        }
        for holder in &holders {
            let row = row(holder, &names);
            let appended = !list.is_null() && !row.is_null() && ffi::PyList_Append(list, row) == 0;
            ffi::Py_XDECREF(row);
            if !appended {
                ffi::Py_XDECREF(list);
                return null_mut();
            }
        }
        let lines = recorded(&holders, &names, "this thread");
        let report = if lines.is_empty() { "  no guard is out" } else { lines.trim_start_matches('\n') };
        let report = text(report);
        ffi::Py_BuildValue(c"KsN".as_ptr(), holders.outstanding(), report.as_ptr(), list)
    }
}

/// # Safety
/// Attached.
unsafe fn row(holder: &Holder, names: &Names) -> *mut PyObject {
    let name = names.get(holder.thread_id).unwrap_or(&holder.thread_name);
    let (name, site) = (text(name), text(&holder.site.to_string()));
    // SAFETY: attached; the format fits the arguments.
    unsafe {
        ffi::Py_BuildValue(
            c"Isisdii".as_ptr(),
            holder.thread_id,
            name.as_ptr(),
            c_int::from(holder.thread_ended),
            site.as_ptr(),
            holder.age.as_secs_f64(),
            c_int::from(holder.in_handler),
            c_int::from(holder.by_this_thread),
        )
    }
}

/// Does the ledger write down who takes each guard?
pub fn is_recording() -> bool {
    let main = crate::table::main_id();
    let any = main.into_iter().chain(REGISTRY.ids()).find_map(|id| REGISTRY.holders(id));
    any.is_some_and(|holders| holders.is_recorded())
}

/// `is_recording()`.
pub unsafe extern "C" fn recording(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    unsafe { ffi::PyBool_FromLong(is_recording().into()) }
}

/// `machine()`: a dict of what the machine offers, and what the library makes of it.
pub unsafe extern "C" fn machine(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let layout = REGISTRY.layout();
    let asked = std::env::var("INTERP_GUARD_COUNTERS").ok();
    let why = match (asked, platform::missing_for_per_cpu()) {
        (Some(asked), _) => format!("INTERP_GUARD_COUNTERS={asked}"),
        (None, None) => "the machine has all that per-CPU counting needs".to_owned(),
        (None, Some(missing)) => format!("for want of {missing}"),
    };
    let rseq = platform::rseq().map_or("not registered by the C library".to_owned(), |rseq| {
        format!("registered by the C library, {} bytes", rseq.size)
    });
    let counters = match layout.map(|layout| layout.counters) {
        Some(Counters::Shared) => "shared",
        Some(_) => "per-cpu",
        None => "not available",
    };
    let words = [(c"counters", counters), (c"counters_why", &*why), (c"rseq", &*rseq)];
    let numbers = [
        (c"possible_cpus", platform::possible_cpus() as usize),
        (c"capacity", REGISTRY.capacity()),
        (c"registered", REGISTRY.len()),
        (c"slots", layout.map_or(0, |layout| layout.slots)),
        (c"mapped_bytes", layout.map_or(0, |layout| layout.mapped_bytes)),
    ];
    // SAFETY: attached; `set` checks for null and takes the values over.
    unsafe {
        let dict = ffi::PyDict_New();
        let mut done = set(dict, c"ledger", ffi::PyBool_FromLong(is_recording().into()));
        for (key, word) in words {
            done &= set(dict, key, ffi::PyUnicode_FromString(text(word).as_ptr()));
        }
        for (key, number) in numbers {
            done &= set(dict, key, ffi::PyLong_FromSize_t(number));
        }
        if !done {
            ffi::Py_XDECREF(dict);
            return null_mut();
        }
        dict
    }
}
