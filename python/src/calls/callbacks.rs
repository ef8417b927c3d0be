//! C function pointers for ctypes and cffi that ask before Python is entered.
//!
//! A callback of ctypes or cffi takes the GIL before the first line of Python, so that no guard in that Python comes in
//! time. A [`Callback`] goes in front of it: its trampoline guards the interpreter first, and answers a default where
//! that is refused. While the guard is out, `PyGILState_Ensure`, with which ctypes and cffi begin, neither hangs nor
//! crashes.
//!
//! That function knows the main interpreter alone, and the thread's own state. Where it would not find the callback's
//! interpreter, the trampoline attaches the thread to it, and ctypes and cffi count as nested. Elsewhere it does not:
//! cffi keeps a thread's state from one call to the next, and would not if there were one already.
//!
//! # A callback's life
//!
//! - **C1** A `Callback` is never freed, nor is its trampoline: native code may call it at any time. What it owns is
//!   the object whose C function it calls, the *owner*.
//! - **C2** `calls` is how many calls are past [`Callback::begin`], and whether the callback is closed. None begins
//!   once it is closed. So it gets to "closed, and no calls" once: by the `close`, or by the last call's end. That one
//!   takes the owner away. In a forked child, calls of threads that it does not have never end, and the owner stays.
//! - **C3** The owner is given up attached to its interpreter: `close` is called so, and a call ends inside its level
//!   or with its guard. A call that has neither (see [`Callback::is_safe_without`]) leaves the owner for good.

use super::arch::Default;
use super::trampoline::{self, Frame, Gate};
use crate::attach::{self, Level};
use crate::end::state;
use crate::ground::helpers::{Methods, keeping_errno, method, raise, say, site_from};
use crate::ground::python;
use crate::ground::registry;
use crate::ground::word::{GuardWord, Held};
use crate::holding;
use interp_guard::{InterpreterId, Site};
use pyo3_ffi::{self as ffi, PyMethodDef, PyObject};
use std::ffi::{CStr, c_char, c_int};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// A C function pointer in front of another one.
pub struct Callback {
    target: usize,
    /// How many words of arguments are on the stack.
    words: u64,
    default: Default,
    id: InterpreterId,
    /// What a ledger says took the guard of a call; `None`: the place that calls.
    site: Option<Site>,
    /// Whose function `target` is. Null once it is given up.
    owner: AtomicPtr<PyObject>,
    /// The calls that have begun and not ended, and [`CLOSED`].
    calls: AtomicUsize,
}

// SAFETY: numbers, and a pointer that is followed by the one that takes it away only, attached (C2, C3).
unsafe impl Sync for Callback {}

const CLOSED: usize = 1 << (usize::BITS - 1);

impl Callback {
    /// Counts a call, unless the callback is closed.
    fn begin(&self) -> bool {
        let count = |calls| if calls & CLOSED == 0 { Some(calls + 1) } else { None };
        // Relaxed: the owner is seen to by whoever made the callback, before its address was known; its end, by `end`.
        self.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }

    /// Ends a call. The owner, if it is to be given up now.
    fn end(&self) -> Option<NonNull<PyObject>> {
        // AcqRel: each end, with the one that takes the owner away: the calls are over then.
        if self.calls.fetch_sub(1, Ordering::AcqRel) == CLOSED + 1 { self.take_owner() } else { None }
    }

    /// Refuses calls from now on. The owner, if it is to be given up now.
    fn close(&self) -> Option<NonNull<PyObject>> {
        // AcqRel: as in `end`.
        if self.calls.fetch_or(CLOSED, Ordering::AcqRel) == 0 { self.take_owner() } else { None }
    }

    fn take_owner(&self) -> Option<NonNull<PyObject>> {
        // Relaxed: done once (C2).
        NonNull::new(self.owner.swap(null_mut(), Ordering::Relaxed))
    }

    /// May this thread, which was refused, be let in without a guard? It may where the end of the interpreter has to
    /// wait for its return anyway: because it is attached, or because it is the thread on which the main interpreter
    /// ends, in an `atexit` callback after ours. Native code that it calls there and that calls back (`qsort`, say)
    /// goes on as it always did.
    fn is_safe_without(&self) -> bool {
        let attached = attach::attached();
        if !attached.is_null() {
            // SAFETY: attached here, so the state and its interpreter exist.
            return unsafe { registry::id_of(python::PyThreadState_GetInterpreter(attached)) }
                == Some(self.id);
        }
        Some(self.id) == registry::main_id() && state::main_ends_on_this_thread()
    }

    /// What keeps the interpreter during a call; `None` if the call is refused.
    fn pass(&self, caller: usize) -> Option<Pass> {
        if self.calls.load(Ordering::Relaxed) & CLOSED != 0 {
            return None; // before it waits for the GIL
        }
        let site = self.site.unwrap_or(Site::code(caller));
        let pass = if self.finds_its_interpreter() {
            attach::guard_by_id(self.id, site).ok().map(|guard| Pass::Guard(Held::new(guard)))
        } else {
            attach::ensure_id(self.id, site).map(Pass::Level)
        };
        let pass = pass.or_else(|| self.is_safe_without().then_some(Pass::Nothing))?;
        if matches!(pass, Pass::Level(_)) && is_not_the_threads_own() || !self.begin() {
            pass.end();
            return None;
        }
        Some(pass)
    }

    /// Does `PyGILState_Ensure` attach this thread to the callback's interpreter?
    fn finds_its_interpreter(&self) -> bool {
        if Some(self.id) != registry::main_id() {
            return false;
        }
        // SAFETY: reads a thread-specific value.
        let own = unsafe { ffi::PyGILState_GetThisThreadState() };
        let attached = attach::attached();
        // SAFETY: a state of this thread, so it exists, and so does its interpreter.
        let is_main =
            || unsafe { registry::id_of(python::PyThreadState_GetInterpreter(own)) } == Some(self.id);
        (attached.is_null() || attached == own) && (own.is_null() || is_main())
    }
}

/// What keeps the interpreter during a call.
enum Pass {
    Guard(Held),
    Level(Level),
    /// See [`Callback::is_safe_without`].
    Nothing,
}

impl Pass {
    /// As plain data, for a [`Frame`].
    fn into_words(self) -> (u64, u64) {
        match self {
            Self::Guard(guard) => {
                let bits = guard.bits();
                guard.leave();
                holding::begin_call();
                (bits, 0)
            }
            Self::Level(level) => (0, level.to_bits()),
            Self::Nothing => (0, 0),
        }
    }

    /// # Safety
    /// From [`into_words`](Self::into_words), on this thread, once.
    unsafe fn from_words((guard, level): (u64, u64)) -> Self {
        if let Some(guard) = GuardWord::from_bits(guard) {
            holding::end_call();
            // SAFETY: the word of a guard that was left; the caller's promise.
            return Self::Guard(unsafe { Held::again(guard) });
        }
        Level::from_bits(level).map_or(Self::Nothing, Self::Level)
    }

    /// Gives the owner of a callback up (C3).
    fn give_up(&self, owner: NonNull<PyObject>) {
        let level = match self {
            Self::Guard(held) => {
                let word = GuardWord::from_bits(held.bits());
                // SAFETY: `held` has the guard still. One from before a fork protects nothing, and is none here.
                let guard = word.and_then(|word| unsafe { word.borrow() });
                guard.and_then(|guard| attach::ensure(&guard, Site::default()))
            }
            Self::Level(_) => None,
            Self::Nothing => return,
        };
        if level.is_some() || matches!(self, Self::Level(_)) {
            // SAFETY: attached to its interpreter; the caller took it away (C2).
            unsafe { ffi::Py_DecRef(owner.as_ptr()) };
        }
        release(level);
    }

    /// The guard is dropped, or the level released.
    fn end(self) {
        if let Self::Level(level) = self {
            release(Some(level));
        }
    }
}

/// Up to 3.11: is another state than the attached one the thread's own for `PyGILState_Ensure`, with which ctypes and
/// cffi begin? That would wait for the GIL that this thread has. Says so, once.
fn is_not_the_threads_own() -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    // SAFETY: reads a thread-specific value.
    let own = unsafe { ffi::PyGILState_GetThisThreadState() };
    if !python::has_one_gil() || own == python::unchecked() {
        return false;
    }
    // Relaxed: one flag.
    if !SAID.swap(true, Ordering::Relaxed) {
        say(
            "a callback was called on a thread of another interpreter than its own, and has returned its default: \
             CPython up to 3.11 would deadlock there. This is said once",
        );
    }
    true
}

/// Releases a level that was just made, or is innermost again.
fn release(level: Option<Level>) {
    if level.is_some_and(|level| attach::release(level).is_err()) {
        let text = c"interp_guard.callback: the call has left another thread state attached, or an ensure unreleased";
        // SAFETY: ends the process; callable always.
        unsafe { ffi::Py_FatalError(text.as_ptr()) }
    }
}

impl Gate for Callback {
    /// From [`Pass::into_words`].
    type Pass = (u64, u64);

    unsafe extern "C" fn enter(frame: *mut Frame<Self>, caller: usize) -> usize {
        // SAFETY: the caller's promise. Nobody else has the frame.
        let frame = unsafe { &mut *frame };
        let callback = frame.gate;
        let pass = keeping_errno(|| callback.pass(caller));
        frame.registers.will_return_as(&callback.default);
        if let Some(pass) = pass {
            frame.pass = pass.into_words();
            frame.words = callback.words;
            return callback.target;
        }
        // SAFETY: `Callback` was made for the type of its target; the frame is that of a call of it.
        unsafe { frame.registers.answer(&callback.default) };
        0
    }

    unsafe extern "C" fn leave(frame: *mut Frame<Self>) {
        // SAFETY: the caller's promise. Nobody else has the frame.
        let frame = unsafe { &*frame };
        keeping_errno(|| {
            // SAFETY: what `enter` has left in the frame of this call.
            let pass = unsafe { Pass::from_words(frame.pass) };
            if let Some(owner) = frame.gate.end() {
                pass.give_up(owner);
            }
            pass.end();
        });
    }
}

/// Under the Python package, with `_callbacks.py`.
pub static METHODS: Methods<2> = Methods([
    method(
        c"callback",
        callback,
        ffi::METH_VARARGS,
        c"callback(target, owner, words, form, default, site): (capsule, address); the capsule's end closes it.",
    ),
    PyMethodDef::zeroed(),
]);

const CAPSULE: &CStr = c"interp_guard.callback";

// SAFETY (both): called by Python, attached, with a module and an argument that are objects.

unsafe extern "C" fn callback(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut target, mut words, mut form) = (0_u64, 0_u64, 0 as c_int);
    let (mut owner, mut default): (*mut PyObject, *mut PyObject) = (null_mut(), null_mut());
    let mut site: *const c_char = std::ptr::null();
    // SAFETY: attached, with a tuple; what is written fits the format.
    let parsed = unsafe {
        ffi::PyArg_ParseTuple(
            arguments,
            c"KOKiOz".as_ptr(),
            &raw mut target,
            &raw mut owner,
            &raw mut words,
            &raw mut form,
            &raw mut default,
            &raw mut site,
        )
    };
    if parsed == 0 {
        return null_mut();
    }
    let (mut data, mut length): (*mut c_char, ffi::Py_ssize_t) = (null_mut(), 0);
    // SAFETY: attached, with an object; an exception if it is not bytes.
    if unsafe { ffi::PyBytes_AsStringAndSize(default, &raw mut data, &raw mut length) } != 0 {
        return null_mut();
    }
    // SAFETY: the bytes of an object that the arguments keep.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length as usize) };
    // SAFETY: attached.
    let (_, id) = unsafe { registry::current() };
    let (Some(default), Some(id)) = (Default::of(form, bytes), id) else {
        // SAFETY: attached.
        unsafe { ffi::PyErr_SetString(ffi::PyExc_ValueError, c"no such form of a result".as_ptr()) };
        return null_mut();
    };
    // SAFETY: null or terminated, and alive as the arguments are.
    let site = (!site.is_null()).then(|| unsafe { site_from(site) });
    let callback: &'static Callback = Box::leak(Box::new(Callback {
        target: target as usize,
        words,
        default,
        id,
        site,
        owner: AtomicPtr::new(owner),
        calls: AtomicUsize::new(0),
    }));
    let address = match trampoline::function_for(callback) {
        Ok(address) => address,
        Err(why) => {
            let text = format!(
                "interp_guard.callback has no executable memory ({why}): a security policy of this system may forbid it"
            );
            // The callback is known to nobody, and stays.
            // SAFETY: a static class.
            return raise(unsafe { ffi::PyExc_OSError }, &text);
        }
    };
    // SAFETY: attached; objects are checked for null. The callback has a reference to its owner from here on, and the
    // capsule's end sees to it. "N" takes the capsule over, also where it fails.
    unsafe {
        let pointer = std::ptr::from_ref(callback).cast_mut().cast();
        let capsule = ffi::PyCapsule_New(pointer, CAPSULE.as_ptr(), Some(close));
        if capsule.is_null() {
            return null_mut();
        }
        ffi::Py_IncRef(owner);
        ffi::Py_BuildValue(c"NK".as_ptr(), capsule, address as u64)
    }
}

/// The destructor.
unsafe extern "C" fn close(capsule: *mut PyObject) {
    // SAFETY: attached, with a capsule made above, whose pointer is a callback, which is never freed (C1).
    let callback =
        unsafe { ffi::PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()).cast::<Callback>().as_ref() };
    if let Some(owner) = callback.and_then(Callback::close) {
        // SAFETY: attached to its interpreter, in which the capsule was made; taken once (C2, C3).
        unsafe { ffi::Py_DecRef(owner.as_ptr()) };
    }
}
