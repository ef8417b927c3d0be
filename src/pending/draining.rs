//! What a drain runs of the calls that it would wait for.

use super::running;
use super::typed::TypedQueue;
use crate::registry::Registry;
use crate::signal_safe::word::InterpreterId;
use std::ptr;

/// For a drain inside a pending call, on the thread that serves the queue: runs what is queued for `id`, which would
/// wait for that very thread otherwise. Each call only if it `may_go_on`.
pub(crate) fn run_own<T: Send + Sync + 'static>(
    registry: &Registry<T>,
    id: InterpreterId,
    may_go_on: &mut dyn FnMut() -> bool,
) {
    let ours = running::calls().filter(|call| ptr::eq(call.table, registry.table()));
    let mut queues: Vec<_> = ours.map(|call| call.queue).collect();
    queues.sort_unstable();
    queues.dedup();
    for queue in queues {
        // SAFETY: a call of that queue is in progress further up this thread's stack, so it is alive. It is bound to the
        // registry that has this table, and so it is of the same type.
        let queue = unsafe { &*queue.cast::<TypedQueue<'_, T>>() };
        queue.run(Some(id), may_go_on);
    }
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
        let ours = !queue.is_served() && queue.is_for_this_thread(without_limit);
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
