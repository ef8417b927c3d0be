//! The functions under the Python package `interp_guard`, which gives them their Python shape.

use crate::c_api::{self, status};
use crate::shutdown::{self, Drained};
use crate::table::{self, Interpreter, REGISTRY};
use crate::word::{GuardWord, Held};
use crate::{
    INTERP_GUARD_TABLE_MARK, callbacks, deadline, hook, on_close, python, refusals, report, residents,
    signals, stress, threads,
};
use interp_guard::{Counters, Guard, InterpreterId, LookupError, Site};
use pyo3_ffi::{self as ffi, PyMethodDef, PyMethodDefPointer, PyObject};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Method definitions; CPython only reads them.
pub struct Methods<const N: usize>(pub [PyMethodDef; N]);

// SAFETY: constant data: static strings, a function's address, flags.
unsafe impl<const N: usize> Sync for Methods<N> {}

type Method = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;

pub const fn method(name: &'static CStr, call: Method, flags: c_int, doc: &'static CStr) -> PyMethodDef {
    PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunction: call },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

pub const fn no_arguments(name: &'static CStr, call: Method, doc: &'static CStr) -> PyMethodDef {
    method(name, call, ffi::METH_NOARGS, doc)
}

static METHODS: Methods<24> = Methods([
    no_arguments(c"current_id", current_id, c"The ID of the calling interpreter."),
    no_arguments(c"main_id", main_id, c"The ID of the main interpreter."),
    no_arguments(c"counters", counters, c"How guards are counted: 'per-cpu' or 'shared'."),
    method(c"acquire", acquire, ffi::METH_VARARGS, c"acquire(id, site): a guard's capsule, or a status."),
    method(c"release", release, ffi::METH_O, c"release(capsule)."),
    method(c"duplicate", duplicate, ffi::METH_VARARGS, c"duplicate(capsule, site): another guard's."),
    method(c"drain", drain, ffi::METH_VARARGS, c"drain(id, timeout_ns): (status, report)."),
    method(
        c"set_drain_timeout",
        deadline::set_drain_timeout,
        ffi::METH_VARARGS,
        c"set_drain_timeout(seconds, exits); negative: without limit.",
    ),
    method(c"holders", report::holders, ffi::METH_O, c"(outstanding, report, details) of an ID, or None."),
    no_arguments(c"is_recording", report::recording, c"Is the ledger on?"),
    no_arguments(c"machine", report::machine, c"What the machine offers, and what is made of it."),
    no_arguments(c"new_number", signals::new_number, c"A number for a callable."),
    method(
        c"keep_in",
        signals::keep_in,
        ffi::METH_VARARGS,
        c"keep_in(id, number, name): None, or what it raised.",
    ),
    method(c"forget_in", signals::forget_in, ffi::METH_VARARGS, c"forget_in(id, number)."),
    method(c"install", signals::install, ffi::METH_VARARGS, c"install(signum, id, number): a handler."),
    method(c"stress_start", stress::start, ffi::METH_VARARGS, c"stress_start(threads, seats, path)."),
    method(c"stress_cycle", stress::cycle, ffi::METH_O, c"Ends who sits there, and seats another."),
    no_arguments(c"stress_finish", stress::finish, c"Ends the stress."),
    no_arguments(c"stress_counts", stress::counts, c"What the stress has seen so far."),
    method(c"on_close", on_close::on_close, ffi::METH_O, c"on_close(number): None, or a status."),
    method(c"forget_on_close", on_close::forget_on_close, ffi::METH_O, c"Was it waiting to be called?"),
    no_arguments(c"end", hook::end, c"Closes and drains, as the atexit hook does."),
    method(c"counts", signals::counts, ffi::METH_O, c"What came of a handler's signals."),
    PyMethodDef::zeroed(),
]);

/// `Py_mod_exec`: once per interpreter that imports the package. Registers it.
///
/// # Safety
/// Called by Python, attached.
pub unsafe extern "C" fn exec(module: *mut PyObject) -> c_int {
    // SAFETY: attached; objects are checked for null; AddObject takes the capsule's reference if it succeeds.
    unsafe {
        if let Err(why) = python::resolve().map_err(str::to_owned).and_then(|()| only_copy()) {
            let why = CString::new(format!("interp_guard: {why}")).unwrap_or_default();
            ffi::PyErr_SetString(ffi::PyExc_ImportError, why.as_ptr());
            return -1;
        }
        if let Err(why) = deadline::read_environment() {
            deadline::raise(&why);
            return -1;
        }
        if !refusals::add(module) || !table::register() {
            return -1;
        }
        if ffi::PyModule_AddFunctions(module, METHODS.0.as_ptr().cast_mut()) != 0
            || ffi::PyModule_AddFunctions(module, callbacks::METHODS.0.as_ptr().cast_mut()) != 0
        {
            return -1;
        }
        let table = (&raw const c_api::TABLE).cast_mut().cast::<c_void>();
        let capsule = ffi::PyCapsule_New(table, c"interp_guard._C_API".as_ptr(), None);
        if capsule.is_null() || ffi::PyModule_AddObject(module, c"_C_API".as_ptr(), capsule) != 0 {
            ffi::Py_XDECREF(capsule);
            return -1;
        }
    }
    0
}

/// A second copy of this library, loaded from another path, would have a table of its own, and the guards of one would
/// mean nothing to the other. The later of the two to be imported finds that out.
fn only_copy() -> Result<(), String> {
    static CHECKED: AtomicBool = AtomicBool::new(false);
    /// Collects the names. Looks no further: the dynamic linker has one of its locks here, and to take the other inside it would be
    /// the opposite order of a `dlopen`.
    unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
        // SAFETY: called by dl_iterate_phdr with a valid info and with the pointer given below; the name is null or terminated.
        unsafe {
            let (name, names) = ((*info).dlpi_name, &mut *names.cast::<Vec<CString>>());
            if !name.is_null() && *name != 0 {
                names.push(CStr::from_ptr(name).to_owned());
            }
        }
        0
    }
    // Relaxed: at the worst it is checked twice.
    if CHECKED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut names: Vec<CString> = Vec::new();
    // SAFETY: `collect` fits, and `names` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut names).cast()) };
    for name in names {
        // SAFETY: a terminated name; RTLD_NOLOAD finds what is loaded still. The mark is found only in a copy of this library,
        // also where the object is one that depends on it.
        let mark = unsafe {
            let object = libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if object.is_null() {
                continue;
            }
            let mark = libc::dlsym(object, c"INTERP_GUARD_TABLE_MARK".as_ptr());
            libc::dlclose(object);
            mark
        };
        if !mark.is_null() && !std::ptr::addr_eq(mark, &raw const INTERP_GUARD_TABLE_MARK) {
            let path = name.to_string_lossy();
            return Err(format!("another copy is loaded from {path}; there can be one table per process"));
        }
    }
    CHECKED.store(true, Ordering::Relaxed);
    Ok(())
}

fn integer(number: i64) -> *mut PyObject {
    // SAFETY: the callers are attached.
    unsafe { ffi::PyLong_FromLongLong(number) }
}

pub fn none() -> *mut PyObject {
    // SAFETY: None is always there; the caller of a method gets a reference.
    unsafe {
        let none = ffi::Py_None();
        ffi::Py_IncRef(none);
        none
    }
}

fn status_of(refused: LookupError) -> i64 {
    i64::from(match refused {
        LookupError::NotFound => status::NOT_FOUND,
        LookupError::Finalizing => status::FINALIZING,
    })
}

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

unsafe extern "C" fn current_id(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    let (_, id) = unsafe { table::current() };
    integer(id.map_or(-1, i64::from))
}

unsafe extern "C" fn main_id(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    integer(table::main_id().map_or(-1, i64::from))
}

unsafe extern "C" fn counters(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let name = match REGISTRY.layout().map(|layout| layout.counters) {
        Some(Counters::Shared) => c"shared",
        _ => c"per-cpu",
    };
    // SAFETY: attached; a terminated string.
    unsafe { ffi::PyUnicode_FromString(name.as_ptr()) }
}

/// The site that Python code gave as text, or null.
///
/// Each text is kept once, for good: there are as many as places in the program that take guards.
///
/// # Safety
/// Null or terminated.
pub unsafe fn site_from(text: *const c_char) -> Site {
    static KEPT: Mutex<BTreeMap<&str, &&str>> = Mutex::new(BTreeMap::new());
    if text.is_null() {
        return Site::default();
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = kept.get(&*text) {
        return Site::named(name);
    }
    let name: &'static &'static str = Box::leak(Box::new(&*text.into_owned().leak()));
    kept.insert(name, name);
    Site::named(name)
}

/// The name of a capsule that has a guard. Its pointer is the guard's word; it has a destructor as long as it has the guard.
const GUARD: &CStr = c"interp_guard.guard";

/// A capsule that has the guard, and gives it up when it goes: no exception that a signal handler raises can lose it in between.
/// Null with an exception set.
fn capsule_of(guard: Guard<'static, Interpreter>) -> *mut PyObject {
    let guard = Held::new(guard);
    let word = std::ptr::without_provenance_mut(guard.bits() as usize);
    // SAFETY: the callers are attached; a word is never 0.
    let capsule = unsafe { ffi::PyCapsule_New(word, GUARD.as_ptr(), Some(give_up)) };
    if !capsule.is_null() {
        guard.leave();
    }
    capsule
}

/// The word in a capsule that has a guard. `None` with an exception set.
///
/// # Safety
/// Attached; `capsule` is an object.
unsafe fn word_in(capsule: *mut PyObject) -> Option<GuardWord> {
    // SAFETY: the caller's promise; null if it is no such capsule.
    let word = unsafe { ffi::PyCapsule_GetPointer(capsule, GUARD.as_ptr()) };
    GuardWord::from_bits(word as u64)
}

/// The destructor.
unsafe extern "C" fn give_up(capsule: *mut PyObject) {
    // SAFETY: attached, with a capsule of `capsule_of` that has its guard still; it is on its way out, so this is done once.
    unsafe { word_in(capsule).map(|word| drop(word.into_guard())) };
}

unsafe extern "C" fn acquire(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut id, mut site): (i64, *const c_char) = (0, null());
    // SAFETY: attached, with a tuple; what is written fits the format.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"Lz".as_ptr(), &raw mut id, &raw mut site) } == 0 {
        return null_mut();
    }
    // SAFETY: null or terminated, and alive as the arguments are.
    let (site, records) = unsafe { (site_from(site), !site.is_null()) };
    let guard = InterpreterId::try_from(id).map_err(|_| LookupError::NotFound);
    match guard.and_then(|id| REGISTRY.lookup_at(id, site)) {
        Ok(guard) => {
            // SAFETY: attached, with no exception set.
            unsafe { note(guard.id, site, records) };
            capsule_of(guard)
        }
        Err(refused) => integer(status_of(refused)),
    }
}

/// The calling thread takes a guard: notes who it is, where a report might want to know. `records`: the ledger is on.
///
/// # Safety
/// Attached, with no exception set.
unsafe fn note(id: InterpreterId, site: Site, records: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        residents::note(id, site);
        if records {
            threads::say_own_name();
        }
    }
}

unsafe extern "C" fn release(_: *mut PyObject, capsule: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached, with an object; the GIL is held throughout, so that whoever takes the destructor away does this once.
    unsafe {
        let Some(word) = word_in(capsule) else { return null_mut() };
        if ffi::PyCapsule_GetDestructor(capsule).is_some() {
            ffi::PyCapsule_SetDestructor(capsule, None);
            drop(word.into_guard());
        }
    }
    none()
}

unsafe extern "C" fn duplicate(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut capsule, mut site): (*mut PyObject, *const c_char) = (null_mut(), null());
    // SAFETY: attached, with a tuple; what is written fits the format.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"Oz".as_ptr(), &raw mut capsule, &raw mut site) } == 0 {
        return null_mut();
    }
    // SAFETY: an object, borrowed from the arguments.
    let Some(word) = (unsafe { word_in(capsule) }) else { return null_mut() };
    // SAFETY: null or terminated, and alive as the arguments are.
    let (site, records) = unsafe { (site_from(site), !site.is_null()) };
    // SAFETY: with its destructor, the capsule has the guard, and has it during the call: the GIL is held.
    match unsafe { ffi::PyCapsule_GetDestructor(capsule).and_then(|_| word.borrow()) } {
        Some(guard) => {
            let another = guard.clone_at(site);
            // From here on Python code may run, and close the one that was duplicated.
            // SAFETY: attached, with no exception set.
            unsafe { note(another.id, site, records) };
            capsule_of(another)
        }
        None => {
            let text =
                c"this guard is closed, or was taken before a fork and protects nothing in this process";
            // SAFETY: attached.
            unsafe { ffi::PyErr_SetString(ffi::PyExc_ValueError, text.as_ptr()) };
            null_mut()
        }
    }
}

unsafe extern "C" fn drain(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut id, mut timeout_ns) = (0_i64, 0_i64);
    // SAFETY: attached, with a tuple; two long longs are written.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"LL".as_ptr(), &raw mut id, &raw mut timeout_ns) } == 0 {
        return null_mut();
    }
    let timeout = u64::try_from(timeout_ns).ok().map(Duration::from_nanos);
    let drained = match InterpreterId::try_from(id) {
        Ok(id) => shutdown::drain(id, timeout, true),
        Err(_) => Drained::NotFound,
    };
    let (status, report) = match drained {
        Drained::Done => (status::OK, String::new()),
        Drained::NotFound => (status::NOT_FOUND, String::new()),
        Drained::AlreadyClosing => (status::ALREADY_CLOSING, String::new()),
        Drained::WouldDeadlock => (status::WOULD_DEADLOCK, String::new()),
        Drained::TimedOut(report) => (status::TIMEOUT, report),
        Drained::Failed(report) => (status::INTERNAL, report),
        Drained::Raised => return null_mut(),
    };
    let report = CString::new(report).unwrap_or_default();
    // SAFETY: attached; the format fits the arguments.
    unsafe { ffi::Py_BuildValue(c"is".as_ptr(), status, report.as_ptr()) }
}
