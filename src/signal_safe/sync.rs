//! The atomics, behind one small shim. Nothing else in the core names an atomic type.
//!
//! `tests/fixtures/interleavings` takes in the core with another file in the place of this one, whose atomics are loom's. What is
//! not an atomic here is here because it differs there.

pub use atomic::{Atomic, Ordering, fence};
pub use core::sync::atomic::{AtomicPtr, compiler_fence};

/// Stands between a counter's read-modify-write and the load of the slot's word in shared mode (A3 and X2).
///
/// On hardware the SeqCst read-modify-write followed by a SeqCst load *is* the fence, and this is nothing. Loom treats
/// SeqCst accesses as acquire-release only, so there it is a real one.
#[inline(always)]
pub fn light_fence() {}

/// A constructor that statics can call. Loom's atomics have none.
macro_rules! const_fn {
    ($(#[$doc:meta])* $vis:vis fn $name:ident() -> $ret:ty $body:block) => {
        $(#[$doc])* $vis const fn $name() -> $ret $body
    };
}
pub(super) use const_fn;

/// What holds of the layout in memory, with atomics that are as large as what is in them.
macro_rules! layout {
    ($($check:tt)*) => { const _: () = { $($check)* }; };
}
pub(super) use layout;

/// Plain memory that one party at a time reads or writes. Loom, in its place, objects to accesses that are not ordered.
pub struct Plain<T>(core::cell::UnsafeCell<core::mem::MaybeUninit<T>>);

impl<T: Copy> Plain<T> {
    /// Memory that was not written yet.
    pub const fn uninit() -> Self {
        Self(core::cell::UnsafeCell::new(core::mem::MaybeUninit::uninit()))
    }

    /// # Safety
    /// Nobody else reads or writes it meanwhile.
    #[inline(always)]
    pub unsafe fn write(&self, value: T) {
        // SAFETY: the caller's promise.
        unsafe { (*self.0.get()).write(value) };
    }

    /// # Safety
    /// It was written, and nobody writes it meanwhile.
    #[inline(always)]
    pub unsafe fn read(&self) -> T {
        // SAFETY: the caller's promise.
        unsafe { (*self.0.get()).assume_init() }
    }
}
