//! Objects: they belong to an interpreter, and may be touched by a thread that is attached to it.

use crate::interpreter::Inner;
use crate::state::attached;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// A number that belongs to an interpreter. Each access checks that the thread is attached to it, that it has not ended,
/// and, with a lock, that no other thread is at it.
pub struct Object {
    interpreter: &'static Inner,
    value: AtomicI64,
    busy: AtomicBool,
}

impl Object {
    /// An object of the interpreter attached on this thread.
    ///
    /// # Panics
    /// If none is.
    pub fn new(value: i64) -> Self {
        let interpreter = attached().expect("an interpreter is attached").interpreter();
        let object = Self { interpreter, value: AtomicI64::new(value), busy: AtomicBool::new(false) };
        object.get();
        object
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.add(0)
    }

    /// Adds, and returns the sum.
    pub fn add(&self, more: i64) -> i64 {
        let interpreter = self.interpreter;
        if !attached().is_some_and(|state| ptr::eq(state.interpreter(), interpreter)) {
            interpreter.violation("an object is touched without being attached");
        }
        if interpreter.has_ended() {
            interpreter.violation("an object is touched after the end");
        }
        if interpreter.lock.is_none() {
            return self.value.fetch_add(more, Ordering::SeqCst) + more;
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            interpreter.violation("two threads are at one object");
        }
        // Two steps: without the lock, an addition is lost now and then.
        let sum = self.value.load(Ordering::Relaxed) + more;
        self.value.store(sum, Ordering::Relaxed);
        self.busy.store(false, Ordering::SeqCst);
        sum
    }
}
