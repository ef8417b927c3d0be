// May import: nothing.
//! Panics that are contained.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Drops what a contained panic carried, containing what its own drop throws as well.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    // Unwind-safe: the payload is consumed.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(another); // and so on for ever
    }
}
