//! A guard and a view as C passes them: words dressed as pointers.

use crate::ground::registry::Interpreter;
use crate::ground::word::{GuardWord, ViewWord};
use interp_guard::{Guard, InterpreterId};
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::without_provenance_mut;

/// `PyInterpreterGuard *`: a [`GuardWord`] dressed as a pointer.
pub type GuardPointer = *mut c_void;
/// `PyInterpreterView *`: a [`ViewWord`] dressed as a pointer.
pub type ViewPointer = *mut c_void;

pub fn as_pointer(bits: u64) -> *mut c_void {
    without_provenance_mut(bits as usize)
}

pub fn view_of(view: ViewPointer) -> Option<InterpreterId> {
    ViewWord::from_bits(view as u64)?.id()
}

/// The guard behind a word, without giving it up; `None` for a word that is none, and for a guard from before a fork.
///
/// # Safety
/// A word that can be a guard is one that is not closed yet.
pub unsafe fn borrow(bits: u64) -> Option<ManuallyDrop<Guard<'static, Interpreter>>> {
    // SAFETY: the caller's promise.
    unsafe { GuardWord::from_bits(bits)?.borrow() }
}
