//! A pending call.

use crate::signal_safe::guard::Guard;
use std::fmt;

/// What a pending call is: a function of the interpreter's guard and the word of data that was pushed with it.
pub type Call<T> = fn(&Guard<'_, T>, usize);

/// A call that was taken from a queue and is to be run now.
pub struct PendingCall<'r, T> {
    pub(super) guard: Guard<'r, T>,
    pub(super) call: Call<T>,
    pub(super) data: usize,
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
