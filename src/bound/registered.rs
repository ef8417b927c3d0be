//! What is registered in place of a VM that stays where it is.

use super::jobs::Jobs;
use crate::pending::PendingQueue;
use crate::signal_safe::guard::Guard;
use crate::signal_safe::this_thread::Noted;
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

/// What handlers are told while something of the VM's runs on its thread.
pub(super) fn noted<V: 'static>(guard: &Guard<'_, Bound<V>>) -> Noted {
    Noted { id: guard.id(), registry: guard.as_raw().table().serial() }
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
