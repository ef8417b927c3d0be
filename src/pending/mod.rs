//! Pending calls: work that a signal handler leaves for a normal thread to run.
//!
//! A handler cannot run code of an interpreter. It can look the interpreter up and leave the guard, a function and a
//! word of data in a [`PendingQueue`]; a normal thread then calls the function with the guard. The guard keeps the
//! interpreter until the call has ended.
//!
//! Who runs the calls: a [`Worker`], or the program's own event loop, which polls the queue's descriptor and calls
//! [`run_pending`](PendingQueue::run_pending) when it is readable.
//!
//! A queue does not block its interpreters' finalizers. Closing an interpreter wakes whoever serves the queue; a drain
//! runs itself what only its own thread would run; and where nobody serves the queue, a drain's report names it. `finalize` from
//! inside a pending call *of that interpreter* could never end, and says so at once:
//! [`WouldDeadlock`](crate::DrainError::WouldDeadlock).
//!
//! # An event loop of one's own
//!
//! A queue is its loop's: the thread's that called `run_pending` last. The loop may end with the interpreter on the same thread.
//! A call that a signal leaves after the loop's last turn, or while the drain waits, is run by the drain, on that thread:
//!
//! ```
//! use interp_guard::{Registry, pending::PendingQueue};
//!
//! let registry = Registry::new();
//! let id = registry.register("main").unwrap();
//! let queue = PendingQueue::new(&registry)?;
//! queue.run_pending(); // from here on the queue is this thread's
//! let running = true;
//! while running {
//!     // poll(queue.as_fd(), and the loop's other descriptors), then
//!     queue.run_pending();
//!     # break;
//! }
//! queue.push(registry.lookup(id)?, |guard, _| println!("{} is told late", **guard), 0).unwrap(); // by a handler
//! registry.finalize(id, None).unwrap(); // runs it
//! assert_eq!(queue.ran().calls, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The rules, for a queue in which calls of the interpreter wait and that no worker and no `run_pending` in progress serves:
//!
//! | the thread that ran its calls last | a drain that may wait |
//! |---|---|
//! | is the one that drains, or has ended | runs the calls of this interpreter |
//! | is another one, and lives | leaves them to it, and looks again whether it does |
//! | there is none yet | leaves them to whoever will, until its deadline; without one, it runs them if its thread made the queue, or the one that did has ended |
//!
//! The kernel says which thread has ended. If it has given the thread's ID to another one since, or if it was the main thread,
//! `procfs` says so. Where that is not mounted, or no descriptor is left to ask it, such a thread seems to live.
//!
//! Whether somebody will come to serve a queue that nobody has served yet, no drain can know. A loop that calls `run_pending` only
//! when the descriptor is readable has not served it before the first call. So it calls `run_pending` once before its first turn:
//! from then on the queue is its own, whoever made it. Else a drain on its thread waits until the deadline, and reports the
//! queue as one that nobody serves; without a deadline, it waits for ever while another thread that made the queue lives.
//!
//! Nor does a drain know what other threads wait for. Without a deadline, two kinds of it never end:
//!
//! - Two loops, each draining an interpreter for which a call waits in the other's queue. Each leaves it to the other.
//! - A drain of an interpreter whose last guard is held by a call of another interpreter, as its data say, that waits for this
//!   thread. A drain runs calls of its own interpreter only. Run the queue first, or end the other interpreter first.
//!
//! A drain with a timeout of zero only looks: a loop that ends an interpreter by such drains goes on serving its queue.
//! Before each call a drain looks at its deadline and asks its interrupt check. Calls run in a drain as in `run_pending`, with no
//! lock held: a lock of the program's own that they take is not to be held around `finalize`.
//!
//! ```
//! use interp_guard::{Registry, pending::PendingQueue};
//!
//! static INTERPRETERS: Registry<String> = Registry::new();
//!
//! let id = INTERPRETERS.register("main".into())?;
//! let queue = PendingQueue::new(&INTERPRETERS)?;
//! // In a handler:
//! if let Ok(guard) = INTERPRETERS.lookup(id) {
//!     let _ = queue.push(guard, |guard, data| println!("{} got {data}", **guard), 10);
//! }
//! // In an event loop:
//! assert_eq!(queue.run_pending().calls, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attached;
mod keeper;
mod queue;
mod running;
mod worker;

pub use attached::attached;
pub(crate) use queue::Queue;
pub use queue::Waiting;
pub(crate) use running::{Left, Serve, run_left, run_own, this_thread_runs_a_call_of};
pub use worker::Worker;

use crate::registry::{Registry, SetupError};
use crate::signal_safe::guard::Guard;
use crate::signal_safe::pending::Entry;
use crate::signal_safe::word::InterpreterId;
use crate::unwind;
use queue::Serving;
use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The largest capacity of a queue: 2^20 calls.
const MAX_CAPACITY: usize = 1 << 20;

/// What a pending call is: a function of the interpreter's guard and the word of data that was pushed with it.
pub type Call<T> = fn(&Guard<'_, T>, usize);

type Runner<T> = Box<dyn Fn(PendingCall<'_, T>) + Send + Sync>;

/// How to make a queue.
///
/// ```
/// use interp_guard::{Registry, pending::{PendingQueue, QueueOptions}};
///
/// static INTERPRETERS: Registry<String> = Registry::new();
/// let attached = |call: interp_guard::pending::PendingCall<'_, String>| {
///     // attach this thread to call.guard(), then
///     call.run();
/// };
/// let options = QueueOptions::new().name("SIGUSR1").capacity(64).runner(attached);
/// let queue = PendingQueue::with(&INTERPRETERS, options)?;
/// assert_eq!(queue.capacity(), 64);
/// # Ok::<(), interp_guard::pending::QueueError>(())
/// ```
#[must_use]
pub struct QueueOptions<T: Send + Sync + 'static> {
    name: String,
    capacity: usize,
    runner: Runner<T>,
}

impl<T: Send + Sync + 'static> Default for QueueOptions<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + 'static> QueueOptions<T> {
    /// Room for 1,024 calls, which are run as they are.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, QueueOptions}};
    /// # let registry: Registry<String> = Registry::new();
    /// let queue = PendingQueue::with(&registry, QueueOptions::new())?;
    /// assert_eq!(queue.capacity(), 1024);
    /// # Ok::<(), interp_guard::pending::QueueError>(())
    /// ```
    pub fn new() -> Self {
        Self {
            name: "pending".into(),
            capacity: 1024,
            runner: Box::new(|call: PendingCall<'_, T>| call.run()),
        }
    }

    /// What a drain's report calls the queue.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, QueueOptions}};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::with(&registry, QueueOptions::new().name("SIGUSR1"))?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// assert_eq!(registry.waiting(id)[0].queue, "SIGUSR1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many calls can wait, 1 to 2^20.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, QueueError, QueueOptions}};
    /// # let registry: Registry<String> = Registry::new();
    /// assert_eq!(PendingQueue::with(&registry, QueueOptions::new().capacity(8))?.capacity(), 8);
    /// let refused = PendingQueue::with(&registry, QueueOptions::new().capacity(0)).unwrap_err();
    /// assert!(matches!(refused, QueueError::Capacity(0)));
    /// # Ok::<(), QueueError>(())
    /// ```
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// What is done around each call, wherever this queue is run: attach the thread to the interpreter, say. A call that
    /// the runner drops is not run, and its guard is given up.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingCall, PendingQueue, QueueOptions}};
    /// # let registry = Registry::new();
    /// # let id = registry.register(String::from("main")).unwrap();
    /// let options = QueueOptions::new().runner(|call: PendingCall<'_, String>| {
    ///     if !call.guard().is_closing() {
    ///         call.run();
    ///     }
    /// });
    /// let queue = PendingQueue::with(&registry, options)?;
    /// queue.push(registry.lookup(id)?, |_, _| panic!("the interpreter is closing"), 0).unwrap();
    /// let closing = registry.close(id)?;
    /// assert_eq!(queue.run_pending().panics, 0);
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn runner(mut self, runner: impl Fn(PendingCall<'_, T>) + Send + Sync + 'static) -> Self {
        self.runner = Box::new(runner);
        self
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for QueueOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = f.debug_struct("QueueOptions");
        options.field("name", &self.name).field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// A call that was taken from a queue and is to be run now.
pub struct PendingCall<'r, T> {
    guard: Guard<'r, T>,
    call: Call<T>,
    data: usize,
}

impl<'r, T> PendingCall<'r, T> {
    /// The guard that was pushed with it.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingCall, PendingQueue, QueueOptions}};
    /// # let registry = Registry::new();
    /// # let id = registry.register(String::from("main")).unwrap();
    /// let options = QueueOptions::new().runner(move |call: PendingCall<'_, String>| {
    ///     assert_eq!(call.guard().id(), id);
    ///     call.run();
    /// });
    /// let queue = PendingQueue::with(&registry, options)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// assert_eq!(queue.run_pending().panics, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn guard(&self) -> &Guard<'r, T> {
        &self.guard
    }

    /// The word that was pushed with it.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingCall, PendingQueue, QueueOptions}};
    /// # let registry = Registry::new();
    /// # let id = registry.register(String::from("main")).unwrap();
    /// let options = QueueOptions::new().runner(|call: PendingCall<'_, String>| {
    ///     assert_eq!(call.data(), 7);
    ///     call.run();
    /// });
    /// let queue = PendingQueue::with(&registry, options)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 7).unwrap();
    /// assert_eq!(queue.run_pending().panics, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn data(&self) -> usize {
        self.data
    }

    /// The guard, the function and the word: for a runner that calls functions of another language.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingCall, PendingQueue, QueueOptions}};
    /// # let registry = Registry::new();
    /// # let id = registry.register(String::from("main")).unwrap();
    /// let options = QueueOptions::new().runner(|call: PendingCall<'_, String>| {
    ///     let (guard, function, data) = call.into_parts();
    ///     function(&guard, data);
    /// });
    /// let queue = PendingQueue::with(&registry, options)?;
    /// queue.push(registry.lookup(id)?, |guard, data| assert_eq!((guard.as_str(), data), ("main", 7)), 7).unwrap();
    /// assert_eq!(queue.run_pending().panics, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_parts(self) -> (Guard<'r, T>, Call<T>, usize) {
        (self.guard, self.call, self.data)
    }

    /// Runs it, and gives its guard up.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingCall, PendingQueue, QueueOptions}};
    /// # let registry = Registry::new();
    /// # let id = registry.register(String::from("main")).unwrap();
    /// let options = QueueOptions::new().runner(|call: PendingCall<'_, String>| {
    ///     let began = std::time::Instant::now();
    ///     call.run();
    ///     println!("it took {:?}", began.elapsed());
    /// });
    /// let queue = PendingQueue::with(&registry, options)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// assert_eq!(queue.run_pending().calls, 1);
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run(self) {
        (self.call)(&self.guard, self.data);
    }
}

impl<T> fmt::Debug for PendingCall<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut call = f.debug_struct("PendingCall");
        call.field("id", &self.guard.id()).field("data", &self.data).finish_non_exhaustive()
    }
}

/// A fixed-capacity queue of calls, bound to a registry. Handlers push; normal threads run. Clones are the same queue.
///
/// Its descriptor ([`AsFd`]) is an eventfd, readable when calls wait, for the program's own event loop to poll;
/// [`run_pending`](Self::run_pending) resets it. Nobody else should read it. A second one is kept for a forked child.
///
/// In a forked child the same number is an eventfd of the child's own. If `RLIMIT_NOFILE` was lowered to that number or below,
/// or the system has no file left to give, the child cannot replace it. Such a child never touches its parent's: calls are
/// pushed and [`run_pending`](Self::run_pending) runs them, but the descriptor says nothing about them. `run_pending` and
/// [`start_worker`](PendingQueue::start_worker) try again to replace it.
///
/// When the last clone is dropped, calls that still wait are not run; their guards are given up.
pub struct PendingQueue<'r, T: Send + Sync + 'static> {
    inner: Arc<Inner<'r, T>>,
}

struct Inner<'r, T: Send + Sync + 'static> {
    registry: &'r Registry<T>,
    /// Shared with the registry's book.
    queue: Arc<Queue>,
    runner: Runner<T>,
}

/// What was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ran {
    /// Calls that were run, those that panicked included.
    pub calls: u64,
    /// Calls that panicked. The panic hook has reported them, and nothing else of the program was disturbed.
    pub panics: u64,
}

impl AddAssign for Ran {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.panics += other.panics;
    }
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
        let inner = Arc::new(Inner { registry, queue, runner });
        registry.attach_queue(&inner.queue, running::to_be_served(&inner)).map_err(QueueError::Registry)?;
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
        running::this_thread_runs_a_call_from(&self.inner)
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

impl<T: Send + Sync + 'static> Inner<'_, T> {
    fn run_pending(&self) -> Ran {
        let _serving = Serving::new(&*self.queue);
        self.queue.keeper.serves();
        // Both fail only where the calls can be run all the same, by whoever asks for it as this caller does.
        let _ = self.own_event();
        let _ = self.queue.reset_event(); // R0
        self.run(None, &mut || true)
    }

    /// See [`Queue::own_event`].
    fn own_event(&self) -> io::Result<()> {
        if self.queue.ring.has_eventfd() {
            return Ok(());
        }
        let _book = self.registry.lock();
        // SAFETY: the mutex is held, across a fork too.
        unsafe { self.queue.own_event() }
    }

    /// R1 to R5, and the calls, for one interpreter or for all; each only if it `may_go_on`.
    fn run(&self, of: Option<InterpreterId>, may_go_on: &mut dyn FnMut() -> bool) -> Ran {
        let horizon = self.queue.ring.horizon();
        let mut found: Vec<_> = self.queue.ring.ready(horizon, of).collect();
        found.sort_unstable(); // by ticket
        let mut ran = Ran::default();
        // Taken one at a time: what this thread has not come to is there for others, and for a drain inside a call.
        for found in found {
            if !may_go_on() {
                break;
            }
            if let Some(call) = self.queue.ring.take(found).and_then(|entry| self.claim(entry)) {
                ran += self.run_one(call);
            }
        }
        ran
    }

    fn discard(&self) {
        let ring = &self.queue.ring;
        for entry in ring.ready(u64::MAX, None).filter_map(|found| ring.take(found)) {
            drop(self.claim(entry));
        }
    }

    /// Makes an entry a call again. `None` for one whose guard was taken before a fork: it protects nothing any more.
    fn claim(&self, entry: Entry) -> Option<PendingCall<'_, T>> {
        // SAFETY: (1) `push` took the parts from a guard of this registry; (2) the entry was taken once.
        let guard = unsafe { self.registry.guard_from_parts(entry.guard) };
        // SAFETY: `push` made it of a `Call<T>`, of this T, and function pointers are as wide as data pointers.
        let call = unsafe { std::mem::transmute::<*const (), Call<T>>(entry.call) };
        let counted = entry.guard.generation == self.registry.table().generation();
        counted.then_some(PendingCall { guard, call, data: entry.data })
    }

    fn run_one(&self, call: PendingCall<'_, T>) -> Ran {
        // Unwind-safe: the call is consumed, and what it shares with others is its own affair, as with any thread that
        // panics. The panic hook has reported it.
        let panicked = running::in_call(self, call.guard.id(), || {
            catch_unwind(AssertUnwindSafe(|| (self.runner)(call))).map_err(unwind::discard).is_err()
        });
        // Relaxed: statistics.
        self.queue.calls.fetch_add(1, Ordering::Relaxed);
        self.queue.panics.fetch_add(panicked.into(), Ordering::Relaxed);
        Ran { calls: 1, panics: panicked.into() }
    }
}

impl<T: Send + Sync + 'static> Drop for Inner<'_, T> {
    fn drop(&mut self) {
        self.discard();
    }
}

impl<T: Send + Sync + 'static> AsRef<Queue> for Arc<Inner<'_, T>> {
    fn as_ref(&self) -> &Queue {
        &self.queue
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

/// Why a call was not left. The guard is in here.
pub enum PushError<'r, T> {
    /// As many calls wait as the queue has room for.
    Full(Guard<'r, T>),
    /// The guard is of another registry than the queue.
    OtherRegistry(Guard<'r, T>),
}

impl<'r, T> PushError<'r, T> {
    /// The guard that was to be left.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, QueueOptions}};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::with(&registry, QueueOptions::new().capacity(1))?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// let full = queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap_err();
    /// assert_eq!(full.into_guard().id(), id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_guard(self) -> Guard<'r, T> {
        match self {
            Self::Full(guard) | Self::OtherRegistry(guard) => guard,
        }
    }
}

impl<T> fmt::Debug for PushError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(guard) => f.debug_tuple("Full").field(guard).finish(),
            Self::OtherRegistry(guard) => f.debug_tuple("OtherRegistry").field(guard).finish(),
        }
    }
}

impl<T> fmt::Display for PushError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the pending queue is full",
            Self::OtherRegistry(_) => "the guard is of another registry than the pending queue",
        })
    }
}

impl<T> std::error::Error for PushError<'_, T> {}

/// Why there is no queue.
#[derive(Debug)]
#[non_exhaustive]
pub enum QueueError {
    /// The capacity asked for is 0 or above 2^20.
    Capacity(usize),
    /// The system gave no eventfd.
    EventFd(io::Error),
    /// The registry could not set itself up.
    Registry(SetupError),
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity(asked) => {
                write!(f, "a pending queue has room for 1 to {MAX_CAPACITY} calls, not {asked}")
            }
            Self::EventFd(why) => write!(f, "no eventfd for the pending queue: {why}"),
            Self::Registry(why) => write!(f, "the registry is not available: {why}"),
        }
    }
}

impl std::error::Error for QueueError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Capacity(_) => None,
            Self::EventFd(why) => Some(why),
            Self::Registry(why) => Some(why),
        }
    }
}
