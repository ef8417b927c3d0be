//! Why a drain, or `finalize`, handed nothing back.

use super::closing::Closing;
use super::report::Report;
use super::undrained::Undrained;
use crate::events::{self, Failure};
use crate::registry::CloseError;
use crate::threads;
use std::error::Error;
use std::fmt;

const WOULD_DEADLOCK: &str = "the drain would wait for its own thread";

/// Why a drain handed nothing back. The interpreter is closed and otherwise untouched.
#[non_exhaustive]
pub enum DrainError<'r, T: Send + Sync + 'static> {
    /// The deadline passed with guards out.
    Timeout(Undrained<'r, T>),
    /// The interrupt check of [`DrainOptions`](crate::DrainOptions) ended the waiting with guards out.
    Interrupted(Undrained<'r, T>),
    /// The calling thread itself is what the drain would wait for: it is inside an ensure or a pending call of the interpreter; or
    /// it is attached to it, and a daemon is attaching. Release, return or detach, and try again.
    WouldDeadlock(Undrained<'r, T>),
    /// More guards were given up than taken: somewhere a guard was released twice, and nobody can say whether one is
    /// still out.
    Unbalanced(Undrained<'r, T>),
    /// The kernel refuses the fence that makes lookups of other threads visible to this one. A want of memory
    /// ([`fence_error`](Closing::fence_error) says `ENOMEM`) may pass: it is waited out until the deadline, but for a second at
    /// most. A later drain tries again.
    FenceFailed(Undrained<'r, T>),
    /// Somebody else has taken this drain up meanwhile: another `finalize` of the thread that got the error in which it was; or, in
    /// a forked child, where what belonged to threads that are gone can be taken up.
    Superseded(Undrained<'r, T>),
}

impl<'r, T: Send + Sync + 'static> DrainError<'r, T> {
    /// As `finalize` and `finalize_all` give it to the calling thread, which may try again while it has the error.
    pub(super) fn for_finalize(self) -> FinalizeError<'r, T> {
        self.undrained().closing.note_error_of(Some(threads::number()));
        FinalizeError::Drain(self)
    }

    /// Tells operators.
    pub(super) fn tell(&self) {
        if events::ON {
            let (name, _, left) = self.parts();
            left.closing.tell_released_twice();
            let failure = match self {
                Self::Timeout(_) => Failure::TimedOut,
                Self::Unbalanced(_) => Failure::OverRelease,
                _ => Failure::Other(name),
            };
            let called = left.holders().name();
            events::drain_failed(left.closing.id, called, left.outstanding(), left.waited(), failure);
        }
    }

    fn parts(&self) -> (&'static str, &'static str, &Undrained<'r, T>) {
        match self {
            Self::Timeout(left) => ("Timeout", "the drain timed out", left),
            Self::Interrupted(left) => ("Interrupted", "the drain was interrupted", left),
            Self::WouldDeadlock(left) => ("WouldDeadlock", WOULD_DEADLOCK, left),
            Self::Unbalanced(left) => ("Unbalanced", "more guards were released than taken", left),
            Self::FenceFailed(left) => {
                ("FenceFailed", "the kernel refused the memory barrier that a close needs", left)
            }
            Self::Superseded(left) => ("Superseded", "another caller has taken over the drain", left),
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
    /// println!("{}", late.undrained());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn undrained(&self) -> &Undrained<'r, T> {
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
    /// assert_eq!(late.into_undrained().outstanding(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_undrained(self) -> Undrained<'r, T> {
        match self {
            Self::Timeout(left)
            | Self::Interrupted(left)
            | Self::WouldDeadlock(left)
            | Self::Unbalanced(left)
            | Self::FenceFailed(left)
            | Self::Superseded(left) => left,
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
        self.into_undrained().into_closing()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for DrainError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _, left) = self.parts();
        f.debug_tuple(name).field(left).finish()
    }
}

impl<T: Send + Sync + 'static> fmt::Display for DrainError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, what, left) = self.parts();
        match self {
            // Without a fence, or in somebody else's hands, nobody here can say what is out.
            Self::FenceFailed(_) | Self::Superseded(_) => {
                write!(f, "{}: {what}", left.interpreter())
            }
            _ => write!(f, "{what}: {left}"),
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
    /// The calling thread itself is what the drain would wait for: it is inside an ensure or a pending call of the interpreter; or
    /// it is attached to it, and a daemon is attaching. The interpreter is as it was. Release, return or detach, and try again.
    WouldDeadlock(Report),
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
            Self::WouldDeadlock(report) => f.debug_tuple("WouldDeadlock").field(report).finish(),
            Self::Drain(error) => f.debug_tuple("Drain").field(error).finish(),
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Display for FinalizeError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => CloseError::NotFound.fmt(f),
            Self::AlreadyClosing => CloseError::AlreadyClosing.fmt(f),
            Self::WouldDeadlock(report) => {
                write!(f, "{WOULD_DEADLOCK}, and was not begun (release or detach first): {report}")
            }
            Self::Drain(error) => error.fmt(f),
        }
    }
}

impl<T: Send + Sync + 'static> Error for FinalizeError<'_, T> {}
