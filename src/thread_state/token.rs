//! Levels as numbers: for callers that cannot use RAII.

use super::attached::{attach_again, detach_for_now, innermost, set_daemon};
use super::levels::{self, Hold, Level, TableRef};
use super::{ReleaseError, Runtime};
use crate::{LookupError, Registry};
use std::any::TypeId;
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
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Token}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let token = thread_state::ensure_id(&registry, id)?.into_token();
    /// assert_eq!(Token::from_bits(token.to_bits()), Some(token));
    /// # unsafe { token.release() }?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The innermost level of the calling thread, if it is one of this registry.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Token}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// assert_eq!(Token::innermost(&registry), None);
    /// let token = thread_state::ensure_id(&registry, id)?.into_token();
    /// assert_eq!(Token::innermost(&registry), Some(token));
    /// # unsafe { token.release() }?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    /// If the token names a level of this thread, the registry of the ensure is where it was: neither dropped nor moved since.
    /// (A `static`, or one in a box or an `Arc`, does not move.)
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

    /// Ends the allow-threads section that [`allow_threads_begin`] began: attaches again. While the level holds a guard, it
    /// cannot be refused.
    ///
    /// Context: normal; waits as the runtime does to attach.
    ///
    /// `None`, with nothing changed, if the token is not the thread's innermost level, or if something is attached.
    ///
    /// # Errors
    /// A daemon whose interpreter has been finalized, or is at the point of it: nothing is attached from here on, and the
    /// level is to be released still.
    ///
    /// # Safety
    /// As for [`release`](Self::release).
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// // SAFETY: nothing of the interpreter is touched inside.
    /// let section = unsafe { thread_state::allow_threads_begin::<Interpreter>() }.expect("attached");
    /// // SAFETY: the registry is still there.
    /// unsafe { section.allow_threads_end::<Interpreter>() }.expect("the innermost level")?;
    /// assert_eq!(thread_state::current_id(), Some(id));
    /// // SAFETY: as above.
    /// assert!(unsafe { section.allow_threads_end::<Interpreter>() }.is_none()); // something is attached
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn allow_threads_end<T: Runtime>(self) -> Option<Result<(), LookupError>> {
        let level = innermost(self.to_bits()).ok().filter(|level| level.runtime == TypeId::of::<T>())?;
        if level.lost {
            return Some(Err(LookupError::NotFound));
        }
        if T::attached().is_some() {
            return None;
        }
        // SAFETY: the caller's promise.
        let table = unsafe { level.table() };
        // SAFETY: the level is of this runtime, as asked above.
        Some(attach_again::<T>(table, level.id, unsafe { level.state.get() }))
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
    levels::top().filter(|top| top.table == TableRef::new(registry.table()) && !top.busy)
}

/// Is the calling thread's innermost level a daemon? `None` if it is not one of this registry.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// assert_eq!(thread_state::is_daemon(&registry), None);
/// let attached = thread_state::ensure_id(&registry, id)?;
/// assert_eq!(thread_state::is_daemon(&registry), Some(false));
/// attached.set_daemon(true)?;
/// assert_eq!(thread_state::is_daemon(&registry), Some(true));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn is_daemon<T: Runtime>(registry: &Registry<T>) -> Option<bool> {
    innermost_of(registry).map(|level| matches!(level.hold, Hold::Daemon))
}

/// [`Attached::set_daemon`](super::Attached::set_daemon) on the calling thread's innermost level. `None` if that is not
/// one of this registry.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// assert!(thread_state::set_innermost_daemon(&registry, true).is_none());
/// let attached = thread_state::ensure_id(&registry, id)?;
/// thread_state::set_innermost_daemon(&registry, true).expect("a level of this registry")?;
/// assert_eq!(registry.outstanding(id), Some(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn set_innermost_daemon<T: Runtime>(
    registry: &Registry<T>,
    daemon: bool,
) -> Option<Result<(), LookupError>> {
    let level = innermost_of(registry)?;
    Some(set_daemon(registry.table(), &level, daemon))
}

/// [`Attached::allow_threads`](super::Attached::allow_threads) in two halves: detaches what the calling thread's innermost
/// level has attached, until [`Token::allow_threads_end`]. Ensures in between are released before that.
///
/// `None` if nothing was detached: because nothing is attached, or not what the innermost level has attached, or because
/// that is in use ([`Runtime::in_use`]).
///
/// Context: normal.
///
/// # Safety
/// Until the section ends, this thread touches nothing that only a thread may touch which is attached to the interpreter.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let attached = thread_state::ensure_id(&registry, id)?;
/// // SAFETY: nothing of the interpreter is touched inside.
/// let section = unsafe { thread_state::allow_threads_begin::<Interpreter>() }.expect("attached");
/// assert_eq!(thread_state::current_id(), None);
/// assert!(unsafe { thread_state::allow_threads_begin::<Interpreter>() }.is_none());
/// // SAFETY: the registry is still there.
/// unsafe { section.allow_threads_end::<Interpreter>() }.expect("the innermost level")?;
/// assert_eq!(thread_state::current_id(), Some(id));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe fn allow_threads_begin<T: Runtime>() -> Option<Token> {
    let state = T::attached()?;
    let level = levels::top().filter(|top| top.runtime == TypeId::of::<T>() && !top.busy)?;
    // SAFETY: the level is of this runtime, as asked above.
    if unsafe { level.state.get::<T::ThreadState>() } != state || T::in_use(state) {
        return None;
    }
    detach_for_now::<T>(state);
    Some(Token::new(level.serial))
}
