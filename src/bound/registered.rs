//! What is registered in place of a VM that stays where it is.

use super::jobs::Jobs;
use crate::pending::PendingQueue;
use std::fmt;
use std::sync::Arc;

/// A VM that is bound to its thread, as the other threads have it: see the [module](crate::bound).
///
/// Made by a [`Loop`](super::Loop) or by [`start`](super::start). A finalizer gets it back. Dropping it tells the VM's
/// thread to stop, and does not wait for that.
pub struct Bound<V: 'static> {
    pub(super) jobs: Arc<Jobs<V>>,
    pub(super) queue: PendingQueue<'static, Bound<V>>,
}

impl<V: 'static> Drop for Bound<V> {
    fn drop(&mut self) {
        self.jobs.stop();
        self.queue.wake();
    }
}

impl<V: 'static> fmt::Debug for Bound<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}
