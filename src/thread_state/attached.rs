//! One ensure: its handle, what it does on the way in, and its release.
//!
//! On the way in, in this order: find or create a thread state; guard the interpreter that is left behind; detach that;
//! attach. On the way out: detach or destroy; restore; and only then give the guards up. The other order would let an
//! interpreter finalize between the drop of its guard and the moment at which this thread attaches to it again.

use super::blockers;
use super::error::{Finalized, ReleaseError};
use super::levels::{self, Before, Erased, Hold, Keep, Level, TableRef};
use super::owner::{self, Owner};
use super::{CreateError, Runtime, Token};
use crate::registry::known;
use crate::signal_safe::guard::{GuardParts, RawGuard};
use crate::signal_safe::table::Table;
use crate::signal_safe::this_thread::{self, Noted};
use crate::{Guard, InterpreterId, LookupError, Site};
use std::any::TypeId;
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
    serial: u64,
    /// Invariant in `T`: a level is of the runtime that entered it, and a subtype may be another one.
    interpreter: PhantomData<fn(T) -> T>,
    /// Levels belong to their thread.
    not_send: PhantomData<*const ()>,
}

const CHANGED: CreateError =
    CreateError::new("what was attached on this thread changed while the runtime made a thread state");

impl<'r, T: Runtime> Attached<'r, T> {
    /// Enters a level. On an error nothing changed, and the hold that comes with it is the caller's to give up: `hold`, or what was counted
    /// in its place in a child that was forked meanwhile.
    ///
    /// # Safety
    /// 1. `table` is a `Registry<T>`'s, and `interpreter` the payload of `id` in it, which stays until this has returned.
    /// 2. `hold` is right: a guard of `id` that is handed over, or there is another level's, or nothing.
    pub(super) unsafe fn enter(
        table: &'r Table,
        id: InterpreterId,
        interpreter: &T,
        hold: Hold,
        site: Site,
    ) -> Result<Self, (CreateError, Hold)> {
        let mut level = Level {
            serial: 0,
            table: TableRef::new(table),
            id,
            hold,
            runtime: TypeId::of::<T>(),
            state: Erased::new(()),
            has_state: true,
            busy: false,
            created: false,
            lost: false,
            before: Before::Same,
            noted_before: None,
            release: release::<T>,
        };
        let noted = Some(Noted { id, registry: level.table.serial });
        let attached = match T::attached() {
            // The common case of a nested ensure, and the same as what `Owner::of` would come to.
            // SAFETY: the levels of this table are of its registry's T.
            Some(state) if unsafe { levels::top_is(&level, state) } => {
                level.state = Erased::new(state);
                level.noted_before = this_thread::set_attached(noted);
                return Ok(Self::of(table, id, levels::push(level)));
            }
            Some(state) => Some((
                state,
                Owner::of(table, state, Some((id, interpreter))).map_err(|refused| (refused, hold))?,
            )),
            None => None,
        };
        let left = match attached {
            Some((state, owner)) if owner.is(id) => {
                level.state = Erased::new(state);
                level.noted_before = this_thread::set_attached(noted);
                return Ok(Self::of(table, id, levels::push(level)));
            }
            Some((left, owner)) => {
                owner.may_be_left::<T>(left).map_err(|refused| (refused, hold))?;
                Some((left, owner))
            }
            None => None,
        };
        // From here on the runtime's code runs, and may come back here. What it finds is this level, which holds what it holds:
        // the one around it is not the innermost any more, and cannot give up a guard that this one counts on.
        (level.has_state, level.busy) = (false, true);
        let serial = levels::push(level);
        // SAFETY: the levels of this table are of its registry's T.
        let known = levels::state_of(table, id).map(|state| unsafe { state.get::<T::ThreadState>() });
        let (state, created) = match known.or_else(|| interpreter.remembered()) {
            Some(state) => (state, false),
            None => match interpreter.create() {
                Ok(state) => (state, true),
                Err(refused) => return Err((refused, taken_back(serial, hold))),
            },
        };
        if T::attached() != left.map(|(left, _)| left) {
            // What they run has left something behind: an ensure that it forgot, or a detached thread. Nothing can be said of
            // what would be restored.
            return Err((CHANGED, taken_back(serial, hold)));
        }
        let before = left.map_or(Before::Nothing, |(left, owner)| Before::State {
            state: Erased::new(left),
            id: owner.id,
            registry: owner.registry(table),
            keep: owner.keep(table, site),
        });
        let noted_before = this_thread::set_attached(None);
        levels::change(serial, |level| (level.before, level.noted_before) = (before, noted_before));
        if let Some((left, _)) = left {
            // SAFETY: it is attached, says `attached`.
            unsafe { T::detach(left) };
        }
        // SAFETY: (1) nothing is attached now; the state is this thread's: created above, remembered by the runtime, or used by
        // an outer level; (2) the caller's promise (1).
        unsafe { T::attach(state) };
        this_thread::set_attached(noted);
        levels::change(serial, |level| {
            (level.state, level.created) = (Erased::new(state), created);
            (level.has_state, level.busy) = (true, false);
        });
        Ok(Self::of(table, id, serial))
    }

    fn of(table: &'r Table, id: InterpreterId, serial: u64) -> Self {
        Self { table, id, serial, interpreter: PhantomData, not_send: PhantomData }
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
        !level.lost && T::attached() == Some(unsafe { level.state.get() })
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
        unsafe { self.level().state.get() }
    }

    /// A guard of the interpreter; `None` in a daemon, which has none to clone.
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
        matches!(self.level().hold, Hold::Daemon)
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
        let level = self.innermost();
        set_daemon(self.table, &level, daemon)
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
        let level = self.innermost();
        // SAFETY: this level's state is a T's.
        let state = unsafe { level.state.get::<T::ThreadState>() };
        let attached = T::attached();
        if has_lost::<T>(self.table, &level, attached, state) {
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
        self.allow_threads(f).unwrap_or_else(|_| super::park_for_good())
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
        self.into_token().release_own()
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
        let token = Token::new(self.serial);
        mem::forget(self);
        token
    }

    fn level(&self) -> Level {
        levels::find(self.serial).expect("only this handle releases the level")
    }

    fn is_innermost(&self) -> bool {
        levels::top().is_some_and(|top| top.serial == self.serial)
    }

    #[track_caller]
    fn innermost(&self) -> Level {
        let level = levels::top().filter(|top| top.serial == self.serial && !top.busy);
        level.expect(
            "a later ensure of this thread has not been released, or the runtime is attaching or detaching",
        )
    }

    fn attach_again(&self, state: T::ThreadState) -> Result<(), LookupError> {
        attach_again::<T>(self.table, self.id, state)
    }
}

impl<T: Runtime> Drop for Attached<'_, T> {
    fn drop(&mut self) {
        let attached = T::attached();
        // SAFETY: this level's states are Ts'.
        let reused = |level: &Level| unsafe { level.reuses(attached) };
        if let Some((noted, hold)) = levels::pop_if(self.serial, reused) {
            // Nothing to restore: what `release` comes to as well, without copying the level.
            this_thread::set_attached(noted);
            // SAFETY: popped: put together once.
            return unsafe { give_up_hold(self.table, hold) };
        }
        // SAFETY: (1) this level is a T's; (2) `table` is borrowed.
        match unsafe { release::<T>(self.serial) } {
            Ok(()) | Err(ReleaseError::Gone) => {}
            Err(_) if std::thread::panicking() => {}
            Err(error) => panic!("{error}"),
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

/// The beginning of an allow-threads section. `state` is attached.
pub(super) fn detach_for_now<T: Runtime>(state: T::ThreadState) {
    this_thread::set_attached(None);
    // SAFETY: it is attached, say the callers, who have just asked.
    levels::busy_while(|| unsafe { T::detach(state) });
}

/// The end of an allow-threads section.
pub(super) fn attach_again<T: Runtime>(
    table: &Table,
    id: InterpreterId,
    state: T::ThreadState,
) -> Result<(), LookupError> {
    attach_kept::<T>(table, id, state).inspect_err(|_| levels::lose(table.serial(), id))?;
    this_thread::set_attached(Some(Noted { id, registry: table.serial() }));
    Ok(())
}

/// Attaches where a level of this thread guards the interpreter, or else through the gate: for as long as another's
/// guard is out.
fn attach_kept<T: Runtime>(
    table: &Table,
    id: InterpreterId,
    state: T::ThreadState,
) -> Result<(), LookupError> {
    let entry = match levels::guard_of(table, id) {
        Some(_) => None,
        None => Some(table.enter(id)?.attaches(blockers::keeps_others_from_attaching::<T>)),
    };
    // SAFETY: (1) the callers have left nothing attached, and `state` is this thread's; (2) the guard, which its level does not
    // give up meanwhile, or the entry.
    levels::busy_while(|| unsafe { T::attach(state) });
    drop(entry);
    Ok(())
}

/// Releases the innermost level of this thread, if that is `serial`.
///
/// # Safety
/// 1. The level is of runtime `T`.
/// 2. Its table lives.
unsafe fn release<T: Runtime>(serial: u64) -> Result<(), ReleaseError> {
    let level = innermost(serial)?;
    // SAFETY: by (1) the level's states are Ts'.
    let state = unsafe { level.state.get::<T::ThreadState>() };
    // SAFETY: (2).
    let table = unsafe { level.table() };
    let attached = T::attached();
    let lost = has_lost::<T>(table, &level, attached, state);
    if attached != (!lost).then_some(state) {
        return Err(ReleaseError::Detached);
    }
    if !lost && !matches!(level.before, Before::Same) && T::in_use(state) {
        return Err(ReleaseError::InUse);
    }
    levels::change(serial, |level| level.busy = true);
    let restored = match level.before {
        Before::Same => match lost {
            true => Err(ReleaseError::Gone),
            false => Ok(()),
        },
        Before::Nothing | Before::State { .. } => {
            if !lost {
                this_thread::set_attached(None);
                if level.created {
                    // SAFETY: attached, as asked above; this level created it and is on its way out, and the levels
                    // further in that used it are gone.
                    unsafe { T::destroy(state) };
                    levels::change(serial, |level| level.has_state = false);
                } else {
                    // SAFETY: attached, as asked above.
                    unsafe { T::detach(state) };
                }
            }
            match level.before {
                Before::State { state, id, registry, keep } => {
                    // SAFETY: by (1) a T's state.
                    restore::<T>(table, unsafe { state.get() }, id, registry, keep)
                }
                _ => Ok(()),
            }
        }
    };
    this_thread::set_attached(level.noted_before.filter(|_| restored.is_ok()));
    if let Some(level) = levels::take(serial) {
        // SAFETY: taken out above: put together once.
        unsafe { give_up(table, &level) };
    }
    restored
}

/// Has a daemon level lost its interpreter? It may not have been told yet: where that ended under it, on this thread or on
/// another, the runtime says that nothing is attached, or that something else is.
fn has_lost<T: Runtime>(
    table: &Table,
    level: &Level,
    attached: Option<T::ThreadState>,
    state: T::ThreadState,
) -> bool {
    if level.lost {
        return true;
    }
    let is_there = !matches!(level.hold, Hold::Daemon)
        || levels::guard_of(table, level.id).is_some()
        || table.find(level.id).is_some();
    if is_there || attached == Some(state) && T::interpreter_of(state) == level.id {
        return false;
    }
    levels::lose(table.serial(), level.id);
    true
}

/// Attaches to an interpreter of the table with number `registry`, unless it is gone.
fn attach_through_gate<T: Runtime>(
    table: &Table,
    id: InterpreterId,
    registry: u64,
    state: T::ThreadState,
) -> Result<(), LookupError> {
    match registry == table.serial() {
        true => attach_kept::<T>(table, id, state),
        // SAFETY: (1) nothing is attached; the state was on this thread before; (2) `enter` keeps it.
        false => known::enter(registry, id, blockers::keeps_others_from_attaching::<T>, || unsafe {
            T::attach(state);
        }),
    }
}

/// Attaches what a level has left behind, or notes that it is gone.
fn restore<T: Runtime>(
    table: &Table,
    state: T::ThreadState,
    id: InterpreterId,
    registry: u64,
    keep: Keep,
) -> Result<(), ReleaseError> {
    let restored = match keep {
        Keep::Own(_) | Keep::Covered => {
            // SAFETY: (1) nothing is attached; the state was on this thread before; (2) guarded by this level or one
            // further out.
            unsafe { T::attach(state) };
            Ok(())
        }
        Keep::Gate => attach_through_gate::<T>(table, id, registry, state),
        Keep::Runtime => match owner::now_in::<T>(table, id, state) {
            Ok(None) => {
                // SAFETY: (1) as above; (2) no registry has it: the runtime's own affair.
                unsafe { T::attach(state) };
                Ok(())
            }
            Ok(Some(registry)) => attach_through_gate::<T>(table, id, registry, state),
            Err(gone) => Err(gone),
        },
        Keep::Gone => Err(LookupError::NotFound),
    };
    restored.map_err(|_| {
        levels::lose(registry, id);
        ReleaseError::Gone
    })
}

/// The innermost level, if that is `serial`.
pub(super) fn innermost(serial: u64) -> Result<Level, ReleaseError> {
    match levels::top() {
        Some(top) if top.serial == serial && !top.busy => Ok(top),
        _ if levels::find(serial).is_some() => Err(ReleaseError::OutOfOrder),
        _ => Err(ReleaseError::Unknown),
    }
}

/// Gives up the guards of a level: of what it had left behind, then its own.
///
/// # Safety
/// `table` is the level's. The guards are used no more.
unsafe fn give_up(table: &Table, level: &Level) {
    if let Before::State { keep: Keep::Own(parts), .. } = level.before {
        // SAFETY: the caller's promise.
        drop(unsafe { RawGuard::from_parts(table, parts) });
    }
    // SAFETY: the caller's promise.
    unsafe { give_up_hold(table, level.hold) };
}

/// # Safety
/// `hold` is one of `table`, and used no more.
pub(super) unsafe fn give_up_hold(table: &Table, hold: Hold) {
    if let Hold::Own(parts) = hold {
        // SAFETY: the caller's promise.
        drop(unsafe { RawGuard::from_parts(table, parts) });
    }
}

/// See [`Attached::set_daemon`]. `level` is the innermost, and of `table`.
#[track_caller]
pub(super) fn set_daemon(table: &Table, level: &Level, daemon: bool) -> Result<(), LookupError> {
    let site = Site::caller();
    let hold = match (daemon, level.hold) {
        (true, _) => Hold::Daemon,
        (false, Hold::Daemon) if level.lost => return Err(LookupError::NotFound),
        (false, Hold::Daemon) => {
            cover(table, level.id, || table.lookup(level.id, site).map(RawGuard::into_parts))?
        }
        (false, hold @ (Hold::Own(_) | Hold::Covered)) => hold,
    };
    levels::change(level.serial, |level| level.hold = hold);
    if daemon {
        // SAFETY: taken out of the level above.
        unsafe { give_up_hold(table, level.hold) };
    }
    Ok(())
}

/// Takes away a level that was not entered after all, and gives back its hold, which was `hold`.
#[cold]
fn taken_back(serial: u64, hold: Hold) -> Hold {
    levels::take(serial).map_or(hold, |level| level.hold)
}

/// Under the guard of another level of this thread, or else the one that `take` takes.
#[inline]
pub(super) fn cover<E>(
    table: &Table,
    id: InterpreterId,
    take: impl FnOnce() -> Result<GuardParts, E>,
) -> Result<Hold, E> {
    match levels::guard_of(table, id) {
        Some(_) => Ok(Hold::Covered),
        None => take().map(Hold::Own),
    }
}
