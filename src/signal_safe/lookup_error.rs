//! Why there is no guard.

use super::word::{InterpreterId, Word};
use core::fmt;

/// Why there is no guard.
///
/// ```
/// use interp_guard::{LookupError, Registry};
///
/// let registry = Registry::new();
/// let id = registry.register("an interpreter").unwrap();
/// let closing = registry.close(id)?;
/// assert_eq!(registry.lookup(id).unwrap_err(), LookupError::Finalizing);
/// closing.drain(None).unwrap();
/// assert_eq!(registry.lookup(id).unwrap_err(), LookupError::NotFound);
/// # Ok::<(), interp_guard::CloseError>(())
/// ```
// As wide as the ID that a guard has in the same place of the `Result`: where the two ways meet, no field is pieced
// together from bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum LookupError {
    /// No interpreter has this ID: it was never registered, or it has been finalized.
    NotFound,
    /// The interpreter is closing; it gives out no more guards.
    Finalizing,
}

impl LookupError {
    /// What a word other than that of a live `id` says of it.
    #[inline(always)]
    pub(super) fn because_of(word: Word, id: InterpreterId) -> Self {
        if word == Word::closing(id) { Self::Finalizing } else { Self::NotFound }
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no interpreter has this ID: it was never registered, or it has been finalized",
            Self::Finalizing => "the interpreter is finalizing and gives out no more guards",
        })
    }
}

impl core::error::Error for LookupError {}
