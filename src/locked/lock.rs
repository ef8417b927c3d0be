//! An interpreter's lock: held by a thread from one call to another, and by nobody who is not there.
//!
//! The lock is one word with the number of the thread that holds it, so that a forked child can tell a holder that it
//! does not have: any but the thread that forked. A lock of the standard library does not say whose it is, and would be
//! held for ever there.
//!
//! - **L1** Who waits has counted itself in `waiting` before it looks at `holder` for the last time; who lets go looks
//!   at `waiting` after `holder` is 0. Both are SeqCst, so at least one of them sees the other, and nobody sleeps while
//!   the lock is free.
//! - **L2** `forks` is brought up to date before the lock is taken. Whoever does that, alone, takes the lock away from
//!   a thread that is not there. So nobody takes it before that is done, and what is taken afterwards is not taken
//!   away.

use crate::signal_safe::wake::Wake;
use crate::threads;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// See the module.
pub(super) struct Lock {
    /// The thread's number; 0 if it is free.
    holder: AtomicU64,
    /// [`FORKS`], when `holder` was last known to be a thread of this process.
    forks: AtomicU64,
    /// How many wait; in a forked child also those that are not there, which costs a system call.
    waiting: AtomicU32,
    wake: Wake,
}

/// How often this process's ancestors have forked, since this was first used.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// The thread that forked this process.
static FORKER: AtomicU64 = AtomicU64::new(0);

/// Has the C library call [`in_child`].
fn hear_of_forks() {
    extern "C" fn in_child() {
        // Relaxed, both: the only thread; whatever it starts later happens after.
        FORKER.store(threads::number(), Ordering::Relaxed);
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    static HEARS: AtomicBool = AtomicBool::new(false);
    // Relaxed, both: once is enough, and twice does no harm.
    if !HEARS.load(Ordering::Relaxed) {
        // SAFETY: a function of the expected type, which stores, and knows its thread.
        let heard = unsafe { libc::pthread_atfork(None, None, Some(in_child)) } == 0;
        HEARS.store(heard, Ordering::Relaxed); // without memory for it: the next lock tries again
    }
}

impl Lock {
    pub fn new() -> Self {
        hear_of_forks();
        let forks = AtomicU64::new(FORKS.load(Ordering::Relaxed));
        Self { holder: AtomicU64::new(0), forks, waiting: AtomicU32::new(0), wake: Wake::default() }
    }

    /// Takes it; waits as long as it takes. Not twice.
    pub fn acquire(&self) {
        let own = threads::number();
        self.take_from_the_gone();
        loop {
            let seen = self.wake.value();
            // Acquire: pairs with the SeqCst store in `release`: what its holder did to the interpreter is seen.
            if self.holder.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            self.waiting.fetch_add(1, Ordering::SeqCst); // L1
            if self.holder.load(Ordering::SeqCst) != 0 {
                self.wake.wait_for_change(seen, None);
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed); // a number too large costs a system call
        }
    }

    /// Gives it back. The calling thread has it.
    pub fn release(&self) {
        // SeqCst: by L1; and a Release, which pairs with the Acquire in `acquire`.
        self.holder.store(0, Ordering::SeqCst);
        self.wake_who_waits();
    }

    fn wake_who_waits(&self) {
        // SeqCst: by L1.
        if self.waiting.load(Ordering::SeqCst) != 0 {
            self.wake.notify();
        }
    }

    /// In a forked child: frees it, if it is held by a thread that is not there (L2).
    fn take_from_the_gone(&self) {
        // Relaxed: FORKS and FORKER do not change while there is more than one thread. Acquire: pairs with the Release
        // below, so that who sees that this is done takes the lock after it.
        let (now, then) = (FORKS.load(Ordering::Relaxed), self.forks.load(Ordering::Acquire));
        if now == then {
            return;
        }
        // Before that, nobody of this process takes it: the holder is not there, or is the thread that forked, or there
        // is none.
        let holder = self.holder.load(Ordering::Relaxed);
        // Release: the load above comes before it.
        if self.forks.compare_exchange(then, now, Ordering::Release, Ordering::Relaxed).is_err() {
            return;
        }
        if holder != 0 && holder != FORKER.load(Ordering::Relaxed) {
            // A number is not used again: it is that holder's still. SeqCst: by L1.
            let freed = self.holder.compare_exchange(holder, 0, Ordering::SeqCst, Ordering::Relaxed);
            if freed.is_ok() {
                self.wake_who_waits();
            }
        }
    }
}
