//! Why a VM was not made, or did not run something.

use super::job::Job;
use crate::pending::QueueError;
use crate::registry::RegisterError;
use crate::signal_safe::LookupError;
use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;

/// Why a VM was not given something to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The interpreter is not there, or closing.
    Lookup(LookupError),
    /// As many jobs and calls wait as its queue has room for.
    Full,
    /// Its loop has ended. Or this process was forked: there are no jobs in a child.
    Ended,
    /// The calling thread is not the VM's.
    Elsewhere,
    /// The calling thread is the VM's, and inside a function that has the VM.
    Lent,
}

impl From<LookupError> for Refused {
    fn from(refused: LookupError) -> Self {
        Self::Lookup(refused)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lookup(refused) => return refused.fmt(f),
            Self::Full => "the queue of this interpreter is full",
            Self::Ended => "the loop of this interpreter has ended, or is in another process",
            Self::Elsewhere => "this interpreter is bound to another thread",
            Self::Lent => "this thread is inside a function that has this interpreter already",
        })
    }
}

impl Error for Refused {}

/// Why there is no answer.
#[non_exhaustive]
pub enum CallError {
    /// The job was not taken.
    Refused(Refused),
    /// It was taken, and dropped before it ran: the loop has ended.
    Discarded,
    /// It panicked, with this.
    Panicked(Box<dyn Any + Send>),
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => f.debug_tuple("Refused").field(refused).finish(),
            Self::Discarded => f.write_str("Discarded"),
            Self::Panicked(_) => f.write_str("Panicked(..)"),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::Discarded => f.write_str("the loop of this interpreter ended before the job ran"),
            Self::Panicked(_) => f.write_str("the job panicked"),
        }
    }
}

impl Error for CallError {}

/// A job that was not taken.
#[non_exhaustive]
pub struct PostError<V> {
    /// The job, which has not run.
    pub job: Job<V>,
    /// Why.
    pub why: Refused,
}

impl<V> PostError<V> {
    pub(super) fn new(job: Job<V>, why: Refused) -> Self {
        Self { job, why }
    }
}

impl<V> fmt::Debug for PostError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostError").field("why", &self.why).finish_non_exhaustive()
    }
}

impl<V> fmt::Display for PostError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<V> Error for PostError<V> {}

/// Why no VM was made, or none registered.
#[non_exhaustive]
pub enum StartError {
    /// There is no queue for it.
    Queue(QueueError),
    /// The registry refused it.
    Register(RegisterError<()>),
    /// The system gave no thread, or the options ask for what none can have.
    Thread(io::Error),
    /// The function that makes it panicked, with this.
    Panicked(Box<dyn Any + Send>),
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(why) => f.debug_tuple("Queue").field(why).finish(),
            Self::Register(why) => f.debug_tuple("Register").field(why).finish(),
            Self::Thread(why) => f.debug_tuple("Thread").field(why).finish(),
            Self::Panicked(_) => f.write_str("Panicked(..)"),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(why) => why.fmt(f),
            Self::Register(why) => why.fmt(f),
            Self::Thread(why) => write!(f, "no thread for the interpreter: {why}"),
            Self::Panicked(_) => f.write_str("the function that makes the interpreter panicked"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Queue(why) => Some(why),
            Self::Register(why) => Some(why),
            Self::Thread(why) => Some(why),
            Self::Panicked(_) => None,
        }
    }
}
