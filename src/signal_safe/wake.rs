//! The word on which a finalizer waits for the last guard.
//!
//! A finalizer reads the word (D0), then sums the counters (D1, D2), and sleeps only while the word still holds what it
//! read. Whoever gives up a guard of a closing interpreter counts the word up *after* counting its release, so a release
//! that the sums missed has changed the word: the sleep ends at once. The word only ever counts up; that it comes round
//! to the same number needs 2^32 releases between D0 and the sleep.

use super::sync::{Atomic, Ordering};
use super::sys;
use libc::timespec;

/// See the module.
#[derive(Default)]
pub struct Wake(Atomic<u32>);

impl Wake {
    /// The number to wait on (D0). Read before the sums.
    #[inline]
    pub fn value(&self) -> u32 {
        // Acquire: pairs with the AcqRel in `notify` (edge E6); a finalizer that reads the new number sees the release
        // before it.
        self.0.load(Ordering::Acquire)
    }

    /// A guard of a closing interpreter is gone: lets the finalizers look again (end of X3).
    ///
    /// Context: any, async-signal-safe.
    #[cold]
    #[inline(never)]
    pub fn notify(&self) {
        // AcqRel: pairs with the Acquire in `value` (edge E6; E7 with the wake below). A locked add, so that the release
        // counted before it is visible to whoever reads the new number, in per-CPU mode too.
        self.0.fetch_add(1, Ordering::AcqRel);
        sys::futex_wake_all(core::ptr::from_ref(&self.0).cast());
    }

    /// Sleeps while the word holds `seen`, until woken, interrupted, or past `deadline` (absolute, monotonic clock).
    ///
    /// Context: normal, blocks.
    pub fn wait_for_change(&self, seen: u32, deadline: Option<timespec>) {
        sys::futex_wait(&self.0, seen, deadline);
    }
}
