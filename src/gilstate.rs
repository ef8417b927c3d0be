// May import: registry, thread_state.
//! The legacy contract: the main interpreter, without a guard, without an answer.
//!
//! What `PyGILState_Ensure` and its like promise: from any thread, attached or not, know nothing and get in. It cannot
//! fail, so at shutdown it does not return: the thread is parked for good. New code uses
//! [`thread_state::ensure_main`], which guards the interpreter and can say no.
//!
//! ```
//! use interp_guard::{Registry, gilstate};
//! use refruntime::Interpreter;
//!
//! static INTERPRETERS: Registry<Interpreter> = Registry::new();
//!
//! let main = Interpreter::locking().register(&INTERPRETERS)?;
//! let state = gilstate::ensure(&INTERPRETERS);
//! assert_eq!(INTERPRETERS.outstanding(main), Some(0)); // a daemon
//! gilstate::release(state);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::Registry;
use crate::thread_state::{self, Attached, EnsureError, ReleaseError, Runtime, Token};

/// The calling thread is attached to the main interpreter, as a daemon. To be given to [`release`]; dropped, it is
/// released too.
#[must_use = "dropped at once, the thread is detached again"]
#[derive(Debug)]
pub struct State<'r, T: Runtime>(Attached<'r, T>);

/// Attaches the calling thread to the main interpreter, as a daemon: it may finalize under it.
///
/// Parks the thread for good ([`thread_state::park_for_good`]) where the main interpreter is finalizing or gone.
///
/// Context: normal; waits as the runtime does to attach; may never return.
///
/// # Panics
/// If there never was a main interpreter to wait for or to have lost (nothing was ever registered), or where an ensure answers
/// [`EnsureError::Create`]: the runtime cannot make a thread state, or what is attached cannot be left, as another registry's daemon
/// cannot.
///
/// ```
/// # use interp_guard::{Registry, gilstate, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// let main = Interpreter::locking().register(&registry)?;
/// let state = gilstate::ensure(&registry);
/// assert_eq!(thread_state::current_id(), Some(main));
/// # gilstate::release(state);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn ensure<T: Runtime>(registry: &Registry<T>) -> State<'_, T> {
    match try_ensure(registry) {
        Ok(state) => state,
        Err(EnsureError::Create(refused)) => panic!("{refused}"),
        Err(_) => panic!("no interpreter was ever registered"),
    }
}

/// [`ensure`], but what that panics for is an answer: for callers that may not unwind. Where the main interpreter is finalizing
/// or gone, it parks the thread for good as that does.
///
/// Context: normal; waits as the runtime does to attach; may never return.
///
/// # Errors
/// [`EnsureError::NotFound`]: nothing was ever registered. [`EnsureError::Create`].
///
/// ```
/// # use interp_guard::{Registry, gilstate, thread_state::EnsureError};
/// # use refruntime::Interpreter;
/// let registry = Registry::new();
/// assert_eq!(gilstate::try_ensure(&registry).map(drop), Err(EnsureError::NotFound));
/// Interpreter::locking().register(&registry)?;
/// gilstate::release(gilstate::try_ensure(&registry)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn try_ensure<T: Runtime>(registry: &Registry<T>) -> Result<State<'_, T>, EnsureError> {
    let attached = match registry.main() {
        Some(main) => thread_state::ensure_daemon(registry, main),
        None if !registry.has_registered() => return Err(EnsureError::NotFound),
        None => thread_state::park_for_good(),
    };
    match attached {
        Ok(attached) => Ok(State(attached)),
        Err(EnsureError::NotFound | EnsureError::Finalizing) => thread_state::park_for_good(),
        Err(refused) => Err(refused),
    }
}

/// Restores what was attached before. Parks the thread for good where that has been finalized.
///
/// Context: normal; may never return.
///
/// # Panics
/// Out of order, as [`Attached`]'s drop.
///
/// ```
/// # use interp_guard::{Registry, gilstate, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let main = Interpreter::locking().register(&registry)?;
/// let outer = gilstate::ensure(&registry);
/// let inner = gilstate::ensure(&registry);
/// gilstate::release(inner);
/// assert_eq!(thread_state::current_id(), Some(main));
/// gilstate::release(outer);
/// assert_eq!(thread_state::current_id(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn release<T: Runtime>(state: State<'_, T>) {
    match state.0.release() {
        Ok(()) => {}
        Err(ReleaseError::Gone) => thread_state::park_for_good(),
        Err(error) => panic!("{error}"),
    }
}

impl<T: Runtime> State<'_, T> {
    /// This level as a number, for callers that cannot use RAII. It is not released until [`Token::release`], which answers
    /// [`ReleaseError::Gone`] where [`release`] would park the thread.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, gilstate};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # Interpreter::locking().register(&registry)?;
    /// let token = gilstate::ensure(&registry).into_token();
    /// // SAFETY: the registry is still there.
    /// unsafe { token.release() }?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_token(self) -> Token {
        self.0.into_token()
    }

    /// Detaches, runs `f`, attaches again. Parks the thread for good where the main interpreter has been finalized
    /// meanwhile.
    ///
    /// Context: normal; may never return.
    ///
    /// ```
    /// # use interp_guard::{Registry, gilstate, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let main = Interpreter::locking().register(&registry)?;
    /// let state = gilstate::ensure(&registry);
    /// state.allow_threads(|| assert_eq!(thread_state::current_id(), None));
    /// assert_eq!(thread_state::current_id(), Some(main));
    /// # gilstate::release(state);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_threads<R>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.0.allow_threads_or_park(f)
    }
}
