//! The functions under the Python package `interp_guard`, which gives them their Python shape.

use super::guards::{acquire, duplicate, release};
use super::machine::counters_name;
use super::{holders, machine, only_copy, stress};
use crate::c::api;
use crate::calls::callbacks;
use crate::end::drain::{self, Drained};
use crate::end::{deadline, hook, on_close};
use crate::ground::helpers::{Methods, integer, method, no_arguments, raise, runtime_error, text};
use crate::ground::python;
use crate::ground::registry;
use crate::ground::{refusals, status};
use crate::{registering, shield, signals};
use pyo3_ffi::{self as ffi, PyMethodDef, PyObject};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

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
    method(c"holders", holders::holders, ffi::METH_O, c"(outstanding, report, details) of an ID, or None."),
    no_arguments(c"is_recording", holders::recording, c"Is the ledger on?"),
    no_arguments(c"machine", machine::machine, c"What the machine offers, and what is made of it."),
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
        if let Err(why) = python::resolve().map_err(str::to_owned).and_then(|()| only_copy::only_copy()) {
            raise(ffi::PyExc_ImportError, &format!("interp_guard: {why}"));
            return -1;
        }
        if let Err(why) = deadline::read_environment() {
            raise(runtime_error(), &format!("interp_guard: {why}"));
            return -1;
        }
        if !refusals::add(module) || !registering::register() {
            return -1;
        }
        if ffi::PyModule_AddFunctions(module, METHODS.0.as_ptr().cast_mut()) != 0
            || ffi::PyModule_AddFunctions(module, callbacks::METHODS.0.as_ptr().cast_mut()) != 0
            || ffi::PyModule_AddFunctions(module, shield::METHODS.0.as_ptr().cast_mut()) != 0
        {
            return -1;
        }
        for (name, number) in status::NAMED {
            if ffi::PyModule_AddIntConstant(module, name.as_ptr(), number.into()) != 0 {
                return -1;
            }
        }
        let table = (&raw const api::TABLE).cast_mut().cast::<c_void>();
        let capsule = ffi::PyCapsule_New(table, c"interp_guard._C_API".as_ptr(), None);
        if capsule.is_null() || ffi::PyModule_AddObject(module, c"_C_API".as_ptr(), capsule) != 0 {
            ffi::Py_XDECREF(capsule);
            return -1;
        }
    }
    0
}

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

unsafe extern "C" fn current_id(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    let (_, id) = unsafe { registry::current() };
    integer(id.map_or(-1, i64::from))
}

unsafe extern "C" fn main_id(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    integer(registry::main_id().map_or(-1, i64::from))
}

unsafe extern "C" fn counters(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let name = text(counters_name());
    // SAFETY: attached; a terminated string.
    unsafe { ffi::PyUnicode_FromString(name.as_ptr()) }
}

unsafe extern "C" fn drain(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut id, mut timeout_ns) = (0_i64, 0_i64);
    // SAFETY: attached, with a tuple; two long longs are written.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"LL".as_ptr(), &raw mut id, &raw mut timeout_ns) } == 0 {
        return null_mut();
    }
    let (status, report) = match drain::drain(id, timeout_ns, true) {
        Drained::Raised => return null_mut(),
        drained => drained.answer(),
    };
    let report = text(&report);
    // SAFETY: attached; the format fits the arguments.
    unsafe { ffi::Py_BuildValue(c"is".as_ptr(), status, report.as_ptr()) }
}
