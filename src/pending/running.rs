//! Which calls the current thread is running, innermost last. Normal context only.

use super::Inner;
use crate::registry::Registry;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use std::cell::Cell;
use std::ptr;

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
pub(crate) fn run_own<T: Send + Sync + 'static>(registry: &Registry<T>, id: InterpreterId) {
    let ours = calls().filter(|call| ptr::eq(call.table, registry.table()));
    let mut queues: Vec<_> = ours.map(|call| call.queue).collect();
    queues.sort_unstable();
    queues.dedup();
    for queue in queues {
        // SAFETY: a call of that queue is in progress further up this thread's stack, so it is alive. It is bound to the
        // registry that has this table, and so it is of the same type.
        let queue = unsafe { &*queue.cast::<Inner<'_, T>>() };
        queue.run(Some(id));
    }
}
