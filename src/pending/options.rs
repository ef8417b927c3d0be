//! How to make a queue.

use super::call::PendingCall;
use std::fmt;

/// The largest capacity of a queue: 2^20 calls.
pub(super) const MAX_CAPACITY: usize = 1 << 20;

/// What is done around each call.
pub(super) type Runner<T> = Box<dyn Fn(PendingCall<'_, T>) + Send + Sync>;

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
    pub(super) name: String,
    pub(super) capacity: usize,
    pub(super) runner: Runner<T>,
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
    /// # use interp_guard::bindings::RegistryExt as _;
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
