//! Levels as numbers: for callers that cannot use RAII.

use super::attached::{innermost, set_daemon};
use super::levels::{self, Hold, Level, TableRef};
use super::{ReleaseError, Runtime};
use crate::{LookupError, Registry};
use std::num::NonZeroU64;

/// An ensure level of this thread, as a number that C can keep: never 0.
///
/// A number that names no level of the calling thread (released already, another thread's, made up) is answered with
/// [`ReleaseError::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Token(NonZeroU64);

impl Token {
    pub(super) fn new(serial: u64) -> Self {
        Self(NonZeroU64::new(serial).expect("serial numbers start at 1"))
    }

    /// The token of a number from [`to_bits`](Self::to_bits); `None` for 0.
    ///
    /// Context: any.
    ///
    /// ```
    /// assert!(interp_guard::thread_state::Token::from_bits(0).is_none());
    /// ```
    pub fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    /// The token as a number.
    ///
    /// Context: any.
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The innermost level of the calling thread, if it is one of this registry.
    ///
    /// Context: normal.
    pub fn innermost<T: Runtime>(registry: &Registry<T>) -> Option<Self> {
        innermost_of(registry).map(|level| Self::new(level.serial))
    }

    /// Releases the level: what dropping an [`Attached`](super::Attached) does.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`ReleaseError`]. Where nothing changed, the level stays as it is.
    ///
    /// # Safety
    /// The registry of the ensure has not been dropped, if the token names a level of this thread.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let token = thread_state::ensure_id(&registry, id)?.into_token();
    /// // SAFETY: the registry is still there.
    /// unsafe { token.release() }?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn release(self) -> Result<(), ReleaseError> {
        self.release_own()
    }

    /// [`release`](Self::release), where a borrow of the registry shows that it lives.
    pub(super) fn release_own(self) -> Result<(), ReleaseError> {
        let level = innermost(self.to_bits())?;
        // SAFETY: (1) entered by an `Attached<T>` that put its own T's release there; (2) the caller's borrow or promise.
        unsafe { (level.release)(level.serial) }
    }
}

/// The calling thread's innermost level, if it is one of this registry.
fn innermost_of<T: Runtime>(registry: &Registry<T>) -> Option<Level> {
    levels::top().filter(|top| top.table == TableRef::new(registry.table()))
}

/// Is the calling thread's innermost level a daemon? `None` if it is not one of this registry.
///
/// Context: normal.
pub fn is_daemon<T: Runtime>(registry: &Registry<T>) -> Option<bool> {
    innermost_of(registry).map(|level| matches!(level.hold, Hold::Daemon))
}

/// [`Attached::set_daemon`](super::Attached::set_daemon) on the calling thread's innermost level. `None` if that is not
/// one of this registry.
///
/// Context: normal.
#[track_caller]
pub fn set_innermost_daemon<T: Runtime>(
    registry: &Registry<T>,
    daemon: bool,
) -> Option<Result<(), LookupError>> {
    let level = innermost_of(registry)?;
    Some(set_daemon(registry.table(), &level, daemon))
}
