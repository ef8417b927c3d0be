//! Pending calls, run attached.

use super::call::PendingCall;
use crate::thread_state::{self, Runtime};

/// A [`runner`](super::QueueOptions::runner): attaches the thread that serves the queue to the call's interpreter, runs the
/// call there, and restores what was attached. Of a call that panics, too.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Panics
/// If the call does, or if the runtime cannot make a thread state: the call is not run then. The queue contains and counts
/// both ([`Ran::panics`](super::Ran::panics)).
///
/// ```
/// use interp_guard::{Registry, pending::{self, PendingQueue, QueueOptions}, thread_state};
/// use refruntime::Interpreter;
///
/// static INTERPRETERS: Registry<Interpreter> = Registry::new();
///
/// let id = Interpreter::locking().register(&INTERPRETERS)?;
/// let queue = PendingQueue::with(&INTERPRETERS, QueueOptions::new().runner(pending::attached))?;
/// let call = |guard: &interp_guard::Guard<'_, Interpreter>, _| {
///     assert_eq!(thread_state::current_id(), Some(guard.id()));
/// };
/// queue.push(INTERPRETERS.lookup(id)?, call, 0).unwrap(); // from a handler, say
/// let ran = queue.run_pending();
/// assert_eq!((ran.calls, ran.panics), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn attached<T: Runtime>(call: PendingCall<'_, T>) {
    match thread_state::ensure(call.guard()) {
        Ok(_attached) => call.run(),
        Err(refused) => panic!("a pending call was not run: {refused}"),
    }
}
