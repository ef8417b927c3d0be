//! A queue without the interpreters' type: its memory, its eventfd, who serves it. What the registry's book knows of it.

use super::keeper::Keeper;
use crate::signal_safe::pending::{Cell, Ring};
use crate::signal_safe::word::InterpreterId;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// See the module.
pub(crate) struct Queue {
    pub ring: Ring,
    pub name: String,
    pub keeper: Keeper,
    event: EventFd,
    /// Behind `ring`.
    cells: NonNull<[Cell]>,
    /// Workers, and `run_pending`s in progress.
    servers: AtomicU32,
    /// How often this process's ancestors have forked around this queue.
    forks: AtomicU32,
    pub calls: AtomicU64,
    pub panics: AtomicU64,
}

// SAFETY: `cells` owns what `ring` shares, Send and Sync as that is; the rest is.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    pub fn new(name: String, capacity: NonZeroU64) -> io::Result<Self> {
        let event = new_event()?;
        let cells: Box<[Cell]> = (0..capacity.get()).map(|_| Cell::default()).collect();
        let cells = NonNull::from(Box::leak(cells));
        // SAFETY: the cells and the eventfd are this queue's, and go with it.
        let ring = unsafe { Ring::new(cells, capacity, event.as_fd().as_raw_fd()) };
        let (servers, forks) = (AtomicU32::new(0), AtomicU32::new(0));
        let (calls, panics) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { ring, name, keeper: Keeper::maker(), event, cells, servers, forks, calls, panics })
    }

    pub fn capacity(&self) -> usize {
        self.cells.len()
    }

    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// R0: the next push makes the eventfd readable again (edge Q-wake).
    pub fn reset_event(&self) {
        let _ = self.event.read(); // EAGAIN: nobody has pushed
    }

    /// How many calls wait, for one interpreter or for all.
    pub fn waiting(&self, of: Option<InterpreterId>) -> usize {
        self.ring.ready(u64::MAX, of).count()
    }

    /// Does a worker or a `run_pending` in progress serve it?
    pub fn is_served(&self) -> bool {
        // Relaxed: advice.
        self.servers.load(Ordering::Relaxed) != 0
    }

    /// In a forked child: forgets every call, and whoever served the queue. The guards are the parent's and count
    /// nothing here. The eventfd, which the child shares with the parent, is replaced by one of its own under the same
    /// number.
    ///
    /// # Errors
    /// The kernel has no eventfd left to give.
    ///
    /// # Safety
    /// As for [`Ring::clear`].
    pub unsafe fn after_fork_child(&self) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.clear() };
        // Relaxed, both: the only thread.
        self.servers.store(0, Ordering::Relaxed);
        self.forks.fetch_add(1, Ordering::Relaxed);
        self.keeper.after_fork_child();
        let own = new_event()?;
        // SAFETY: both are open; the number stays ours, and what it named is the parent's still.
        let number =
            unsafe { libc::dup3(own.as_fd().as_raw_fd(), self.event().as_raw_fd(), libc::O_CLOEXEC) };
        if number < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn new_event() -> nix::Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: leaked by `new`, and the ring is not used any more.
        drop(unsafe { Box::from_raw(self.cells.as_ptr()) });
    }
}

/// While one exists, the queue is served.
pub(super) struct Serving<Q: AsRef<Queue>> {
    queue: Q,
    forks: u32,
}

impl<Q: AsRef<Queue>> Serving<Q> {
    pub fn new(queue: Q) -> Self {
        // Relaxed, here and in drop: advice, and changed only by the single thread of a forked child.
        queue.as_ref().servers.fetch_add(1, Ordering::Relaxed);
        let forks = queue.as_ref().forks.load(Ordering::Relaxed);
        Self { queue, forks }
    }

    pub fn queue(&self) -> &Q {
        &self.queue
    }
}

impl<Q: AsRef<Queue>> Drop for Serving<Q> {
    fn drop(&mut self) {
        // A forked child has begun to count anew.
        if self.forks == self.queue.as_ref().forks.load(Ordering::Relaxed) {
            self.queue.as_ref().servers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl AsRef<Queue> for Queue {
    fn as_ref(&self) -> &Queue {
        self
    }
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
