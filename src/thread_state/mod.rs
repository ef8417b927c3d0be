// May import: registry, signal_safe.
//! Attaching threads to interpreters: what a runtime's core links in.
//!
//! A runtime implements [`Runtime`]. Then any thread gets at an interpreter with an *ensure*, whatever is attached on it
//! already, and back with the *release*, which is the drop of [`Attached`]:
//!
//! | attached on this thread | the ensure | the release |
//! |---|---|---|
//! | the same interpreter | uses that thread state | leaves it attached |
//! | nothing, but this thread has a thread state for it | attaches that | detaches it |
//! | nothing | creates one and attaches it | destroys it |
//! | another interpreter | detaches that, guarded meanwhile; then one of the two above | restores it |
//!
//! Each level carries a guard of its interpreter, so that it cannot finalize before the release; a level inside another
//! one of the same interpreter counts under that one's guard. A *daemon* level carries none ([`Attached::set_daemon`]).
//!
//! ```
//! use interp_guard::{Registry, thread_state};
//! use refruntime::{Interpreter, Object};
//!
//! static INTERPRETERS: Registry<Interpreter> = Registry::new();
//!
//! let id = Interpreter::locking().register(&INTERPRETERS)?;
//! std::thread::spawn(move || {
//!     let attached = thread_state::ensure_id(&INTERPRETERS, id).expect("live");
//!     let object = Object::new(1);
//!     assert_eq!(object.add(41), 42);
//!     attached.allow_threads(|| { /* waits for something; others run meanwhile */ }).expect("guarded");
//! })
//! .join()
//! .unwrap();
//! INTERPRETERS.finalize(id, None)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attached;
mod blockers;
mod error;
pub(crate) mod levels;
mod owner;
mod runtime;
mod token;

pub use attached::Attached;
pub use error::{EnsureError, EnsureOwnedError, Finalized, HoldError, ReleaseError};
pub use runtime::{CreateError, Runtime};
pub use token::{Token, allow_threads_begin, is_daemon, set_innermost_daemon};

use crate::signal_safe::guard::RawGuard;
use crate::signal_safe::this_thread::{self, Noted};
use crate::{Guard, InterpreterId, LookupError, Registry, Site};
use levels::Hold;
use owner::Owner;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A guard of the interpreter to which the calling thread is attached.
///
/// Context: normal.
///
/// # Errors
/// [`HoldError`]: nothing is attached, or the registry does not have it, or it is closing.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// # use interp_guard::thread_state::HoldError;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// assert_eq!(thread_state::hold(&registry).unwrap_err(), HoldError::NotAttached);
/// let attached = thread_state::ensure_id(&registry, id)?;
/// assert_eq!(thread_state::hold(&registry)?.id(), id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn hold<T: Runtime>(registry: &Registry<T>) -> Result<Guard<'_, T>, HoldError> {
    let state = T::attached().ok_or(HoldError::NotAttached)?;
    match Owner::of::<T>(registry.table(), state, None) {
        Ok(owner) if owner.is_here() => Ok(registry.lookup(owner.id)?),
        _ => Err(HoldError::NotFound),
    }
}

/// Attaches the calling thread to a guarded interpreter.
///
/// Does not consume the guard: the level takes one of its own, unless a level around it has one.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Errors
/// [`EnsureError::Create`]. The others only where `guard` no longer protects: inherited by a forked child and not kept,
/// which is then the same as [`ensure_id`].
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let guard = registry.lookup(id)?;
/// let attached = thread_state::ensure(&guard)?;
/// assert_eq!(attached.id(), id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn ensure<'r, T: Runtime>(guard: &Guard<'r, T>) -> Result<Attached<'r, T>, EnsureError> {
    let raw = guard.as_raw();
    let (table, id, site) = (raw.table(), raw.id(), Site::caller());
    let hold = attached::cover(table, id, || match raw.is_counted() {
        true => Ok(raw.clone_at(site).into_parts()),
        false => table.lookup(id, site).map(RawGuard::into_parts),
    })?;
    // SAFETY: (1) the guard's table and payload, guarded by `hold`; (2) `cover`.
    unsafe { Attached::enter(table, id, &**guard, hold, site) }.map_err(|(refused, hold)| {
        // SAFETY: `enter` refused it.
        unsafe { attached::give_up_hold(table, hold) };
        EnsureError::Create(refused)
    })
}

/// [`ensure`], consuming the guard: the level holds it.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Errors
/// [`EnsureOwnedError`], with the guard.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let attached = thread_state::ensure_owned(registry.lookup(id)?).map_err(|refused| refused.error)?;
/// assert_eq!(registry.outstanding(id), Some(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn ensure_owned<'r, T: Runtime>(guard: Guard<'r, T>) -> Result<Attached<'r, T>, EnsureOwnedError<'r, T>> {
    let raw = guard.as_raw();
    if !raw.is_counted() {
        return ensure(&guard).map_err(|error| EnsureOwnedError { guard, error });
    }
    let (table, id, interpreter) = (raw.table(), raw.id(), raw.payload().cast::<T>());
    let parts = guard.into_raw().into_parts();
    // SAFETY: (1) as in `ensure`; the guard, now in parts, keeps the payload; (2) handed over.
    unsafe { Attached::enter(table, id, &*interpreter, Hold::Own(parts), Site::caller()) }.map_err(
        |(refused, hold)| {
            let Hold::Own(parts) = hold else { unreachable!("a level that was given a guard has one") };
            // SAFETY: `enter` refused it, so it is put together once.
            let guard = unsafe { Guard::from_raw(RawGuard::from_parts(table, parts)) };
            EnsureOwnedError { guard, error: EnsureError::Create(refused) }
        },
    )
}

/// Attaches the calling thread to an interpreter by ID.
///
/// Also while it is closing, if this thread is already inside an ensure of it.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Errors
/// [`EnsureError`]. Nothing changed.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// use interp_guard::thread_state::EnsureError;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// drop(thread_state::ensure_id(&registry, id)?);
/// registry.finalize(id, None).unwrap();
/// assert_eq!(thread_state::ensure_id(&registry, id).unwrap_err(), EnsureError::NotFound);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn ensure_id<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
) -> Result<Attached<'_, T>, EnsureError> {
    let table = registry.table();
    let Some(parts) = levels::guard_of(table, id) else {
        return ensure_owned(registry.lookup(id)?).map_err(|refused| refused.error);
    };
    let interpreter = table.payload(parts.slot).cast::<T>();
    // SAFETY: (1) the registry's table and payload, guarded by another level; (2) by that one's guard.
    unsafe { Attached::enter(table, id, &*interpreter, Hold::Covered, Site::caller()) }
        .map_err(|(refused, _)| EnsureError::Create(refused))
}

/// [`ensure_id`] of the registry's main interpreter.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Errors
/// [`EnsureError`]; `NotFound` if there is no main interpreter.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// let main = Interpreter::locking().register(&registry)?;
/// assert_eq!(thread_state::ensure_main(&registry)?.id(), main);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn ensure_main<T: Runtime>(registry: &Registry<T>) -> Result<Attached<'_, T>, EnsureError> {
    ensure_id(registry, registry.main().ok_or(EnsureError::NotFound)?)
}

/// A daemon level: attached, with no guard.
///
/// # Errors
/// As for [`ensure_id`].
#[track_caller]
pub(crate) fn ensure_daemon<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
) -> Result<Attached<'_, T>, EnsureError> {
    let table = registry.table();
    let entry = match levels::guard_of(table, id) {
        Some(_) => None,
        None => Some(table.enter(id)?.attaches(blockers::keeps_others_from_attaching::<T>)),
    };
    let slot = table.find(id).ok_or(LookupError::NotFound)?;
    let interpreter = table.payload(slot).cast::<T>();
    // SAFETY: (1) the registry's table and payload, which the other level's guard or the entry keeps; (2) none.
    let attached = unsafe { Attached::enter(table, id, &*interpreter, Hold::Daemon, Site::caller()) };
    drop(entry);
    attached.map_err(|(refused, _)| EnsureError::Create(refused))
}

/// The interpreter attached on the calling thread, if any: of whatever registry and runtime.
///
/// What this layer attaches, and what a runtime notes with [`note_attached`]. While a handler runs that was told an
/// interpreter, it stays attached: between attaching and detaching proper, nothing is said to be attached. Where a process
/// has several registries, whose IDs may be the same, [`current_of`] tells one's from another's.
///
/// Context: any, async-signal-safe: one load from the thread's static block. No lazily allocated thread-local is
/// involved, in an executable and in a library loaded at run time.
///
/// ```
/// use interp_guard::thread_state;
/// assert_eq!(thread_state::current_id(), None);
/// ```
#[inline]
pub fn current_id() -> Option<InterpreterId> {
    this_thread::attached()
}

/// [`current_id`], if an ensure of this registry has attached it.
///
/// Not what a runtime has noted with [`note_attached`], which says nothing of a registry.
///
/// Context: any, async-signal-safe.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// let (one, two) = (Registry::new(), Registry::<Interpreter>::new());
/// let id = Interpreter::locking().register(&one)?;
/// let attached = thread_state::ensure_id(&one, id)?;
/// assert_eq!((thread_state::current_of(&one), thread_state::current_of(&two)), (Some(id), None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline]
pub fn current_of<T: Runtime>(registry: &Registry<T>) -> Option<InterpreterId> {
    let noted = this_thread::noted()?;
    (noted.registry != 0 && noted.registry == registry.table().serial()).then_some(noted.id)
}

/// For runtimes whose own operations attach and detach threads, so that [`current_id`] knows of those too: notes what is
/// attached on the calling thread, and returns what was noted. After attaching; before detaching.
///
/// Context: any, async-signal-safe.
///
/// ```
/// use interp_guard::{InterpreterId, thread_state};
/// let id = InterpreterId::try_from(7)?;
/// thread_state::note_attached(Some(id));
/// assert_eq!(thread_state::current_id(), Some(id));
/// assert_eq!(thread_state::note_attached(None), Some(id));
/// # Ok::<(), interp_guard::InvalidId>(())
/// ```
#[inline]
pub fn note_attached(id: Option<InterpreterId>) -> Option<InterpreterId> {
    let noted = id.map(|id| Noted { id, registry: 0 });
    this_thread::set_attached(noted).map(|before| before.id)
}

static PARKED: AtomicUsize = AtomicUsize::new(0);

/// Blocks the calling thread until the process ends: for a thread that must not return to code whose interpreter is gone.
///
/// Context: normal; never returns.
///
/// ```
/// # use interp_guard::thread_state;
/// let before = thread_state::parked();
/// let thread = std::thread::spawn(|| -> () { thread_state::park_for_good() });
/// while thread_state::parked() == before {
///     std::thread::yield_now();
/// }
/// assert!(!thread.is_finished());
/// ```
pub fn park_for_good() -> ! {
    PARKED.fetch_add(1, Ordering::SeqCst);
    loop {
        std::thread::park();
    }
}

/// How many threads are parked for good.
///
/// Context: any.
///
/// ```
/// println!("{} threads never came back", interp_guard::thread_state::parked());
/// ```
pub fn parked() -> usize {
    PARKED.load(Ordering::SeqCst)
}
