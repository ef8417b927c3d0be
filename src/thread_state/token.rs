//! Levels as numbers: for callers that cannot use RAII.

use super::levels::{self, BUSY, Hold, LOST, LevelRef, TableRef};
use super::transition::{attach_again, detach_for_now, set_daemon};
use super::{ReleaseError, Runtime};
use crate::signal_safe::this_thread::this_thread;
use crate::{LookupError, Registry, Site};
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
    /// Of the ensure with this depth, which `level` stands for.
    pub(super) fn of(level: LevelRef, depth: u32) -> Self {
        Self(NonZeroU64::new(levels::name(level, depth)).expect("serial numbers start at 1"))
    }

    /// Of the latest ensure.
    fn of_latest(level: LevelRef) -> Self {
        Self::of(level, level.latest().depth)
    }

    /// Its level, if that is the innermost.
    fn innermost_level(self) -> Result<LevelRef, ReleaseError> {
        let number = self.to_bits();
        match levels::top(this_thread()) {
            Some(top) if top.is_latest_named(number) && !top.is(BUSY) => Ok(top),
            _ if levels::named(number).is_some() => Err(ReleaseError::OutOfOrder),
            _ => Err(ReleaseError::Unknown),
        }
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
        innermost_of(registry).map(Self::of_latest)
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
        let level = self.innermost_level()?;
        // SAFETY: entered for its own T's release; the caller's promise.
        unsafe { (level.kind.release)(level) }
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
        let level = self.innermost_level().ok().filter(|level| level.is_of(TypeId::of::<T>()))?;
        if level.is(LOST) {
            return Some(Err(LookupError::NotFound));
        }
        if T::attached().is_some() {
            return None;
        }
        // SAFETY: the caller's promise.
        let table = unsafe { level.table() };
        // SAFETY: the level is of this runtime, as asked above.
        Some(attach_again::<T>(table, level.id, unsafe { level.state.get().get() }))
    }
}

/// The calling thread's innermost level, if it is one of this registry.
#[inline(always)]
pub(super) fn innermost_of<T: Runtime>(registry: &Registry<T>) -> Option<LevelRef> {
    levels::top(this_thread()).filter(|top| top.table == TableRef::new(registry.table()) && !top.is(BUSY))
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
    innermost_of(registry).map(|level| matches!(level.hold(), Hold::Daemon))
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
    Some(set_daemon(registry.table(), level, daemon, Site::caller()))
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
    let level = levels::top(this_thread()).filter(|top| top.is_of(TypeId::of::<T>()) && !top.is(BUSY))?;
    // SAFETY: the level is of this runtime, as asked above.
    if unsafe { level.state.get().get::<T::ThreadState>() } != state || T::in_use(state) {
        return None;
    }
    let token = Token::of_latest(level);
    detach_for_now::<T>(state);
    Some(token)
}
