//! Why a drain, or `finalize`, handed nothing back.

use super::closing::Closing;
use super::report::DrainTimeout;
use crate::registry::CloseError;
use crate::threads;
use std::error::Error;
use std::fmt;

/// Why a drain handed nothing back. The interpreter is closed and otherwise untouched.
#[non_exhaustive]
pub enum DrainError<'r, T: Send + Sync + 'static> {
    /// The deadline passed with guards out.
    Timeout(DrainTimeout<'r, T>),
    /// The interrupt check of [`DrainOptions`](crate::DrainOptions) ended the waiting with guards out.
    Interrupted(DrainTimeout<'r, T>),
    /// The calling thread itself is what the drain would wait for: it is inside an ensure or a pending call of the interpreter; or
    /// it is attached to it, and a daemon is attaching. Release, return or detach, and try again.
    WouldDeadlock(DrainTimeout<'r, T>),
    /// More guards were given up than taken: somewhere a guard was released twice, and nobody can say whether one is
    /// still out.
    Unbalanced(DrainTimeout<'r, T>),
    /// The kernel refuses the fence that makes lookups of other threads visible to this one. A want of memory
    /// ([`fence_error`](Closing::fence_error) says `ENOMEM`) may pass: it is waited out until the deadline, but for a second at
    /// most. A later drain tries again.
    FenceFailed(DrainTimeout<'r, T>),
    /// Somebody else has taken this drain up meanwhile: another `finalize` of the thread that got the error in which it was; or, in
    /// a forked child, where what belonged to threads that are gone can be taken up.
    Superseded(DrainTimeout<'r, T>),
}

impl<'r, T: Send + Sync + 'static> DrainError<'r, T> {
    /// As `finalize` and `finalize_all` give it to the calling thread, which may try again while it has the error.
    pub(super) fn for_finalize(self) -> FinalizeError<'r, T> {
        self.timeout().closing.note_error_of(Some(threads::number()));
        FinalizeError::Drain(self)
    }

    fn parts(&self) -> (&'static str, &'static str, &DrainTimeout<'r, T>) {
        match self {
            Self::Timeout(timeout) => ("Timeout", "the drain timed out", timeout),
            Self::Interrupted(timeout) => ("Interrupted", "the drain was interrupted", timeout),
            Self::WouldDeadlock(timeout) => {
                ("WouldDeadlock", "the drain would wait for its own thread", timeout)
            }
            Self::Unbalanced(timeout) => ("Unbalanced", "more guards were released than taken", timeout),
            Self::FenceFailed(timeout) => ("FenceFailed", "the kernel refuses the memory barrier", timeout),
            Self::Superseded(timeout) => ("Superseded", "somebody else has taken the drain up", timeout),
        }
    }

    /// The report, and what the error has in it.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// println!("{}", late.timeout());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(&self) -> &DrainTimeout<'r, T> {
        self.parts().2
    }

    /// What the error has in it, by value.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// assert_eq!(late.into_timeout().outstanding(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_timeout(self) -> DrainTimeout<'r, T> {
        match self {
            Self::Timeout(timeout)
            | Self::Interrupted(timeout)
            | Self::WouldDeadlock(timeout)
            | Self::Unbalanced(timeout)
            | Self::FenceFailed(timeout)
            | Self::Superseded(timeout) => timeout,
        }
    }

    /// The `Closing`, to wait again.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// drop(guard);
    /// assert!(late.into_closing().drain(None).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_closing(self) -> Closing<'r, T> {
        self.into_timeout().into_closing()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for DrainError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _, timeout) = self.parts();
        f.debug_tuple(name).field(timeout).finish()
    }
}

impl<T: Send + Sync + 'static> fmt::Display for DrainError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, what, timeout) = self.parts();
        match self {
            // Without a fence, or in somebody else's hands, nobody here can say what is out.
            Self::FenceFailed(_) | Self::Superseded(_) => {
                write!(f, "interpreter {}: {what}", timeout.closing.id)
            }
            _ => write!(f, "{what}: {timeout}"),
        }
    }
}

impl<T: Send + Sync + 'static> Error for DrainError<'_, T> {}

/// Why an interpreter was not finalized.
pub enum FinalizeError<'r, T: Send + Sync + 'static> {
    /// No interpreter has this ID: it was never registered, or it has been finalized.
    NotFound,
    /// Somebody else holds the [`Closing`] of this interpreter, or an error with one in it.
    AlreadyClosing,
    /// It was closed, and the drain did not finish.
    Drain(DrainError<'r, T>),
}

impl<T: Send + Sync + 'static> From<CloseError> for FinalizeError<'_, T> {
    fn from(refused: CloseError) -> Self {
        match refused {
            CloseError::NotFound => Self::NotFound,
            CloseError::AlreadyClosing => Self::AlreadyClosing,
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for FinalizeError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("NotFound"),
            Self::AlreadyClosing => f.write_str("AlreadyClosing"),
            Self::Drain(error) => f.debug_tuple("Drain").field(error).finish(),
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Display for FinalizeError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => CloseError::NotFound.fmt(f),
            Self::AlreadyClosing => CloseError::AlreadyClosing.fmt(f),
            Self::Drain(error) => error.fmt(f),
        }
    }
}

impl<T: Send + Sync + 'static> Error for FinalizeError<'_, T> {}
