//! Threads' names, as `threading` has them.
//!
//! The kernel knows Python's threads by the process's name. What `threading` calls them is asked when a report is
//! made, in the interpreter that makes it; a thread of another interpreter says it itself, when it takes a guard that
//! the ledger records, or its first guard of a subinterpreter.

use pyo3_ffi::{self as ffi, PyObject};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_long};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a thread said.
struct Said {
    name: String,
    /// When the thread began, in the kernel's clock ticks: the kernel gives the IDs of ended threads to new ones.
    began: Option<u64>,
}

/// By the kernel's thread ID. In a forked child it may be taken for good: [`said`].
static SAID: Mutex<BTreeMap<u32, Said>> = Mutex::new(BTreeMap::new());

/// Is `SAID` taken for good, by a thread that this forked process does not have?
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// In a forked child, by its only thread. If another thread of the parent had the names, names are the kernel's from here on.
pub fn after_fork_child() {
    // Relaxed: threads that come later see it by their beginning.
    IS_LOST.store(SAID.try_lock().is_err(), Ordering::Relaxed);
}

/// The names that threads said. Whoever has them runs no Python code, and does not wait.
fn said() -> Option<MutexGuard<'static, BTreeMap<u32, Said>>> {
    if IS_LOST.load(Ordering::Relaxed) {
        return None; // as in `after_fork_child`
    }
    Some(SAID.lock().unwrap_or_else(PoisonError::into_inner))
}

/// So many, and those whose threads have ended are forgotten.
const MANY: usize = 4096;

/// The calling thread.
///
/// Context: any, async-signal-safe.
pub fn this_thread() -> u32 {
    // Not by its name in the C library, which glibc has had since 2.30 only.
    // SAFETY: only asks.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// Is this the thread that the process began with?
pub fn in_main_thread() -> bool {
    // SAFETY: only asks.
    this_thread() == unsafe { libc::getpid() } as u32
}

/// When a thread of this process began. `None` if there is no such thread.
fn began(thread: u32) -> Option<u64> {
    let line = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    // The second field, the name, is in parentheses and may have any character in it; this is the 22nd.
    line.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Calls a function of `interp_guard._threads`. A new reference; or null, perhaps with an exception set, which need
/// not be the function's own: it may be what a signal handler raised.
///
/// # Safety
/// Attached, with no exception set.
unsafe fn ask(function: &CStr) -> *mut PyObject {
    // SAFETY: attached; every object is checked for null and given back.
    unsafe {
        let name = ffi::PyUnicode_FromString(c"interp_guard._threads".as_ptr());
        let module = if name.is_null() { null_mut() } else { ffi::PyImport_GetModule(name) };
        let answer = match module.is_null() {
            true => null_mut(),
            false => ffi::PyObject_CallMethod(module, function.as_ptr(), std::ptr::null()),
        };
        ffi::Py_XDECREF(module);
        ffi::Py_XDECREF(name);
        answer
    }
}

/// A string's text. `None` for another object, and for null.
///
/// # Safety
/// Attached, with no exception set; `object` is null or an object.
unsafe fn text_of(object: *mut PyObject) -> Option<String> {
    // SAFETY: attached; the bytes are copied before they are given back.
    unsafe {
        if object.is_null() || ffi::PyUnicode_Check(object) == 0 {
            return None;
        }
        let bytes = ffi::PyUnicode_AsEncodedString(object, c"utf-8".as_ptr(), c"replace".as_ptr());
        let words = if bytes.is_null() { std::ptr::null_mut() } else { ffi::PyBytes_AsString(bytes) };
        let text = (!words.is_null()).then(|| CStr::from_ptr(words).to_string_lossy().into_owned());
        ffi::Py_XDECREF(bytes);
        ffi::PyErr_Clear();
        text
    }
}

/// Writes down what `threading` calls the calling thread, if it knows it.
///
/// # Safety
/// Attached, with no exception set.
pub unsafe fn say_own_name() {
    let thread = this_thread();
    let name = if in_main_thread() {
        Some("MainThread".to_owned()) // without Python code, where a signal handler might come in between
    } else {
        // SAFETY: attached; the answer is given back, and no handler runs in this thread that would be cleared.
        unsafe {
            let answer = ask(c"own_name");
            ffi::PyErr_Clear();
            let name = text_of(answer);
            ffi::Py_XDECREF(answer);
            name
        }
    };
    let Some(mut said) = said() else { return };
    match name {
        Some(name)
            if said.get(&thread).is_some_and(|said| said.name == name && said.began == began(thread)) => {}
        Some(name) => {
            if said.len() >= MANY {
                said.retain(|&thread, said| began(thread) == said.began);
            }
            said.insert(thread, Said { name, began: began(thread) });
        }
        None => drop(said.remove(&thread)),
    }
}

/// The names that there are when a report is made.
pub struct Names(BTreeMap<u32, String>);

impl Names {
    /// Those that threads said themselves, and those of the attached interpreter's `threading`. An exception may be set
    /// afterwards, which a signal handler raised.
    ///
    /// # Safety
    /// Attached, with no exception set.
    pub unsafe fn of_interpreter() -> Self {
        let mut names = Self::said();
        // SAFETY: attached; the list and what is in it are borrowed from the answer, which is given back.
        unsafe {
            let answer = ask(c"names");
            let rows = if answer.is_null() { 0 } else { ffi::PyList_Size(answer) };
            for at in 0..rows {
                let row = ffi::PyList_GetItem(answer, at);
                let (thread, name) = (ffi::PyTuple_GetItem(row, 0), text_of(ffi::PyTuple_GetItem(row, 1)));
                let thread: c_long = ffi::PyLong_AsLong(thread);
                if let (Ok(thread), Some(name)) = (u32::try_from(thread), name) {
                    names.0.insert(thread, name);
                }
            }
            ffi::Py_XDECREF(answer);
        }
        names
    }

    /// Those that threads said themselves.
    pub fn said() -> Self {
        let Some(said) = said() else { return Self(BTreeMap::new()) };
        // Of a thread that has ended there is no saying when it began; it is the one that said it, unless another had
        // its ID.
        let is_it = |thread, said: &Said| began(thread).is_none_or(|began| said.began == Some(began));
        let names = said.iter().filter(|&(&thread, said)| is_it(thread, said));
        Self(names.map(|(&thread, said)| (thread, said.name.clone())).collect())
    }

    /// What `threading` calls a thread.
    pub fn get(&self, thread: u32) -> Option<&str> {
        self.0.get(&thread).map(String::as_str)
    }

    /// The same, or the kernel's name with its ID.
    pub fn get_or(&self, thread: u32, kernels: &str) -> String {
        self.get(thread).map_or_else(|| format!("{kernels} ({thread})"), str::to_owned)
    }
}
