//! The jobs that wait for one VM.
//!
//! A job waits in two places. Here is the function. In the VM's pending queue there is a call, with the guard and the
//! function's number. Both are put there, and taken away by an end, under one lock; so what is here has its call, and
//! somebody will come for it.

use super::error::Refused;
use super::job::Job;
use crate::processes;
use crate::signal_safe::process;
use crate::unwind;
use std::collections::BTreeMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Waiting<V> {
    jobs: BTreeMap<usize, Job<V>>,
    next: usize,
    ended: bool,
}

/// What a `Bound` and its loop share.
pub(super) struct Jobs<V> {
    /// No other VM has it.
    pub number: u64,
    stop: AtomicBool,
    /// Another thread of the parent may have locked it when this process was forked: a child leaves it alone.
    waiting: Mutex<Waiting<V>>,
    process: u64,
}

impl<V> Jobs<V> {
    pub fn new() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        // Without that a child does not know itself as one.
        let _ = processes::tell_apart();
        let waiting = Waiting { jobs: BTreeMap::new(), next: 0, ended: false };
        Self {
            // Relaxed: only to be different.
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            stop: AtomicBool::new(false),
            waiting: Mutex::new(waiting),
            process: process::number(),
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Waiting<V>>> {
        let ours = self.process == process::number();
        ours.then(|| self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a job in, if `push` takes the call with its number.
    pub fn add(&self, job: Job<V>, push: impl FnOnce(usize) -> bool) -> Result<(), (Job<V>, Refused)> {
        let Some(mut waiting) = self.lock().filter(|waiting| !waiting.ended) else {
            return Err((job, Refused::Ended));
        };
        let number = waiting.next;
        if !push(number) {
            return Err((job, Refused::Full));
        }
        waiting.next = number.wrapping_add(1);
        waiting.jobs.insert(number, job);
        Ok(())
    }

    pub fn take(&self, number: usize) -> Option<Job<V>> {
        self.lock()?.jobs.remove(&number)
    }

    /// The loop has ended, which nobody will serve any more: drops what waits, and `discard`s the calls.
    pub fn end(&self, discard: impl FnOnce()) {
        let left = self.lock().map(|mut waiting| {
            waiting.ended = true;
            mem::take(&mut waiting.jobs)
        });
        discard();
        left.into_iter().for_each(drop_unrun);
    }

    /// Drops the jobs whose calls somebody discarded. `is_empty` says whether no call waits; the calling thread is the
    /// one that runs them, and runs none.
    pub fn drop_discarded(&self, is_empty: impl FnOnce() -> bool) {
        let lost = self.lock().and_then(|mut waiting| {
            (!waiting.jobs.is_empty() && is_empty()).then(|| mem::take(&mut waiting.jobs))
        });
        lost.into_iter().for_each(drop_unrun);
    }

    pub fn stop(&self) {
        // Release: pairs with the Acquire below.
        self.stop.store(true, Ordering::Release);
    }

    pub fn is_to_stop(&self) -> bool {
        // Acquire: whoever is told to stop sees what was done before.
        self.stop.load(Ordering::Acquire)
    }
}

impl<V> Drop for Jobs<V> {
    /// A child leaves the parent's jobs alone here too: they are not its own to drop, and may be half-changed.
    fn drop(&mut self) {
        if self.process != process::number() {
            let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
            mem::forget(mem::take(&mut waiting.jobs));
        }
    }
}

/// Drops jobs that will not run, with no lock held: what they own may come here. What that throws is contained, as what
/// a job throws that runs: each is dropped, and the loop goes on.
fn drop_unrun<V>(jobs: BTreeMap<usize, Job<V>>) {
    for job in jobs.into_values() {
        // Unwind-safe: it is consumed.
        if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(job))) {
            unwind::discard(thrown);
        }
    }
}
