//! Which calls the current thread is running, innermost last. Normal context only.

use super::Inner;
use crate::registry::Registry;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use std::cell::RefCell;
use std::marker::PhantomData;

struct Running {
    table: *const Table,
    id: InterpreterId,
    /// The `Inner<'_, T>` that runs it, alive until the call has ended.
    queue: *const (),
}

thread_local! {
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
}

/// While one exists, its thread runs a call. They end in the opposite order of their beginnings.
pub(super) struct InCall(PhantomData<*const ()>);

impl InCall {
    pub fn begin<T: Send + Sync + 'static>(queue: &Inner<'_, T>, id: InterpreterId) -> Self {
        let call = Running { table: queue.registry.table(), id, queue: std::ptr::from_ref(queue).cast() };
        RUNNING.with_borrow_mut(|running| running.push(call));
        Self(PhantomData)
    }
}

impl Drop for InCall {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(|running| running.pop());
    }
}

/// Is the calling thread inside a pending call of interpreter `id` of `table`?
pub(crate) fn this_thread_runs_a_call_of(table: &Table, id: InterpreterId) -> bool {
    let theirs = |call: &Running| std::ptr::eq(call.table, table) && call.id == id;
    // After this thread's locals are gone it runs no call.
    RUNNING.try_with(|running| running.borrow().iter().any(theirs)).unwrap_or(false)
}

/// For a drain inside a pending call, on the thread that serves the queue: runs what is queued for `id`, which would
/// wait for that very thread otherwise.
pub(crate) fn run_own<T: Send + Sync + 'static>(registry: &Registry<T>, id: InterpreterId) {
    let ours = |call: &Running| std::ptr::eq(call.table, registry.table());
    let queues = RUNNING.try_with(|running| {
        running.borrow().iter().filter(|&call| ours(call)).map(|call| call.queue).collect::<Vec<_>>()
    });
    let mut queues = queues.unwrap_or_default();
    queues.sort_unstable();
    queues.dedup();
    for queue in queues {
        // SAFETY: a call of that queue is in progress further up this thread's stack, so it is alive. It is bound to the
        // registry that has this table, and so it is of the same type.
        let queue = unsafe { &*queue.cast::<Inner<'_, T>>() };
        queue.run(Some(id));
    }
}
