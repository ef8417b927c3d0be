//! A registry's mutex, held across a fork.
//!
//! # Why a mutex can be held across a fork
//!
//! It is the standard library's, a futex, locked and unlocked by the same thread: the child's only thread is the copy of
//! the one that locked it. That thread unlocks it in the child as it would have in the parent; a waiter that the word
//! remembers does not exist there, and waking nobody is no error.

use super::book::Book;
use super::known;
use crate::threads;
use nix::sys::signal::SigSet;
use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held from a thread's first question to its last answer, and taken before any registry's mutex.
static FORKING: Mutex<()> = Mutex::new(());

/// What the thread that has `FORKING` gives back with its last answer.
struct Around {
    /// Neither dropped when the thread ends (a destructor that a thread has yet to run would keep a library that was loaded at
    /// run time from being unloaded), nor when it unwinds.
    lock: ManuallyDrop<MutexGuard<'static, ()>>,
    /// The signal mask to go back to.
    mask: SigSet,
    /// How many registries are unanswered.
    registries: u32,
}

thread_local! {
    static AROUND: Cell<Option<Around>> = const { Cell::new(None) };
}

/// One more registry is around this thread's fork.
pub(crate) fn begin() {
    let around = match AROUND.take() {
        Some(around) => Around { registries: around.registries + 1, ..around },
        None => {
            // Signals first: a handler that forks, wrongly, waits for the lock with us and not for us.
            let mask = threads::swap_signal_mask(&SigSet::all());
            let lock = ManuallyDrop::new(FORKING.lock().unwrap_or_else(PoisonError::into_inner));
            known::hold();
            Around { lock, mask, registries: 1 }
        }
    };
    AROUND.set(Some(around));
}

/// One registry less. The last one gives back the lock and the signal mask.
pub(crate) fn end() {
    match AROUND.take() {
        Some(around) if around.registries > 1 => {
            AROUND.set(Some(Around { registries: around.registries - 1, ..around }));
        }
        Some(Around { lock, mask, .. }) => {
            known::let_go();
            drop(ManuallyDrop::into_inner(lock));
            threads::swap_signal_mask(&mask);
        }
        None => {}
    }
}

/// What lies between `before_fork` and its counterpart: the registry's mutex, how deep.
pub(crate) struct Fork {
    /// The number of the thread that is forking; 0 if none is.
    holder: AtomicU64,
    parked: UnsafeCell<Option<Parked>>,
}

/// What a thread that is forking has parked.
pub(crate) struct Parked {
    /// A `MutexGuard` of the registry at `registry`. Dropped only there: a registry that has been moved meanwhile no longer
    /// has its mutex where this points to.
    pub lock: ManuallyDrop<MutexGuard<'static, Option<Book>>>,
    pub registry: usize,
    /// Has it been found to have moved? Then nothing is owed for it any more.
    pub moved: bool,
    /// How many `before_fork` are unanswered.
    pub depth: u32,
    /// The fork generation in which `before_fork` was called.
    pub generation: u32,
}

// SAFETY: `parked` is used by one thread at a time: the one that `holder` names, which has set that with the mutex held and
// clears it before it lets the mutex go. It is also the one that locked the mutex, as a `MutexGuard` wants it.
unsafe impl Sync for Fork {}
// SAFETY: as above; a `Fork` that is sent to another thread is not borrowed, and what is parked in it is not dropped there.
unsafe impl Send for Fork {}
// A panic leaves it consistent: nothing of the caller's runs while it is being changed.
impl std::panic::RefUnwindSafe for Fork {}

impl Fork {
    pub const fn new() -> Self {
        Self { holder: AtomicU64::new(0), parked: UnsafeCell::new(None) }
    }

    /// What this thread has parked. `None` if this thread is not forking.
    pub fn mine(&self) -> Option<*mut Parked> {
        // Relaxed: a thread that reads its own number here has stored it itself.
        (self.holder.load(Ordering::Relaxed) == threads::number())
            // SAFETY: this thread is the holder, so nobody else is here; the reference ends with the statement.
            .then(|| unsafe { (*self.parked.get()).as_mut() }.map(std::ptr::from_mut))
            .flatten()
    }

    /// This thread is forking from here on.
    ///
    /// # Safety
    /// What is parked is this registry's mutex.
    pub unsafe fn park(&self, parked: Parked) {
        // SAFETY: this thread has the mutex, and nobody is the holder who has not.
        unsafe { *self.parked.get() = Some(parked) };
        // Relaxed: only this thread looks for its own number.
        self.holder.store(threads::number(), Ordering::Relaxed);
    }

    /// It is not any more. What it had parked, with the mutex still this thread's.
    ///
    /// # Safety
    /// This thread is forking, and no borrow of what it has parked is alive.
    pub unsafe fn unpark(&self) -> Option<Parked> {
        // Relaxed: as in `park`. Before the mutex goes: the next holder stores its own number with it held.
        self.holder.store(0, Ordering::Relaxed);
        // SAFETY: the mutex is still this thread's, and so is what is parked.
        unsafe { (*self.parked.get()).take() }
    }
}

impl Drop for Fork {
    /// A registry that goes without having been answered for does not keep other threads from forking, if it goes on the thread
    /// that asked.
    fn drop(&mut self) {
        // SAFETY: ours, by `mine`; the borrow ends with the statement.
        if self.mine().is_some_and(|parked| !unsafe { (*parked).moved }) {
            end();
        }
    }
}
