//! What the registry knows of the pending queues that are bound to it: whom a close wakes, what a drain has to wait for and may
//! run, whom a fork concerns. The queues themselves: [`pending`](crate::pending).

use crate::signal_safe::word::InterpreterId;
use std::fmt;

/// A queue, whatever the type of the interpreters.
pub(crate) trait Queue: Send + Sync {
    /// What a drain's report calls it.
    fn name(&self) -> &str;

    /// How many calls wait, for one interpreter or for all.
    fn waiting(&self, of: Option<InterpreterId>) -> usize;

    /// Does a worker or a `run_pending` in progress serve it?
    fn is_served(&self) -> bool;

    /// While nobody does: is it for the calling thread to run what waits, if it would wait for that itself? A queue that nobody
    /// has served yet is left to whoever will, but where the wait is `without_limit` and nothing else may ever end it.
    fn is_for_this_thread(&self, without_limit: bool) -> bool;

    /// Wakes whoever serves it.
    fn wake(&self);

    /// Before a fork. Where the kernel has no descriptor, the child may go without.
    fn before_fork(&self);

    /// After it, in the parent: what was spare may be a child's now.
    fn after_fork_parent(&self);

    /// After it, in the child: what waited is forgotten, not run.
    ///
    /// # Safety
    /// The only thread of a forked child, in no operation of the queue.
    unsafe fn after_fork_child(&self);
}

/// A queue whose calls can be run by who does not know their type.
pub(crate) trait Serve: Send + Sync {
    /// Runs what is queued for `id`; each call only if it `may_go_on`.
    fn serve(&self, id: InterpreterId, may_go_on: &mut dyn FnMut() -> bool);
}

/// Calls of one interpreter that wait in one queue, for a drain's report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The queue's name.
    pub queue: String,
    /// How many.
    pub calls: usize,
    /// Does a worker, or a `run_pending` in progress, serve the queue?
    pub served: bool,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = if self.calls == 1 { "call for it waits" } else { "calls for it wait" };
        let served = if self.served { "" } else { ", which nobody serves" };
        write!(f, "{} {calls} in the pending queue {:?}{served}", self.calls, self.queue)
    }
}
