// May import: attach, ground, inside.
//! `interp_guard.on_signal`: a real handler leaves a pending call, and a thread of ours runs it in its interpreter.
//!
//! The callable stays in the interpreter in which it runs: `interp_guard._signals` of that interpreter keeps it under a
//! number, and what goes through the handler and the queue is the number. The handler looks the interpreter up; the worker
//! attaches to it, guarded, and calls. The handler's chain, with what was installed before, is `signal-hook`'s.
//!
//! CPython, when it finalizes, sets every signal that Python code had handled back to its default action, also where another
//! handler is on top, and the next signal would end the process. [`before_main_ends`] has CPython ignore those first.

use crate::attach;
use crate::ground::helpers::{installed, none, object_of, raise, say, text};
use crate::ground::registry::{Interpreter, REGISTRY};
use crate::inside::inside;
use interp_guard::pending::{PendingQueue, QueueOptions, Worker};
use interp_guard::signal::{self, Handler};
use interp_guard::{Guard, InterpreterId, Site};
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

type Queue = PendingQueue<'static, Interpreter>;

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// The latest that was started. Never dropped in the process in which it was.
static WORKER: AtomicPtr<Worker> = AtomicPtr::new(null_mut());

/// The handler that `signal-hook` installs, the same for every signal: what the first `on_signal` found installed after it.
static OURS: OnceLock<libc::sigaction> = OnceLock::new();

/// A bit for each signal that we handle or have handled.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// The queue, and the worker that serves it: made here, at the first call, and again in a forked child.
fn queue() -> Result<&'static Queue, String> {
    /// Only attached threads lock it, and run no Python code meanwhile: no `os.fork` finds it locked.
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = QUEUE.get() {
        return Ok(queue);
    }
    let options = QueueOptions::new().name("interp_guard.on_signal");
    let queue = Queue::with(&REGISTRY, options).map_err(|error| error.to_string())?;
    start_worker(&queue)?;
    Ok(QUEUE.get_or_init(|| queue))
}

fn start_worker(queue: &Queue) -> Result<(), String> {
    let worker = queue.start_worker().map_err(|error| format!("no thread for pending calls: {error}"))?;
    // For the life of the process. Release: pairs with the Acquire in `after_fork_child`.
    WORKER.store(Box::into_raw(Box::new(worker)), Ordering::Release);
    Ok(())
}

/// In the child of an `os.fork`: its worker is a thread of the parent.
pub fn after_fork_child() {
    // Acquire: pairs with the Release in `start_worker`.
    let parents = WORKER.swap(null_mut(), Ordering::Acquire);
    if !parents.is_null() {
        // SAFETY: boxed by `start_worker`, and taken out once. Its drop closes this process's copies of its descriptors.
        drop(unsafe { Box::from_raw(parents) });
    }
    if let Some(Err(why)) = QUEUE.get().map(start_worker) {
        say(&format!("signals have no effect in this forked child: {why}"));
    }
}

/// What the worker runs.
fn run(guard: &Guard<'_, Interpreter>, number: usize) {
    let call = || {
        // SAFETY: attached, by `inside`; objects are checked for null and given back.
        unsafe {
            let callable = call_module(c"_kept", number, None);
            if !callable.is_null() && callable != ffi::Py_None() {
                let result = ffi::PyObject_CallObject(callable, null_mut());
                if result.is_null() {
                    ffi::PyErr_WriteUnraisable(callable);
                }
                ffi::Py_XDECREF(result);
            } else if callable.is_null() {
                ffi::PyErr_WriteUnraisable(null_mut());
            }
            ffi::Py_XDECREF(callable);
        }
    };
    // Also while the interpreter is closing: the guard that the handler took holds it.
    let parts = guard.clone().into_raw().into_parts();
    // SAFETY: the parts of a guard of this registry, which is the queue's, put together once.
    let own = unsafe { REGISTRY.guard_from_parts(parts) };
    if inside(attach::enter(own, Site::default()), call).is_none() {
        say(&format!("no memory to run a signal's callable in interpreter {}", guard.id()));
    }
}

/// Calls a function of `interp_guard._signals` of the attached interpreter with a number and, perhaps, a name. Null with an
/// exception set, or a new reference.
///
/// # Safety
/// Attached.
unsafe fn call_module(function: &CStr, number: usize, name: Option<&CStr>) -> *mut PyObject {
    // SAFETY: attached; the formats fit the arguments; objects are checked for null and given back.
    unsafe {
        let module = ffi::PyImport_ImportModule(c"interp_guard._signals".as_ptr());
        if module.is_null() {
            return null_mut();
        }
        let result = match name {
            None => ffi::PyObject_CallMethod(module, function.as_ptr(), c"n".as_ptr(), number),
            Some(name) => {
                ffi::PyObject_CallMethod(module, function.as_ptr(), c"ns".as_ptr(), number, name.as_ptr())
            }
        };
        ffi::Py_DecRef(module);
        result
    }
}

/// The exception that is set, cleared, as text.
///
/// # Safety
/// Attached.
unsafe fn take_exception() -> String {
    // SAFETY: attached; objects are checked for null and given back. The deprecated functions are those of 3.9.
    #[allow(deprecated)]
    unsafe {
        let (mut kind, mut value, mut trace) = (null_mut(), null_mut(), null_mut());
        ffi::PyErr_Fetch(&mut kind, &mut value, &mut trace);
        ffi::PyErr_NormalizeException(&mut kind, &mut value, &mut trace);
        let text = if value.is_null() { null_mut() } else { ffi::PyObject_Repr(value) };
        let bytes = if text.is_null() { null_mut() } else { ffi::PyUnicode_AsUTF8String(text) };
        let words = if bytes.is_null() { null() } else { ffi::PyBytes_AsString(bytes) };
        let said = match words.is_null() {
            true => "an exception without a text".to_owned(),
            false => CStr::from_ptr(words).to_string_lossy().into_owned(),
        };
        ffi::PyErr_Clear();
        for object in [kind, value, trace, text, bytes] {
            ffi::Py_XDECREF(object);
        }
        said
    }
}

// SAFETY (all methods): called by Python, attached, with a module and an argument that are objects.

/// `new_number()`: one that no callable of this process has.
pub unsafe extern "C" fn new_number(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    // SAFETY: attached. Relaxed: only to be different.
    unsafe { ffi::PyLong_FromLongLong(NEXT.fetch_add(1, Ordering::Relaxed)) }
}

/// `keep_in(id, number, name)`: has another interpreter keep what it knows by this name. Returns what that raised, or None.
pub unsafe extern "C" fn keep_in(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut id, mut number, mut name): (c_longlong, ffi::Py_ssize_t, *const c_char) = (0, 0, null());
    // SAFETY: attached, with a tuple; the format fits what is written. The name lives as long as the arguments.
    unsafe {
        let format = c"Lns".as_ptr();
        if ffi::PyArg_ParseTuple(arguments, format, &raw mut id, &raw mut number, &raw mut name) == 0 {
            return null_mut();
        }
        let name = CStr::from_ptr(name);
        let keep = || {
            let kept = call_module(c"_keep_by_name", number as usize, Some(name));
            let wrong = kept.is_null().then(|| take_exception());
            ffi::Py_XDECREF(kept);
            wrong
        };
        match InterpreterId::try_from(id)
            .ok()
            .and_then(|id| inside(attach::ensure_id(id, Site::caller()), keep))
        {
            None => raise(ffi::PyExc_RuntimeError, &format!("cannot attach to interpreter {id}")),
            Some(None) => none(),
            Some(Some(wrong)) => ffi::PyUnicode_FromString(text(&wrong).as_ptr()),
        }
    }
}

/// `forget_in(id, number)`: the reverse; nothing where the interpreter is closing or gone.
pub unsafe extern "C" fn forget_in(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut id, mut number): (c_longlong, ffi::Py_ssize_t) = (0, 0);
    // SAFETY: attached, with a tuple; the format fits what is written.
    unsafe {
        if ffi::PyArg_ParseTuple(arguments, c"Ln".as_ptr(), &raw mut id, &raw mut number) == 0 {
            return null_mut();
        }
        let forget = || {
            let done = call_module(c"_forget", number as usize, None);
            if done.is_null() {
                ffi::PyErr_WriteUnraisable(null_mut());
            }
            ffi::Py_XDECREF(done);
        };
        if let Ok(id) = InterpreterId::try_from(id) {
            inside(attach::ensure_id(id, Site::caller()), forget);
        }
        none()
    }
}

const HANDLER: &CStr = c"interp_guard.handler";

/// `install(signum, id, number)`: a capsule, whose end uninstalls.
pub unsafe extern "C" fn install(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut signum, mut id, mut number): (c_int, c_longlong, ffi::Py_ssize_t) = (0, 0, 0);
    // SAFETY: attached, with a tuple; the format fits what is written; the capsule gets a pointer of `Box`'s, which its
    // destructor gives back.
    unsafe {
        let format = c"iLn".as_ptr();
        if ffi::PyArg_ParseTuple(arguments, format, &raw mut signum, &raw mut id, &raw mut number) == 0 {
            return null_mut();
        }
        let queue = match queue() {
            Ok(queue) => queue,
            Err(why) => return raise(ffi::PyExc_RuntimeError, &why),
        };
        let Ok(id) = InterpreterId::try_from(id) else {
            return raise(ffi::PyExc_ValueError, &format!("{id} is no interpreter"));
        };
        let handler = match signal::on_signal(queue, signum, id, run, number as usize) {
            Ok(handler) => handler,
            Err(why) => return raise(ffi::PyExc_ValueError, &why.to_string()),
        };
        put_on_top(signum);
        let handler = Box::into_raw(Box::new(handler));
        let capsule = ffi::PyCapsule_New(handler.cast::<c_void>(), HANDLER.as_ptr(), Some(uninstall));
        if capsule.is_null() {
            drop(Box::from_raw(handler));
        }
        capsule
    }
}

unsafe extern "C" fn uninstall(capsule: *mut PyObject) {
    // SAFETY: called by CPython with a capsule that `install` made, once.
    drop(unsafe { Box::from_raw(ffi::PyCapsule_GetPointer(capsule, HANDLER.as_ptr()).cast::<Handler>()) });
}

/// `counts(capsule)`: (left, full, finalizing, not_found).
pub unsafe extern "C" fn counts(_: *mut PyObject, capsule: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached; the pointer is checked for null; the format fits.
    unsafe {
        let handler = ffi::PyCapsule_GetPointer(capsule, HANDLER.as_ptr()).cast::<Handler>();
        let Some(handler) = handler.as_ref() else { return null_mut() };
        let counts = handler.counts();
        let format = c"KKKK".as_ptr();
        ffi::Py_BuildValue(format, counts.left, counts.full, counts.finalizing, counts.not_found)
    }
}

/// The bit of a signal, 1 to 64, in `HANDLED`.
fn bit_of(signum: c_int) -> u64 {
    1 << (signum as u32 % u64::BITS)
}

/// `signal-hook` installs its handler once per signal. Somebody who came later may have replaced it; then it is put back. It
/// runs on the alternate stack where a thread has one, as a handler in a process of several runtimes should.
fn put_on_top(signum: c_int) {
    // The first installation of all has just been made. If another thread has replaced it since, it came later, and stays.
    let found = installed(signum);
    let is_ours = object_of(found.sa_sigaction) == object_of(&raw const HANDLED as usize);
    let Some(mut ours) = OURS.get().or_else(|| is_ours.then(|| OURS.get_or_init(|| found))).copied() else {
        return;
    };
    ours.sa_flags |= libc::SA_ONSTACK;
    // SAFETY: installs `signal-hook`'s handler, which is registered for this signal.
    unsafe { libc::sigaction(signum, &ours, null_mut()) };
    // Relaxed: read by a later call of the main interpreter, or not in time.
    HANDLED.fetch_or(bit_of(signum), Ordering::Relaxed);
}

/// The main interpreter's hook has drained. See the module.
///
/// # Safety
/// Attached to the main interpreter.
pub unsafe fn before_main_ends() {
    let handled = HANDLED.load(Ordering::Relaxed);
    let Some(ours) = OURS.get() else { return };
    // SAFETY: attached; objects are checked for null and given back.
    unsafe {
        let module = ffi::PyImport_ImportModule(c"_signal".as_ptr());
        for signum in (1..=u64::BITS as c_int).filter(|&signum| handled & bit_of(signum) != 0) {
            if module.is_null() || installed(signum).sa_sigaction != ours.sa_sigaction {
                continue; // somebody's who came later
            }
            let number = c_long::from(signum);
            let pythons = ffi::PyObject_CallMethod(module, c"getsignal".as_ptr(), c"l".as_ptr(), number);
            if !pythons.is_null() && ffi::PyCallable_Check(pythons) == 1 {
                // SIG_IGN is 1. Only the main thread may; an embedder that finalizes elsewhere keeps CPython's way.
                let done = ffi::PyObject_CallMethod(module, c"signal".as_ptr(), c"li".as_ptr(), number, 1);
                ffi::Py_XDECREF(done);
            }
            ffi::Py_XDECREF(pythons);
            ffi::PyErr_Clear();
        }
        ffi::Py_XDECREF(module);
        ffi::PyErr_Clear();
    }
}
