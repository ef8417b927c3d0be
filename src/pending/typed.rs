//! A queue with the interpreters' type: takes the calls out of the memory and runs them.

use super::call::{Call, PendingCall};
use super::options::Runner;
use super::queue::{Queue, Serving};
use super::running;
use crate::registry::Registry;
use crate::registry::queues::Serve;
use crate::signal_safe::pending::Entry;
use crate::signal_safe::word::InterpreterId;
use crate::unwind;
use std::io;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// What was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ran {
    /// Calls that were run, those that panicked included.
    pub calls: u64,
    /// Calls that panicked. The panic hook has reported them, and nothing else of the program was disturbed.
    pub panics: u64,
}

impl AddAssign for Ran {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.panics += other.panics;
    }
}

/// What the clones of a [`PendingQueue`](super::PendingQueue) share.
pub(super) struct TypedQueue<'r, T: Send + Sync + 'static> {
    pub registry: &'r Registry<T>,
    /// Shared with the registry's book.
    pub queue: Arc<Queue>,
    pub runner: Runner<T>,
}

impl<T: Send + Sync + 'static> TypedQueue<'_, T> {
    pub fn run_pending(&self) -> Ran {
        let _serving = Serving::new(&*self.queue);
        self.queue.keeper.serves();
        // Both fail only where the calls can be run all the same, by whoever asks for it as this caller does.
        let _ = self.own_event();
        let _ = self.queue.reset_event(); // R0
        self.run(None, &mut || true)
    }

    /// See [`Queue::own_event`].
    pub fn own_event(&self) -> io::Result<()> {
        if self.queue.ring.has_eventfd() {
            return Ok(());
        }
        let _book = self.registry.lock();
        // SAFETY: the mutex is held, across a fork too.
        unsafe { self.queue.own_event() }
    }

    /// Takes out and runs what waits, for one interpreter or for all (R1 to R5); each call only if it `may_go_on`.
    pub fn run(&self, of: Option<InterpreterId>, may_go_on: &mut dyn FnMut() -> bool) -> Ran {
        let horizon = self.queue.ring.horizon();
        let mut found: Vec<_> = self.queue.ring.ready(horizon, of).collect();
        found.sort_unstable(); // by ticket
        let mut ran = Ran::default();
        // Taken one at a time: what this thread has not come to is there for others, and for a drain inside a call.
        for found in found {
            if !may_go_on() {
                break;
            }
            if let Some(call) = self.queue.ring.take(found).and_then(|entry| self.claim(entry)) {
                ran += self.run_one(call);
            }
        }
        ran
    }

    /// Which one it is.
    pub fn address(&self) -> *const () {
        ptr::from_ref(self).cast()
    }

    pub fn discard(&self) {
        let ring = &self.queue.ring;
        for entry in ring.ready(u64::MAX, None).filter_map(|found| ring.take(found)) {
            drop(self.claim(entry));
        }
    }

    /// Makes an entry a call again. `None` for one whose guard was taken before a fork: it protects nothing any more.
    fn claim(&self, entry: Entry) -> Option<PendingCall<'_, T>> {
        // SAFETY: (1) `push` took the parts from a guard of this registry; (2) the entry was taken once.
        let guard = unsafe { self.registry.guard_from_parts(entry.guard) };
        // SAFETY: `push` made it of a `Call<T>`, of this T, and function pointers are as wide as data pointers.
        let call = unsafe { std::mem::transmute::<*const (), Call<T>>(entry.call) };
        let counted = entry.guard.generation == self.registry.table().generation();
        counted.then_some(PendingCall { guard, call, data: entry.data })
    }

    fn run_one(&self, call: PendingCall<'_, T>) -> Ran {
        // Unwind-safe: the call is consumed, and what it shares with others is its own affair, as with any thread that
        // panics. The panic hook has reported it.
        let panicked = running::in_call(self.registry.table(), call.guard.id(), self.address(), || {
            catch_unwind(AssertUnwindSafe(|| (self.runner)(call))).map_err(unwind::discard).is_err()
        });
        // Relaxed: statistics.
        self.queue.calls.fetch_add(1, Ordering::Relaxed);
        self.queue.panics.fetch_add(panicked.into(), Ordering::Relaxed);
        Ran { calls: 1, panics: panicked.into() }
    }
}

impl<T: Send + Sync + 'static> Drop for TypedQueue<'_, T> {
    fn drop(&mut self) {
        self.discard();
    }
}

impl<T: Send + Sync + 'static> AsRef<Queue> for Arc<TypedQueue<'_, T>> {
    fn as_ref(&self) -> &Queue {
        &self.queue
    }
}

impl<T: Send + Sync + 'static> Serve for TypedQueue<'_, T> {
    fn serve(&self, id: InterpreterId, may_go_on: &mut dyn FnMut() -> bool) {
        let _serving = Serving::new(&*self.queue);
        self.run(Some(id), may_go_on);
    }
}

/// For the registry's book. To be upgraded only where the registry is borrowed for as long as there is what came of it.
pub(super) fn to_be_served<'r, T: Send + Sync + 'static>(inner: &Arc<TypedQueue<'r, T>>) -> Weak<dyn Serve> {
    let weak: Weak<dyn Serve + 'r> = Arc::<TypedQueue<'r, T>>::downgrade(inner);
    // SAFETY: the same type but for the lifetime of the registry's borrow, and nothing else in there is borrowed. While a `Weak`
    // is not upgraded, nothing is reached through it; who does that borrows the registry meanwhile, as said above.
    unsafe { std::mem::transmute::<Weak<dyn Serve + 'r>, Weak<dyn Serve>>(weak) }
}
