//! Why an ensure, a hold, a release or a re-attach was refused.

use super::CreateError;
use crate::{Guard, LookupError};
use std::error::Error;
use std::fmt;

/// Why [`hold`](super::hold) took no guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldError {
    /// The calling thread is attached to no interpreter of this runtime.
    NotAttached,
    /// The interpreter that is attached is not in this registry.
    NotFound,
    /// The interpreter that is attached is closing.
    Finalizing,
}

impl From<LookupError> for HoldError {
    fn from(refused: LookupError) -> Self {
        match refused {
            LookupError::NotFound => Self::NotFound,
            LookupError::Finalizing => Self::Finalizing,
        }
    }
}

impl fmt::Display for HoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAttached => "no interpreter is attached on this thread",
            Self::NotFound => "the interpreter attached on this thread is not in this registry",
            Self::Finalizing => "the interpreter attached on this thread is finalizing",
        })
    }
}

impl Error for HoldError {}

/// Why nothing was attached. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnsureError {
    /// No interpreter has this ID: it was never registered, or it has been finalized.
    NotFound,
    /// The interpreter is closing; it gives out no more guards.
    Finalizing,
    /// The runtime could not make a thread state. Or the thread is attached as a daemon through another registry. Detach it, or
    /// give that level a guard, and try again.
    Create(CreateError),
}

impl From<LookupError> for EnsureError {
    fn from(refused: LookupError) -> Self {
        match refused {
            LookupError::NotFound => Self::NotFound,
            LookupError::Finalizing => Self::Finalizing,
        }
    }
}

impl fmt::Display for EnsureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => LookupError::NotFound.fmt(f),
            Self::Finalizing => LookupError::Finalizing.fmt(f),
            Self::Create(refused) => refused.fmt(f),
        }
    }
}

impl Error for EnsureError {}

/// Why [`ensure_owned`](super::ensure_owned) attached nothing, with the guard.
pub struct EnsureOwnedError<'r, T> {
    /// The guard that was handed in.
    pub guard: Guard<'r, T>,
    /// Why.
    pub error: EnsureError,
}

impl<T> fmt::Debug for EnsureOwnedError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EnsureOwnedError").field(&self.error).finish()
    }
}

impl<T> fmt::Display for EnsureOwnedError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> Error for EnsureOwnedError<'_, T> {}

/// What was wrong with a release. Unless it says otherwise, nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// A level that was entered later has not been released. Releases go last in, first out. Or the level is being entered or
    /// released at this moment, and this is code that the runtime runs meanwhile.
    OutOfOrder,
    /// No level of this thread: released already, or another thread's.
    Unknown,
    /// The thread state that the ensure attached is not attached: inside an allow-threads section, for instance. Or a
    /// daemon has lost its interpreter, and something else is attached.
    Detached,
    /// The thread state is in use: what only an attached thread may touch is borrowed on this thread
    /// ([`Runtime::in_use`](super::Runtime::in_use)).
    InUse,
    /// Released. But what was attached before could not be restored: no guard kept its interpreter, and it has been
    /// finalized. Nothing is attached. (To whom its owner, who has it back, is natively attached is out of this library's sight:
    /// a thread that will go on with such an interpreter detaches before it comes here.)
    Gone,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfOrder => "released out of order: a later ensure of this thread has not been released",
            Self::Unknown => "this thread is not inside that ensure: released already, or another thread's",
            Self::Detached => "released while detached: inside an allow-threads section, for instance",
            Self::InUse => "released while what is attached is in use: borrowed on this thread",
            Self::Gone => "released, but the interpreter that was attached before has been finalized",
        })
    }
}

impl Error for ReleaseError {}

/// A daemon could not re-attach: its interpreter has been finalized, or is at the point of it. Nothing is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Finalized<R> {
    /// What the function returned that ran detached.
    pub result: R,
}

impl<R> fmt::Debug for Finalized<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finalized").finish_non_exhaustive()
    }
}

impl<R> fmt::Display for Finalized<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the interpreter has been finalized, and this thread had no guard")
    }
}

impl<R> Error for Finalized<R> {}
