//! What there is to know of a function that is redirected.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function that is redirected.
pub struct Function {
    pub name: &'static CStr,
    /// Where it leads.
    pub ours: unsafe extern "C" fn(),
    /// What is called in its place otherwise. Set before anything is redirected.
    pub real: AtomicPtr<c_void>,
    /// Whose calls are redirected.
    pub callers: Callers,
}

/// Whose calls of a function are redirected. Nobody's from this library.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Everybody's but CPython's own: a function of CPython's.
    OfPython,
    /// The same: a function of the C library's.
    Others,
    /// CPython's own.
    Python,
    /// Everybody's.
    All,
}

impl Function {
    pub const fn new(name: &'static CStr, ours: unsafe extern "C" fn(), callers: Callers) -> Self {
        Self { name, ours, real: AtomicPtr::new(null_mut()), callers }
    }

    /// Is it a function of CPython's?
    pub fn is_pythons(&self) -> bool {
        self.callers == Callers::OfPython
    }

    /// Are calls redirected of CPython's own object, or of another one?
    pub fn is_for(&self, python: bool) -> bool {
        match self.callers {
            Callers::OfPython | Callers::Others => !python,
            Callers::Python => python,
            Callers::All => true,
        }
    }

    #[inline(always)]
    pub fn real(&self) -> *mut c_void {
        self.real.load(Ordering::Relaxed) // set before our functions are called
    }

    pub fn set_real(&self, real: *mut c_void) {
        self.real.store(real, Ordering::Relaxed); // see `real`
    }
}
