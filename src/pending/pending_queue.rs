//! The queue as its users have it: pushed to by handlers, run by normal threads.

use super::call::Call;
use super::error::{PushError, QueueError};
use super::options::{MAX_CAPACITY, QueueOptions};
use super::queue::{Queue, Serving};
use super::running;
use super::typed::{self, Ran, TypedQueue};
use crate::registry::Registry;
use crate::registry::queues::{self, Queue as _};
use crate::signal_safe::guard::Guard;
use std::fmt;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// A fixed-capacity queue of calls, bound to a registry. Handlers push; normal threads run. Clones are the same queue.
///
/// Its descriptor ([`AsFd`], [`AsRawFd`]) is an eventfd, readable when calls wait, for the program's own event loop to
/// poll; [`run_pending`](Self::run_pending) resets it. Nobody else should read it. A second one is kept for a forked
/// child.
///
/// In a forked child the same number is an eventfd of the child's own. If `RLIMIT_NOFILE` was lowered to that number or below,
/// or the system has no file left to give, the child cannot replace it. Such a child never touches its parent's: calls are
/// pushed and [`run_pending`](Self::run_pending) runs them, but the descriptor says nothing about them. `run_pending` and
/// [`start_worker`](PendingQueue::start_worker) try again to replace it.
///
/// When the last clone is dropped, calls that still wait are not run; their guards are given up.
pub struct PendingQueue<'r, T: Send + Sync + 'static> {
    pub(super) inner: Arc<TypedQueue<'r, T>>,
}

impl<'r, T: Send + Sync + 'static> PendingQueue<'r, T> {
    /// A queue for 1,024 calls.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// As for [`with`](Self::with).
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(registry.lookup(id)?, |guard, data| println!("{} got {data}", **guard), 10).unwrap();
    /// assert_eq!(queue.run_pending().calls, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(registry: &'r Registry<T>) -> Result<Self, QueueError> {
        Self::with(registry, QueueOptions::new())
    }

    /// A queue to one's own wishes. Sets the registry up, if nothing was registered yet.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`QueueError`].
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, QueueOptions}};
    /// let registry: Registry<String> = Registry::new();
    /// let queue = PendingQueue::with(&registry, QueueOptions::new().name("SIGUSR1").capacity(64))?;
    /// assert_eq!(queue.capacity(), 64);
    /// assert!(registry.layout().is_some()); // it is set up
    /// # Ok::<(), interp_guard::pending::QueueError>(())
    /// ```
    pub fn with(registry: &'r Registry<T>, options: QueueOptions<T>) -> Result<Self, QueueError> {
        let QueueOptions { name, capacity, runner } = options;
        let len = NonZeroU64::new(capacity as u64).filter(|_| capacity <= MAX_CAPACITY);
        let len = len.ok_or(QueueError::Capacity(capacity))?;
        let queue = Arc::new(Queue::new(name, len).map_err(QueueError::EventFd)?);
        let inner = Arc::new(TypedQueue { registry, queue, runner });
        let queue: Weak<dyn queues::Queue> = Arc::<Queue>::downgrade(&inner.queue);
        registry.attach_queue(queue, typed::to_be_served(&inner)).map_err(QueueError::Registry)?;
        Ok(Self { inner })
    }

    /// Leaves a call for whoever serves the queue, and wakes them.
    ///
    /// Of two calls, one of which was pushed after the push of the other had returned, the earlier is run first, where
    /// one thread serves the queue.
    ///
    /// Context: any, async-signal-safe, wait-free, re-entrant: a handler may push in the middle of a push of the thread
    /// that it interrupted. `errno` is not touched. A `siglongjmp` out of the middle of it costs the queue one place and
    /// leaks the guard.
    ///
    /// # Errors
    /// [`PushError`], with the guard in it. Nothing changed.
    ///
    /// ```
    /// use interp_guard::{Registry, pending::{PendingQueue, PushError, QueueOptions}};
    ///
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::with(&registry, QueueOptions::new().capacity(1))?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 1).unwrap();
    /// let refused = queue.push(registry.lookup(id)?, |_, _| (), 2).unwrap_err();
    /// assert!(matches!(refused, PushError::Full(guard) if guard.id() == id));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push(&self, guard: Guard<'r, T>, call: Call<T>, data: usize) -> Result<(), PushError<'r, T>> {
        let raw = guard.into_raw();
        if !std::ptr::eq(raw.table(), self.inner.registry.table()) {
            // SAFETY: it was a Guard of this type above.
            return Err(PushError::OtherRegistry(unsafe { Guard::from_raw(raw) }));
        }
        let pushed = self.inner.queue.ring.push(raw, call as *const (), data);
        // SAFETY: as above.
        pushed.map_err(|raw| PushError::Full(unsafe { Guard::from_raw(raw) }))
    }

    /// Runs the calls that wait, those that are pushed meanwhile not included, and resets the descriptor. Panics are
    /// contained.
    ///
    /// Context: normal; takes as long as the calls do.
    ///
    /// # Complexity
    /// O(capacity), besides the calls.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(registry.lookup(id)?, |_, _| panic!("contained"), 0).unwrap();
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// let ran = queue.run_pending();
    /// assert_eq!((ran.calls, ran.panics), (2, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_pending(&self) -> Ran {
        self.inner.run_pending()
    }

    /// Gives up the guards of the calls that wait, without running them. So does the drop of the last clone; but in a
    /// forked child, the clone of a worker that has gone is never dropped.
    ///
    /// Context: normal. O(capacity).
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// queue.discard();
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// assert_eq!(queue.ran().calls, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(&self) {
        self.inner.discard();
    }

    /// Is the calling thread inside one of this queue's calls?
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// use std::sync::LazyLock;
    ///
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// static QUEUE: LazyLock<PendingQueue<'static, String>> =
    ///     LazyLock::new(|| PendingQueue::new(&INTERPRETERS).expect("a queue"));
    ///
    /// let id = INTERPRETERS.register("main".into())?;
    /// assert!(!QUEUE.is_running_here());
    /// QUEUE.push(INTERPRETERS.lookup(id)?, |_, _| assert!(QUEUE.is_running_here()), 0).unwrap();
    /// assert_eq!(QUEUE.run_pending().panics, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_running_here(&self) -> bool {
        running::this_thread_runs_a_call_from(self.inner.address())
    }

    /// The registry that this queue is bound to.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(queue.registry().lookup(id)?, |_, _| (), 0).unwrap();
    /// assert_eq!(registry.outstanding(id), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn registry(&self) -> &'r Registry<T> {
        self.inner.registry
    }

    /// How many calls wait.
    ///
    /// Context: any. O(capacity).
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// assert_eq!(queue.len(), 1);
    /// queue.run_pending();
    /// assert_eq!(queue.len(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.inner.queue.waiting(None)
    }

    /// Does no call wait?
    ///
    /// Context: any. O(capacity).
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// assert!(queue.is_empty());
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// assert!(!queue.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many calls can wait.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry: Registry<String> = Registry::new();
    /// assert_eq!(PendingQueue::new(&registry)?.capacity(), 1024);
    /// # Ok::<(), interp_guard::pending::QueueError>(())
    /// ```
    pub fn capacity(&self) -> usize {
        self.inner.queue.capacity()
    }

    /// What was run so far, by whomever.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// for data in 0..2 {
    ///     queue.push(registry.lookup(id)?, |_, _| (), data).unwrap();
    ///     queue.run_pending();
    /// }
    /// assert_eq!(queue.ran().calls, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ran(&self) -> Ran {
        // Relaxed: statistics.
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        Ran { calls: load(&self.inner.queue.calls), panics: load(&self.inner.queue.panics) }
    }
}

/// For a loop of this library's own.
impl<'r, T: Send + Sync + 'static> PendingQueue<'r, T> {
    /// Makes the descriptor readable.
    pub(crate) fn wake(&self) {
        self.inner.queue.wake();
    }

    /// Whoever ran its calls will not come again, though that thread may live: what is pushed from here on is for any
    /// drain to run.
    pub(crate) fn abandon(&self) {
        self.inner.queue.keeper.abandon();
    }

    /// While what comes back exists, the queue counts as served.
    pub(crate) fn serve(&self) -> impl Sized + use<'r, T> {
        Serving::new(self.inner.clone())
    }
}

impl<T: Send + Sync + 'static> Clone for PendingQueue<'_, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Send + Sync + 'static> AsFd for PendingQueue<'_, T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.queue.event()
    }
}

/// For what asks for a number: `tokio`'s `AsyncFd`, `mio`'s `SourceFd`, `poll`. It stays the same, in a forked child
/// too.
impl<T: Send + Sync + 'static> AsRawFd for PendingQueue<'_, T> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for PendingQueue<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingQueue")
            .field("name", &self.inner.queue.name)
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("ran", &self.ran())
            .finish_non_exhaustive()
    }
}
