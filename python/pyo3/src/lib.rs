#![doc = include_str!("../README.md")]

use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::NonNull;

/// The interpreter is finalizing or gone, or CPython had no memory for a thread state. Nothing is attached, nothing was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finalizing;

impl fmt::Display for Finalizing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the Python interpreter is finalizing")
    }
}

impl std::error::Error for Finalizing {}

/// The beginning of `struct InterpGuard_API` in the package's `pep788.h`, of which fields are only ever appended.
#[repr(C)]
struct Table {
    abi: u32,
    size: u32,
    /// From `guard_from_current` to `release`.
    pointer_forms: [*const c_void; 9],
    lookup: unsafe extern "C" fn(i64, *mut Value) -> c_int,
    dup: unsafe extern "C" fn(*const Value, *mut Value) -> c_int,
    close: unsafe extern "C" fn(*mut Value) -> c_int,
    interpreter: *const c_void,
    id: *const c_void,
    ensure_guard: unsafe extern "C" fn(*const Value) -> *mut c_void,
    ensure_id: unsafe extern "C" fn(i64) -> *mut c_void,
    release_checked: unsafe extern "C" fn(*mut c_void) -> c_int,
    drain: *const c_void,
    current_id: unsafe extern "C" fn() -> i64,
}

// SAFETY: functions that may be called from any thread, and numbers; nothing is written.
unsafe impl Sync for Table {}
// SAFETY: as above.
unsafe impl Send for Table {}

const ABI: u32 = 1;

/// `InterpGuard` of the header: plain data.
#[repr(C)]
struct Value {
    word: u64,
    id: i64,
    reserved: [u64; 2],
}

const NOTHING: Value = Value { word: 0, id: 0, reserved: [0; 2] };

/// Remembers an interpreter and guards nothing.
#[derive(Clone, Copy)]
pub struct View {
    table: &'static Table,
    id: i64,
}

impl View {
    /// The interpreter that `py` is attached to. Imports the package `interp_guard`, which registers it.
    ///
    /// Context: normal, attached.
    ///
    /// # Errors
    /// `ImportError`: the package is not installed, or older than this crate.
    pub fn current(py: Python<'_>) -> PyResult<Self> {
        py.import("interp_guard")?;
        // SAFETY: the package's capsule holds its function table, whose size is checked before anything of it is used.
        let table: &Table = unsafe { PyCapsule::import(py, c"interp_guard._C_API") }?;
        // SAFETY: a static of a shared object, which CPython never unloads.
        let table: &'static Table = unsafe { &*std::ptr::from_ref(table) };
        if table.abi != ABI || (table.size as usize) < size_of::<Table>() {
            return Err(PyImportError::new_err(
                "the Python package interp-guard is older than what this extension needs",
            ));
        }
        // SAFETY: attached.
        let id = unsafe { (table.current_id)() };
        if id < 0 {
            return Err(PyRuntimeError::new_err("this interpreter has no ID"));
        }
        Ok(Self { table, id })
    }

    /// The interpreter's ID: CPython's own, until the process initialises Python a second time. Never used again for another.
    ///
    /// Context: any, async-signal-safe.
    pub fn id(self) -> i64 {
        self.id
    }

    /// Keeps the interpreter from finalizing, without attaching.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Errors
    /// [`Finalizing`].
    pub fn guard(self) -> Result<Guard, Finalizing> {
        let mut value = NOTHING;
        // SAFETY: `value` is writable.
        let status = unsafe { (self.table.lookup)(self.id, &mut value) };
        if status == 0 { Ok(Guard { table: self.table, value }) } else { Err(Finalizing) }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(&self.id).finish()
    }
}

/// While it exists, the interpreter does not finalize: its end waits.
///
/// Context: every operation but [`attach`](Self::attach): any, async-signal-safe.
#[must_use = "dropping it gives it up"]
pub struct Guard {
    table: &'static Table,
    value: Value,
}

impl Guard {
    /// A view of the same interpreter.
    pub fn view(&self) -> View {
        View { table: self.table, id: self.value.id }
    }

    /// [`attach`] for an interpreter that is guarded already, also while it is closing.
    ///
    /// Context: normal; attached or not; waits for the GIL.
    ///
    /// # Errors
    /// [`Finalizing`]: CPython has no memory, or the guard was taken before a fork.
    ///
    /// # Panics
    /// If `f` does.
    pub fn attach<R>(&self, f: impl for<'py> FnOnce(Python<'py>) -> R) -> Result<R, Finalizing> {
        // SAFETY: a guard that is not closed yet.
        inside(self.table, unsafe { (self.table.ensure_guard)(&self.value) }, f)
    }
}

impl Clone for Guard {
    /// Another guard, also while the interpreter is closing. Of one from before a fork, which protects nothing in the child:
    /// another such.
    fn clone(&self) -> Self {
        let mut value = NOTHING;
        // SAFETY: a guard that is not closed yet; `value` is writable.
        unsafe { (self.table.dup)(&self.value, &mut value) };
        value.id = self.value.id;
        Self { table: self.table, value }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: closed once; one without a word is refused.
        unsafe { (self.table.close)(&mut self.value) };
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.value.id).finish()
    }
}

/// Attaches the calling thread to an interpreter, runs `f`, and puts back what was attached before. While `f` runs, the
/// interpreter does not finalize, so that nothing in it can hang or be killed for that.
///
/// Context: normal; attached or not, inside `Python::detach` too; waits for the GIL.
///
/// # Errors
/// [`Finalizing`]: `f` was not run.
///
/// # Panics
/// If `f` does; what was attached before is back then, too.
pub fn attach<R>(view: View, f: impl for<'py> FnOnce(Python<'py>) -> R) -> Result<R, Finalizing> {
    // SAFETY: an ID is looked up; any number will do.
    inside(view.table, unsafe { (view.table.ensure_id)(view.id) }, f)
}

/// Runs `f` inside the ensure that returned `token`, if it attached anything.
fn inside<R>(
    table: &'static Table,
    token: *mut c_void,
    f: impl for<'py> FnOnce(Python<'py>) -> R,
) -> Result<R, Finalizing> {
    struct Release(&'static Table, NonNull<c_void>);
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: the token of this thread's innermost ensure: those inside were released by their own `Release`.
            if unsafe { (self.0.release_checked)(self.1.as_ptr()) } != 0 {
                // `f` ensured through C and left that, or left another thread state attached: nothing can be put back.
                std::process::abort();
            }
        }
    }
    let _release = Release(table, NonNull::new(token).ok_or(Finalizing)?);
    // PyO3 finds the thread attached, and counts this as nested.
    Ok(Python::attach(f))
}
