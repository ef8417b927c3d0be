//! The handle of an ensure: what is done inside its level, and its release.

use super::error::{Finalized, ReleaseError};
use super::levels::{self, At, BUSY, Hold, LOST, LevelRef, NO_STATE};
use super::transition::{attach_again, detach_for_now, has_lost, release, set_daemon};
use super::{Runtime, Token, park_for_good};
use crate::signal_safe::table::Table;
use crate::signal_safe::this_thread::this_thread;
use crate::{Guard, InterpreterId, LookupError, Site};
use std::fmt;
use std::marker::PhantomData;
use std::mem;

/// One ensure level of this thread, until this is dropped.
///
/// # What holding one proves
///
/// That this thread is inside the level, and, unless it is a daemon, that the interpreter is guarded. It is *attached* to it
/// where no nested ensure of another interpreter and no allow-threads section is in between; [`is_attached`](Self::is_attached)
/// tells. Neither can be ruled out by types: any function that this thread calls may ensure another interpreter. So a runtime
/// that lends out what only an attached thread may touch asks what is attached, and says that it is lent
/// ([`Runtime::in_use`]); then nothing detaches it meanwhile. A section's function cannot have this handle: it is neither
/// `Send` nor `Sync`.
///
/// Dropping it is the release: it restores exactly what was attached before the ensure, destroys the thread state only if
/// the ensure created it, and gives the level's guard up last. Levels nest to any depth, also across interpreters, and
/// are released last in, first out.
///
/// Context: normal.
///
/// # Panics
/// The drop panics where it is a programming error: out of order, or inside the level's own
/// [`allow_threads`](Self::allow_threads). The level then stays as it is, guard included, so that the interpreter cannot
/// finalize under whoever still uses it. While the thread is unwinding, the drop does not panic. [`release`](Self::release)
/// answers with an error instead.
///
/// ```
/// use interp_guard::{Registry, thread_state};
/// use refruntime::Interpreter;
///
/// static INTERPRETERS: Registry<Interpreter> = Registry::new();
///
/// let id = Interpreter::locking().register(&INTERPRETERS)?;
/// let guard = INTERPRETERS.lookup(id)?;
/// let attached = thread_state::ensure(&guard)?;
/// assert_eq!(thread_state::current_id(), Some(id));
/// drop(attached);
/// assert_eq!(thread_state::current_id(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropped at once, the thread is detached again"]
pub struct Attached<'r, T: Runtime> {
    table: &'r Table,
    id: InterpreterId,
    at: At,
    /// Invariant in `T`: a level is of the runtime that entered it, and a subtype may be another one.
    interpreter: PhantomData<fn(T) -> T>,
    /// Levels belong to their thread.
    not_send: PhantomData<*const ()>,
}

impl<'r, T: Runtime> Attached<'r, T> {
    /// # Safety
    /// `at` was entered for `id` of `table`, a `Registry<T>`'s, and is no other handle's.
    #[inline(always)]
    pub(super) unsafe fn new(table: &'r Table, id: InterpreterId, at: At) -> Self {
        Self { table, id, at, interpreter: PhantomData, not_send: PhantomData }
    }

    /// The interpreter that this level is attached to.
    ///
    /// Context: any.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// assert_eq!(thread_state::ensure_id(&registry, id)?.id(), id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> InterpreterId {
        self.id
    }

    /// Is this thread attached to the interpreter now? Not inside an allow-threads section, nor under a nested ensure of another
    /// interpreter, nor once a daemon has lost its interpreter.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let [a, b] = [Interpreter::locking(), Interpreter::locking()].map(|i| i.register(&registry).unwrap());
    /// let outer = thread_state::ensure_id(&registry, a)?;
    /// assert!(outer.is_attached());
    /// let inner = thread_state::ensure_id(&registry, b)?;
    /// assert!(!outer.is_attached() && inner.is_attached());
    /// # drop(inner);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_attached(&self) -> bool {
        let level = self.level();
        // SAFETY: this level's state is a T's.
        !level.is(NO_STATE | LOST) && T::attached() == Some(unsafe { level.state.get().get() })
    }

    /// The runtime's thread state that this level uses.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Runtime}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// assert_eq!(Interpreter::attached(), Some(attached.thread_state()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn thread_state(&self) -> T::ThreadState {
        // SAFETY: this level's state is a T's.
        unsafe { self.level().state.get().get() }
    }

    /// A guard of the interpreter. `None` in a daemon that no other level of this thread guards either: there is none to clone.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// assert_eq!(attached.guard().expect("not a daemon").id(), id);
    /// attached.set_daemon(true)?;
    /// assert!(attached.guard().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn guard(&self) -> Option<Guard<'r, T>> {
        let parts = levels::guard_of(self.table, self.id)?;
        // SAFETY: a level holds it, and cannot be released meanwhile; the payloads of the table are Ts.
        Some(unsafe { Guard::from_raw(levels::clone_guard(self.table, parts, Site::caller())) })
    }

    /// Does this level hold no guard? Then the interpreter may finalize under it, unless another level of this thread
    /// guards it.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// assert!(!attached.is_daemon());
    /// attached.set_daemon(true)?;
    /// assert!(attached.is_daemon());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_daemon(&self) -> bool {
        matches!(self.level().hold(), Hold::Daemon)
    }

    /// Gives up this level's guard, or takes one. Other levels keep what they have, and the release of this one restores
    /// what was.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// `set_daemon(false)` on an interpreter that is closing or gone, and that no other level of this thread guards.
    /// The level is a daemon as before.
    ///
    /// # Panics
    /// If this is not the thread's innermost level, or the runtime is just attaching or detaching on this thread.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// let registry = Registry::new();
    /// let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// attached.set_daemon(true)?;
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// attached.set_daemon(false)?;
    /// assert_eq!(registry.outstanding(id), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn set_daemon(&self, daemon: bool) -> Result<(), LookupError> {
        set_daemon(self.table, self.innermost(), daemon, Site::caller())
    }

    /// Detaches, runs `f`, attaches again, also where `f` unwinds. While a guard is held, this cannot fail.
    ///
    /// `f` is `Send` so that it takes nothing along that only an attached thread may touch: neither a reference to what the
    /// runtime lends out there, nor this handle. [`allow_threads_unchecked`](Self::allow_threads_unchecked) has no such bound.
    ///
    /// If nothing is attached already, inside another section of this level, `f` just runs.
    ///
    /// Context: normal; waits as the runtime does to attach.
    ///
    /// # Errors
    /// A daemon whose interpreter has been finalized, meanwhile or before: nothing is attached from here on, and `f`'s result
    /// is in the error.
    ///
    /// # Panics
    /// If this is not the thread's innermost level, before `f` or after it, if the runtime is just attaching or detaching on this
    /// thread, if `f` leaves something attached, or if the thread state is in use ([`Runtime::in_use`]).
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// let answer = attached.allow_threads(|| {
    ///     assert_eq!(thread_state::current_id(), None);
    ///     42
    /// })?;
    /// assert_eq!(thread_state::current_id(), Some(id));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// What is borrowed from an interpreter while it is attached stays outside:
    ///
    /// ```compile_fail,E0277
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # use std::cell::Cell;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// let borrowed: &Cell<u64> = &Cell::new(1);
    /// attached.allow_threads(|| borrowed.set(2))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_threads<R>(&self, f: impl FnOnce() -> R + Send) -> Result<R, Finalized<R>> {
        // SAFETY: what `f` takes along may be used by any thread, and so by one that is not attached.
        unsafe { self.allow_threads_unchecked(f) }
    }

    /// [`allow_threads`](Self::allow_threads) for what is not `Send`: a receiver, an `Rc`, a pointer.
    ///
    /// Context, errors, panics: as there.
    ///
    /// # Safety
    /// `f` touches nothing that only a thread may touch which is attached to this interpreter.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # use std::rc::Rc;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// let mine = Rc::new(42);
    /// // SAFETY: `mine` is nothing of the interpreter's.
    /// let answer = unsafe { attached.allow_threads_unchecked(|| *mine) }?;
    /// assert_eq!(answer, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn allow_threads_unchecked<R>(&self, f: impl FnOnce() -> R) -> Result<R, Finalized<R>> {
        let attached = T::attached();
        let level = self.innermost();
        // SAFETY: this level's state is a T's.
        let state = unsafe { level.state.get().get::<T::ThreadState>() };
        if has_lost::<T>(self.table, level, attached, state) {
            return Err(Finalized { result: f() });
        }
        if attached != Some(state) {
            return Ok(f());
        }
        assert!(!T::in_use(state), "what is attached is in use: it cannot be detached meanwhile");
        detach_for_now::<T>(state);
        let section = Detached { attached: self, state };
        let result = f();
        mem::forget(section);
        assert!(self.is_innermost(), "an ensure inside allow_threads has not been released");
        assert!(T::attached().is_none(), "what was attached inside allow_threads has not been detached");
        match self.attach_again(state) {
            Ok(()) => Ok(result),
            Err(_) => Err(Finalized { result }),
        }
    }

    /// [`allow_threads`](Self::allow_threads), but a daemon whose interpreter has been finalized does not come back: it is
    /// parked for good ([`park_for_good`](super::park_for_good)).
    ///
    /// Context: normal; waits as the runtime does to attach.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// attached.allow_threads_or_park(|| assert_eq!(thread_state::current_id(), None));
    /// assert_eq!(thread_state::current_id(), Some(id));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_threads_or_park<R>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.allow_threads(f).unwrap_or_else(|_| park_for_good())
    }

    /// What dropping does, with an answer.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`ReleaseError`]. Where nothing changed, the level stays as it is, though this handle is gone:
    /// [`Token::innermost`] names it once it is the innermost.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// attached.release()?;
    /// assert_eq!(thread_state::current_id(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Result<(), ReleaseError> {
        let (table, at) = (self.table, self.at);
        mem::forget(self);
        // SAFETY: entered for that.
        unsafe { release::<T>(table, at) }
    }

    /// This level as a number, for callers that cannot use RAII. It is not released until [`Token::release`].
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let token = thread_state::ensure_id(&registry, id)?.into_token();
    /// assert_eq!(thread_state::current_id(), Some(id));
    /// // SAFETY: the registry is still there.
    /// unsafe { token.release() }?;
    /// assert_eq!(thread_state::current_id(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_token(self) -> Token {
        let token = Token::of(self.level(), self.at.depth);
        mem::forget(self);
        token
    }

    fn level(&self) -> LevelRef {
        levels::find(self.at).expect("an ensure is released by its handle or by a number, not by both")
    }

    fn is_innermost(&self) -> bool {
        levels::top(this_thread()).is_some_and(|top| top.latest() == self.at)
    }

    #[track_caller]
    fn innermost(&self) -> LevelRef {
        let level = levels::top(this_thread()).filter(|top| top.latest() == self.at && !top.is(BUSY));
        level.expect(
            "a later ensure of this thread has not been released, or the runtime is attaching or detaching",
        )
    }

    fn attach_again(&self, state: T::ThreadState) -> Result<(), LookupError> {
        attach_again::<T>(self.table, self.id, state)
    }
}

impl<T: Runtime> Drop for Attached<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: entered for that.
        if let Err(error) = unsafe { release::<T>(self.table, self.at) } {
            error.panic();
        }
    }
}

impl ReleaseError {
    /// What a drop says of it.
    #[cold]
    fn panic(self) {
        match self {
            Self::Gone => {}
            _ if std::thread::panicking() => {}
            error => panic!("{error}"),
        }
    }
}

impl<T: Runtime> fmt::Debug for Attached<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("id", &self.id).finish_non_exhaustive()
    }
}

/// An allow-threads section; dropped where it unwinds.
struct Detached<'a, 'r, T: Runtime> {
    attached: &'a Attached<'r, T>,
    state: T::ThreadState,
}

impl<T: Runtime> Drop for Detached<'_, '_, T> {
    fn drop(&mut self) {
        if self.attached.is_innermost() && T::attached().is_none() {
            // A daemon that has lost its interpreter goes on unwinding, detached.
            let _ = self.attached.attach_again(self.state);
        }
    }
}
