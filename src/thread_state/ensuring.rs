//! Ensures: by a guard, by an ID, of the main interpreter; and what each begins a level with.

use super::attached::Attached;
use super::error::{EnsureError, EnsureOwnedError, HoldError};
use super::levels::{self, At, Hold};
use super::owner::Owner;
use super::transition::{self, NotEntered};
use super::{Runtime, blockers};
use crate::InterpreterId;
use crate::registry::entering;
use crate::signal_safe::guard::RawGuard;
use crate::signal_safe::table::Table;
use crate::signal_safe::this_thread::this_thread;
use crate::{Guard, LookupError, Registry, Site};

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
#[inline(always)]
pub fn ensure<'r, T: Runtime>(guard: &Guard<'r, T>) -> Result<Attached<'r, T>, EnsureError> {
    let raw = guard.as_raw();
    let at = match transition::nest::<T>(raw.table(), |top| top.id == raw.id() && top.counts()) {
        Some(at) => at,
        None => enter(guard, Site::caller())?,
    };
    // SAFETY: entered for that.
    Ok(unsafe { Attached::new(raw.table(), raw.id(), at) })
}

/// [`ensure`], in a level of its own.
#[inline(never)]
pub(super) fn enter<T: Runtime>(guard: &Guard<'_, T>, site: Site) -> Result<At, EnsureError> {
    let (here, raw) = (this_thread(), guard.as_raw());
    if levels::top(here).is_some() || !raw.is_counted() {
        return enter_beside(guard, site);
    }
    let (table, parts) = (raw.table(), raw.clone_at(site).into_parts());
    // SAFETY: (1) the guard's table and payload, guarded by `parts`; (2) handed over.
    unsafe { transition::enter_first(here, table, raw.id(), &**guard, parts, site) }
        // SAFETY: refused.
        .map_err(|refused| unsafe { give_back(table, refused) })
}

/// [`enter`], inside another level, or with a guard that does not count.
#[inline(never)]
fn enter_beside<T: Runtime>(guard: &Guard<'_, T>, site: Site) -> Result<At, EnsureError> {
    let raw = guard.as_raw();
    let (table, id) = (raw.table(), raw.id());
    let hold = transition::cover(table, id, || match raw.is_counted() {
        true => Ok(raw.clone_at(site).into_parts()),
        false => table.lookup(id, site).map(RawGuard::into_parts),
    })?;
    // SAFETY: (1) the guard's table and payload, guarded by `hold`; (2) `cover`.
    unsafe { transition::enter(this_thread(), table, id, &**guard, hold, site) }
        // SAFETY: refused.
        .map_err(|refused| unsafe { give_back(table, refused) })
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
    let (table, id) = (guard.as_raw().table(), guard.id());
    // SAFETY: entered for that.
    enter_owned(guard, Site::caller()).map(|at| unsafe { Attached::new(table, id, at) })
}

/// [`ensure_owned`], with a call site.
#[inline(always)]
pub(super) fn enter_owned<T: Runtime>(
    guard: Guard<'_, T>,
    site: Site,
) -> Result<At, EnsureOwnedError<'_, T>> {
    let raw = guard.as_raw();
    if !raw.is_counted() {
        return enter(&guard, site).map_err(|error| EnsureOwnedError { guard, error });
    }
    let (table, id, interpreter) = (raw.table(), raw.id(), raw.payload().cast::<T>());
    let parts = guard.into_raw().into_parts();
    // SAFETY: (1) as in `enter`; the guard, now in parts, keeps the payload; (2) handed over.
    unsafe { transition::enter(this_thread(), table, id, &*interpreter, Hold::Own(parts), site) }.map_err(
        |refused| {
            let Hold::Own(parts) = refused.hold else {
                unreachable!("a level that was given a guard has one")
            };
            // SAFETY: `enter` refused it, so it is put together once.
            let guard = unsafe { Guard::from_raw(RawGuard::from_parts(table, parts)) };
            EnsureOwnedError { guard, error: EnsureError::Create(refused.why) }
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
#[inline(always)]
pub fn ensure_id<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
) -> Result<Attached<'_, T>, EnsureError> {
    let table = registry.table();
    let at = match transition::nest::<T>(table, |top| top.id == id && top.counts()) {
        Some(at) => at,
        None => enter_id(registry, id, Site::caller())?,
    };
    // SAFETY: entered for that.
    Ok(unsafe { Attached::new(table, id, at) })
}

/// [`ensure_id`], in a level of its own.
#[inline(never)]
pub(super) fn enter_id<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
    site: Site,
) -> Result<At, EnsureError> {
    enter_id_here(registry, id, site)
}

#[inline(always)]
pub(super) fn enter_id_here<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
    site: Site,
) -> Result<At, EnsureError> {
    let (here, table) = (this_thread(), registry.table());
    if levels::top(here).is_some() {
        return enter_id_beside(registry, id, site);
    }
    let guard = table.lookup(id, site)?;
    let interpreter = guard.payload().cast::<T>();
    let parts = guard.into_parts();
    // SAFETY: (1) the registry's table and payload, guarded by `parts`; (2) handed over.
    unsafe { transition::enter_first(here, table, id, &*interpreter, parts, site) }
        // SAFETY: refused.
        .map_err(|refused| unsafe { give_back(table, refused) })
}

/// [`enter_id`], inside another level.
#[inline(never)]
fn enter_id_beside<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
    site: Site,
) -> Result<At, EnsureError> {
    let table = registry.table();
    let hold = transition::cover(table, id, || table.lookup(id, site).map(RawGuard::into_parts))?;
    let slot = match hold {
        Hold::Own(parts) => parts.slot,
        _ => table.find(id).ok_or(LookupError::NotFound)?,
    };
    let interpreter = table.payload(slot).cast::<T>();
    // SAFETY: (1) the registry's table and payload, guarded by `hold`; (2) `cover`.
    unsafe { transition::enter(this_thread(), table, id, &*interpreter, hold, site) }
        // SAFETY: refused.
        .map_err(|refused| unsafe { give_back(table, refused) })
}

/// Gives up what a level was to hold.
///
/// # Safety
/// `enter` refused it, of this table.
#[cold]
#[inline(never)]
unsafe fn give_back(table: &Table, refused: NotEntered) -> EnsureError {
    // SAFETY: the caller's promise.
    unsafe { transition::give_up_hold(table, refused.hold) };
    EnsureError::Create(refused.why)
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
    let site = Site::caller();
    let attach = |payload: *mut ()| {
        // SAFETY: (1) the registry's table and payload, which the other level's guard or `enter` keeps; (2) none.
        unsafe { transition::enter(this_thread(), table, id, &*payload.cast::<T>(), Hold::Daemon, site) }
    };
    let at = match levels::guard_of(table, id) {
        Some(parts) => attach(table.payload(parts.slot)),
        None => entering::enter(table, id, blockers::keeps_others_from_attaching::<T>, attach)?,
    };
    // SAFETY: entered for that.
    at.map(|at| unsafe { Attached::new(table, id, at) }).map_err(|refused| EnsureError::Create(refused.why))
}
