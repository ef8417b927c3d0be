//! A queue without the interpreters' type: its memory, its eventfd, who serves it.

use super::keeper::Keeper;
use crate::registry::queues;
use crate::signal_safe::pending::{Cell, Ring};
use crate::signal_safe::word::InterpreterId;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// See the module.
pub(crate) struct Queue {
    pub ring: Ring,
    pub name: String,
    pub keeper: Keeper,
    /// In a forked child the parent's, until `ring` has it as the child's own.
    event: EventFd,
    /// An eventfd for a forked child that cannot make one; -1 if there is none. Nobody reads or writes it before.
    spare: AtomicI32,
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
        let (event, spare) = (new_event()?, AtomicI32::new(-1));
        let cells: Box<[Cell]> = (0..capacity.get()).map(|_| Cell::default()).collect();
        let cells = NonNull::from(Box::leak(cells));
        // SAFETY: the cells and the eventfd are this queue's, and go with it.
        let ring = unsafe { Ring::new(cells, capacity, event.as_fd().as_raw_fd()) };
        let (servers, forks) = (AtomicU32::new(0), AtomicU32::new(0));
        let (calls, panics) = (AtomicU64::new(0), AtomicU64::new(0));
        let queue =
            Self { ring, name, keeper: Keeper::maker(), event, spare, cells, servers, forks, calls, panics };
        queue.make_spare()?;
        Ok(queue)
    }

    pub fn capacity(&self) -> usize {
        self.cells.len()
    }

    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// From here on the next push makes the eventfd readable again (R0, edge Q-wake). Leaves the parent's alone.
    ///
    /// # Errors
    /// The kernel refuses to read it: it stays readable.
    pub fn reset_event(&self) -> nix::Result<()> {
        match self.ring.has_eventfd().then(|| self.event.read()) {
            None | Some(Ok(_) | Err(Errno::EAGAIN | Errno::EINTR)) => Ok(()), // EAGAIN: nobody has pushed
            Some(Err(why)) => Err(why),
        }
    }

    /// Sees to it that the eventfd is this process's own: under the same number, whoever polls it polls the new one.
    ///
    /// # Errors
    /// The kernel gives none, or the number is beyond `RLIMIT_NOFILE` by now. Then it stays as it was.
    ///
    /// # Safety
    /// One thread at a time, also across a fork: the registry's mutex is held, or this is a forked child's only thread.
    pub unsafe fn own_event(&self) -> io::Result<()> {
        if self.ring.has_eventfd() {
            return Ok(());
        }
        let own = new_event().map(OwnedFd::from).or_else(|why| self.take_spare().ok_or(why))?;
        let (own_number, number) = (own.as_raw_fd(), self.event().as_raw_fd());
        // SAFETY: both are open; the number stays ours, and what it named is the parent's still.
        if unsafe { libc::dup3(own_number, number, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.ring.set_eventfd(number);
        Ok(())
    }

    fn take_spare(&self) -> Option<OwnedFd> {
        // Relaxed: under the mutex, or the only thread.
        let spare = self.spare.swap(-1, Ordering::Relaxed);
        // SAFETY: it was open and the queue's, and is taken out once.
        (spare >= 0).then(|| unsafe { OwnedFd::from_raw_fd(spare) })
    }

    /// Before a fork: a child that can make no eventfd finds one.
    ///
    /// # Errors
    /// The kernel gives none: such a child has none then.
    pub fn make_spare(&self) -> nix::Result<()> {
        // Relaxed, both: the registry's mutex is held, or nobody else has the queue yet.
        if self.spare.load(Ordering::Relaxed) < 0 {
            self.spare.store(OwnedFd::from(new_event()?).into_raw_fd(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// After a fork, on either side: what was spare is the child's now, or nobody's. The place that it leaves is the next one's.
    ///
    /// # Errors
    /// As for [`make_spare`](Self::make_spare), which is called again before the next fork.
    pub fn renew_spare(&self) -> nix::Result<()> {
        drop(self.take_spare());
        self.make_spare()
    }
}

impl queues::Queue for Queue {
    fn name(&self) -> &str {
        &self.name
    }

    fn waiting(&self, of: Option<InterpreterId>) -> usize {
        self.ring.ready(u64::MAX, of).count()
    }

    fn is_served(&self) -> bool {
        // Relaxed: advice.
        self.servers.load(Ordering::Relaxed) != 0
    }

    fn is_for_this_thread(&self, without_limit: bool) -> bool {
        self.keeper.is_this_thread_or_has_ended(without_limit)
    }

    fn wake(&self) {
        self.ring.wake();
    }

    fn before_fork(&self) {
        let _ = self.make_spare();
    }

    fn after_fork_parent(&self) {
        let _ = self.renew_spare();
    }

    /// Forgets every call, and whoever served the queue. The guards are the parent's and count nothing here. The eventfd, which
    /// the child shares with the parent, is replaced by one of its own under the same number; where the kernel refuses, the queue
    /// goes without, until [`own_event`](Self::own_event) succeeds.
    ///
    /// # Safety
    /// As for [`Ring::clear`].
    unsafe fn after_fork_child(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.ring.clear() };
        // Relaxed, both: the only thread.
        self.servers.store(0, Ordering::Relaxed);
        self.forks.fetch_add(1, Ordering::Relaxed);
        self.keeper.after_fork_child();
        self.ring.forget_eventfd();
        // SAFETY: as above. Whoever runs the queue tries again, as the next fork does for the spare one.
        let _ = unsafe { self.own_event() };
        let _ = self.renew_spare();
    }
}

fn new_event() -> nix::Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.take_spare());
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
