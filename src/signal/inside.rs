//! Who is in a handler, of the threads of this process.
//!
//! ```text
//! inside : u64 =  process (32)  |  threads (32)
//! ```
//!
//! A forked child inherits the count, but not the threads: one of another process's number counts as none. Whoever comes in
//! first in the child begins anew.

use crate::signal_safe::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub(super) struct Inside(AtomicU64);

/// The upper half for this process, the lower one zero.
fn nobody() -> u64 {
    process::number() << 32
}

fn process_of(inside: u64) -> u64 {
    inside & !u64::from(u32::MAX)
}

impl Inside {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts this thread in. [`leave`](Self::leave) is owed what this returns.
    ///
    /// Context: any, async-signal-safe, wait-free: if the exchange fails, somebody else has begun anew.
    pub fn enter(&self) -> u64 {
        let nobody = nobody();
        // SeqCst, here and below: pairs with `Action::switch_off`, which looks here after it has switched the handler off.
        let seen = self.0.load(Ordering::SeqCst);
        if process_of(seen) == nobody
            || self.0.compare_exchange(seen, nobody + 1, Ordering::SeqCst, Ordering::SeqCst).is_err()
        {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        nobody
    }

    /// Counts it out; unless it was in when its process was forked, and is alone in the child by now.
    ///
    /// Context: any, async-signal-safe, lock-free.
    pub fn leave(&self, entered: u64) {
        // In one step: a handler that interrupts this in a child may begin anew, and there is nobody to count out then.
        let one_less = |seen: u64| (process_of(seen) == entered).then(|| seen - 1);
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    }

    /// Is a thread of this process in?
    pub fn anybody(&self) -> bool {
        let seen = self.0.load(Ordering::SeqCst);
        process_of(seen) == nobody() && seen != nobody()
    }

    /// Was a thread in that this process, a forked child, does not have? As far as can be said: not once somebody came in here.
    pub fn left_behind(&self) -> bool {
        let seen = self.0.load(Ordering::SeqCst);
        process_of(seen) != nobody() && seen != process_of(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_in_when_the_process_was_forked_is_not_in_the_child() {
        let inside = Inside::new();
        assert!(!inside.anybody() && !inside.left_behind());
        let entered = inside.enter();
        let nested = inside.enter();
        inside.leave(nested);
        assert!(inside.anybody() && !inside.left_behind());
        // What a child of another number finds.
        let theirs = Inside(AtomicU64::new(nobody() + (1 << 32) + 1));
        assert!(!theirs.anybody() && theirs.left_behind());
        let here = theirs.enter();
        assert!(theirs.anybody() && !theirs.left_behind());
        theirs.leave(nobody() + (1 << 32)); // the thread that forked comes out: it was counted in the parent
        assert!(theirs.anybody());
        theirs.leave(here);
        assert!(!theirs.anybody());
        inside.leave(entered);
        assert!(!inside.anybody());
    }
}
