//! A lock that is held for moments only, and that a forking thread can take in one function and give back in
//! another.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whoever has it calls neither the dynamic linker nor Python, so that nobody who waits for it waits for
/// either.
pub struct Locked<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through `with` alone, by one thread at a time.
unsafe impl<T: Send> Sync for Locked<T> {}

impl<T> Locked<T> {
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        /// Gives it back, also where `f` panics.
        struct Back<'l, T>(&'l Locked<T>);
        impl<T> Drop for Back<'_, T> {
            fn drop(&mut self) {
                self.0.give_back();
            }
        }
        self.take();
        let _back = Back(self);
        // SAFETY: taken, by this thread, which does not take it again inside `f`.
        f(unsafe { &mut *self.value.get() })
    }

    /// For a fork: nobody has it until [`give_back`](Self::give_back), in the parent and in the child.
    pub fn take(&self) {
        // Acquire: pairs with the Release in `give_back`: what was done under the lock is seen.
        while self.taken.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// See [`take`](Self::take).
    pub fn give_back(&self) {
        self.taken.store(false, Ordering::Release); // pairs with the Acquire in `take`
    }
}
