//! Whose a queue is while nobody runs its calls: the thread that did so last, or, where none ever has, the one that made it.

use crate::threads::Thread;
use std::sync::atomic::{AtomicU64, Ordering};

/// That thread, and [`HAS_SERVED`].
pub(crate) struct Keeper(AtomicU64);

/// Set if the thread has run calls of the queue, clear if it has merely made it.
const HAS_SERVED: u64 = 1 << 63;

/// Whoever ran calls of the queue will not come again. No thread has the ID 0.
const ABANDONED: u64 = HAS_SERVED;

impl Keeper {
    /// The calling thread makes the queue.
    pub fn maker() -> Self {
        Self(AtomicU64::new(Thread::current().bits()))
    }

    /// The calling thread runs what waits.
    pub fn serves(&self) {
        // Relaxed, here and below: advice.
        self.0.store(Thread::current().bits() | HAS_SERVED, Ordering::Relaxed);
    }

    /// Who ran its calls will not do so again, though that thread may live.
    pub fn abandon(&self) {
        self.0.store(ABANDONED, Ordering::Relaxed);
    }

    /// In a forked child: the only thread has whatever there is.
    pub fn after_fork_child(&self) {
        let keeper = self.0.load(Ordering::Relaxed);
        if keeper != ABANDONED {
            self.0.store(Thread::of_forked_child().bits() | keeper & HAS_SERVED, Ordering::Relaxed);
        }
    }

    /// While nobody serves the queue: is it for the calling thread to run what waits, if it would wait for that itself? A queue
    /// that nobody has served yet is left to whoever will, but where the wait is `without_limit` and nothing else may ever end
    /// it.
    pub fn is_this_thread_or_has_ended(&self, without_limit: bool) -> bool {
        let keeper = self.0.load(Ordering::Relaxed);
        let thread = Thread::from_bits(keeper & !HAS_SERVED);
        keeper == ABANDONED
            || (without_limit || keeper & HAS_SERVED != 0) && (thread.is_current() || thread.has_ended())
    }
}
