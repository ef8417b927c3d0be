//! Which calls the current thread is running, innermost last. Normal context only.

use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use std::cell::Cell;
use std::ptr;

/// One call that is being run.
pub(super) struct Running {
    pub table: *const Table,
    id: InterpreterId,
    /// The `TypedQueue<'_, T>` that runs it, alive until the call has ended.
    pub queue: *const (),
    /// The call inside which this one runs; null if none.
    outer: *const Running,
}

thread_local! {
    /// The innermost call: the head of a list that lies on this thread's stack. Without a destructor: one that a thread has
    /// yet to run would keep a library that was loaded at run time from being unloaded.
    static RUNNING: Cell<*const Running> = const { Cell::new(ptr::null()) };
}

/// Runs `f` as a call of `id` from `queue`, a `TypedQueue<'_, T>` that is bound to the registry with this table.
pub(super) fn in_call<R>(table: &Table, id: InterpreterId, queue: *const (), f: impl FnOnce() -> R) -> R {
    /// Ends the call, also where it unwinds.
    struct End(*const Running);
    impl Drop for End {
        fn drop(&mut self) {
            RUNNING.set(self.0);
        }
    }
    let outer = RUNNING.get();
    let call = Running { table, id, queue, outer };
    RUNNING.set(&call);
    let _end = End(outer);
    f()
}

/// The calls that the calling thread runs, innermost first.
pub(super) fn calls<'c>() -> impl Iterator<Item = &'c Running> {
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
pub(super) fn this_thread_runs_a_call_from(queue: *const ()) -> bool {
    calls().any(|call| call.queue == queue)
}
