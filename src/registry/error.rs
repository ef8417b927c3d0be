//! Why a registration or a close was refused.

use super::setup::SetupError;
use std::error::Error;
use std::fmt;

/// A registration that was refused. Nothing changed, and the interpreter is in here (from
/// [`register_with`](crate::Registry::register_with), only if it has been made).
pub enum RegisterError<T> {
    /// As many interpreters are registered, or being made, as the registry has capacity for.
    RegistryFull(T),
    /// An interpreter with this ID is registered, or is being made
    /// ([`Registry::register_with`](crate::Registry::register_with)).
    DuplicateId(T),
    /// An interpreter had this ID and is gone, or was to have it and was not registered. IDs are never reused.
    RetiredId(T),
    /// `finalize_all` is running.
    ShuttingDown(T),
    /// The registry could not set itself up.
    Unavailable(T, SetupError),
}

impl<T> RegisterError<T> {
    /// The interpreter that was not registered.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::with_capacity(1);
    /// registry.register("first").unwrap();
    /// let refused = registry.register("second").unwrap_err();
    /// assert_eq!(refused.into_inner(), "second");
    /// ```
    pub fn into_inner(self) -> T {
        match self {
            Self::RegistryFull(interpreter)
            | Self::DuplicateId(interpreter)
            | Self::RetiredId(interpreter)
            | Self::ShuttingDown(interpreter)
            | Self::Unavailable(interpreter, _) => interpreter,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::RegistryFull(_) => "RegistryFull",
            Self::DuplicateId(_) => "DuplicateId",
            Self::RetiredId(_) => "RetiredId",
            Self::ShuttingDown(_) => "ShuttingDown",
            Self::Unavailable(..) => "Unavailable",
        }
    }
}

impl<T> fmt::Debug for RegisterError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(_, why) => f.debug_tuple(self.name()).field(why).finish_non_exhaustive(),
            _ => f.debug_tuple(self.name()).finish_non_exhaustive(),
        }
    }
}

impl<T> fmt::Display for RegisterError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegistryFull(_) => f.write_str("the registry is full; finalize an interpreter first"),
            Self::DuplicateId(_) => f.write_str("an interpreter with this ID is already registered"),
            Self::RetiredId(_) => f.write_str("this ID is retired; IDs are never reused"),
            Self::ShuttingDown(_) => {
                f.write_str("the registry is shutting down: finalize_all has not returned yet")
            }
            Self::Unavailable(_, why) => write!(f, "the registry is not available: {why}"),
        }
    }
}

impl<T> Error for RegisterError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable(_, why) => Some(why),
            _ => None,
        }
    }
}

/// Why an interpreter could not be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseError {
    /// No interpreter has this ID: it was never registered, or it has been finalized.
    NotFound,
    /// Somebody else holds the [`Closing`](crate::Closing) of this interpreter, or an error with one in it.
    AlreadyClosing,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no interpreter has this ID: it was never registered, or it has been finalized",
            Self::AlreadyClosing => {
                "somebody else is closing this interpreter; whoever has its Closing, or an error that contains it, drains it or drops it"
            }
        })
    }
}

impl Error for CloseError {}
