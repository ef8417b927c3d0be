//! Why a call was not left, or a queue not made.

use super::options::MAX_CAPACITY;
use crate::registry::SetupError;
use crate::signal_safe::guard::Guard;
use std::fmt;
use std::io;

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
            Self::OtherRegistry(_) => "the guard belongs to another registry than the pending queue",
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
