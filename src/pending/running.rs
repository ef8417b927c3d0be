//! Which calls the current thread is running, innermost last. Normal context only.

use super::Inner;
use super::queue::Serving;
use crate::registry::Registry;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use std::cell::Cell;
use std::ptr;
use std::sync::{Arc, Weak};

struct Running {
    table: *const Table,
    id: InterpreterId,
    /// The `Inner<'_, T>` that runs it, alive until the call has ended.
    queue: *const (),
    /// The call inside which this one runs; null if none.
    outer: *const Running,
}

thread_local! {
    /// The innermost call: the head of a list that lies on this thread's stack. Without a destructor: one that a thread has
    /// yet to run would keep a library that was loaded at run time from being unloaded.
    static RUNNING: Cell<*const Running> = const { Cell::new(ptr::null()) };
}

/// Runs `f` as a call of `id`.
pub(super) fn in_call<T: Send + Sync + 'static, R>(
    queue: &Inner<'_, T>,
    id: InterpreterId,
    f: impl FnOnce() -> R,
) -> R {
    /// Ends the call, also where it unwinds.
    struct End(*const Running);
    impl Drop for End {
        fn drop(&mut self) {
            RUNNING.set(self.0);
        }
    }
    let outer = RUNNING.get();
    let call = Running { table: queue.registry.table(), id, queue: ptr::from_ref(queue).cast(), outer };
    RUNNING.set(&call);
    let _end = End(outer);
    f()
}

/// The calls that the calling thread runs, innermost first.
fn calls<'c>() -> impl Iterator<Item = &'c Running> {
    // SAFETY: a listed call lies on this thread's stack, further up, until `in_call` has ended, which takes it out of the list
    // first. The iterator is used up before its caller returns.
    let innermost = unsafe { RUNNING.get().as_ref() };
    // SAFETY: as above.
    std::iter::successors(innermost, |call| unsafe { call.outer.as_ref() })
}

/// Is the calling thread inside a pending call of interpreter `id` of `table`?
pub(crate) fn this_thread_runs_a_call_of(table: &Table, id: InterpreterId) -> bool {
    calls().any(|call| ptr::eq(call.table, table) && call.id == id)
}

/// Is the calling thread inside a pending call from `queue`?
pub(super) fn this_thread_runs_a_call_from<T: Send + Sync + 'static>(queue: &Inner<'_, T>) -> bool {
    calls().any(|call| ptr::eq(call.queue, ptr::from_ref(queue).cast()))
}

/// For a drain inside a pending call, on the thread that serves the queue: runs what is queued for `id`, which would
/// wait for that very thread otherwise.
/// Each call only if it `may_go_on`.
pub(crate) fn run_own<T: Send + Sync + 'static>(
    registry: &Registry<T>,
    id: InterpreterId,
    may_go_on: &mut dyn FnMut() -> bool,
) {
    let ours = calls().filter(|call| ptr::eq(call.table, registry.table()));
    let mut queues: Vec<_> = ours.map(|call| call.queue).collect();
    queues.sort_unstable();
    queues.dedup();
    for queue in queues {
        // SAFETY: a call of that queue is in progress further up this thread's stack, so it is alive. It is bound to the
        // registry that has this table, and so it is of the same type.
        let queue = unsafe { &*queue.cast::<Inner<'_, T>>() };
        queue.run(Some(id), may_go_on);
    }
}

/// A queue whose calls can be run by who does not know their type.
pub(crate) trait Serve: Send + Sync {
    /// Runs what is queued for `id`; each call only if it `may_go_on`.
    fn serve(&self, id: InterpreterId, may_go_on: &mut dyn FnMut() -> bool);
}

impl<T: Send + Sync + 'static> Serve for Inner<'_, T> {
    fn serve(&self, id: InterpreterId, may_go_on: &mut dyn FnMut() -> bool) {
        let _serving = Serving::new(&*self.queue);
        self.run(Some(id), may_go_on);
    }
}

/// For the registry's book. To be upgraded only where the registry is borrowed for as long as there is what came of it.
pub(super) fn to_be_served<'r, T: Send + Sync + 'static>(inner: &Arc<Inner<'r, T>>) -> Weak<dyn Serve> {
    let weak: Weak<dyn Serve + 'r> = Arc::<Inner<'r, T>>::downgrade(inner);
    // SAFETY: the same type but for the lifetime of the registry's borrow, and nothing else in there is borrowed. While a `Weak`
    // is not upgraded, nothing is reached through it; who does that borrows the registry meanwhile, as said above.
    unsafe { std::mem::transmute::<Weak<dyn Serve + 'r>, Weak<dyn Serve>>(weak) }
}

/// What a drain with guards out has found in the queues.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// No call waits.
    Nothing,
    /// Calls wait, which others serve or are expected to.
    ToOthers,
    /// Calls waited, and the calling thread has run them, as far as it might go on.
    Ran,
}

/// For a drain: runs what is queued for `id` where nobody serves the queue and the calling thread is the one that did so last,
/// as an event loop's thread is that has made its last turn, or where that one has ended. What another living thread served
/// last, it will serve again. Each call only if it `may_go_on`.
pub(crate) fn run_left<T: Send + Sync + 'static>(
    registry: &Registry<T>,
    id: InterpreterId,
    without_limit: bool,
    may_go_on: &mut dyn FnMut() -> bool,
) -> Left {
    // Looked through with no lock held, and let go of so: a queue's last owner drops what is the program's.
    let queues: Vec<_> = match registry.lock().as_ref() {
        Some(book) => book.queues_to_serve().map(|(queue, serve)| (queue, serve.clone())).collect(),
        None => Vec::new(),
    };
    let mut left = Left::Nothing;
    for (queue, serve) in queues.iter().filter(|(queue, _)| queue.waiting(Some(id)) != 0) {
        let ours = !queue.is_served() && queue.keeper.is_this_thread_or_has_ended(without_limit);
        match serve.upgrade().filter(|_| ours) {
            Some(queue) => {
                queue.serve(id, may_go_on);
                left = Left::Ran;
            }
            None if left == Left::Nothing => left = Left::ToOthers,
            None => {}
        }
    }
    left
}
