//! Why a VM was not lent.

use crate::thread_state::EnsureError;
use std::error::Error;
use std::fmt;

/// Why a VM was not lent. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithError {
    /// The thread could not be attached.
    Ensure(EnsureError),
    /// It is lent already: the calling thread is inside a [`with`](crate::thread_state::Attached::with) of it.
    Lent,
    /// The calling thread is not attached to it: a nested ensure of another interpreter is, or an allow-threads section
    /// is in between.
    Detached,
    /// It has ended under a daemon, who has no guard.
    Ended,
    /// This process was forked while a thread had it lent which is not here. It may be half-changed.
    Torn,
}

impl From<EnsureError> for WithError {
    fn from(refused: EnsureError) -> Self {
        Self::Ensure(refused)
    }
}

impl fmt::Display for WithError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ensure(refused) => return refused.fmt(f),
            Self::Lent => "this thread is inside a `with` of this interpreter, and has it already",
            Self::Detached => "this thread is not attached to this interpreter",
            Self::Ended => "the interpreter has ended, and this thread had no guard",
            Self::Torn => "the process was forked while another thread was changing this interpreter",
        })
    }
}

impl Error for WithError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Ensure(refused) => Some(refused),
            _ => None,
        }
    }
}
