//! Ensure and release for bindings to other languages, whose callers keep a number and release in order.
//!
//! A [`RawLevel`] names a level, and so the latest of the ensures that are counted in it: those of one interpreter inside each
//! other have one number between them, and each release takes the latest off. That costs a nested ensure nothing beyond the
//! count, and catches all that is out of order across levels, but not which of its own is released twice. Whoever wants that too
//! has [`Attached`](super::Attached) and [`Token`](super::Token). Where a binding uses both on one thread, an ensure is released
//! by its number or by its handle, not by both: once the number has released it, its handle may stand for a later ensure of that
//! level, and release that.
//!
//! Nothing here unwinds, so that it can be called from C, as long as the [`Runtime`] does not.

use super::ensuring;
use super::levels::{self, At, Level, LevelRef};
use super::transition::{self, is_of, set_daemon};
use super::{EnsureError, EnsureOwnedError, ReleaseError, Runtime};
use crate::signal_safe::this_thread::this_thread;
use crate::{Guard, InterpreterId, LookupError, Registry, Site};
use std::num::NonZeroU64;

/// A level of this thread, as a number: see the [module](self). Never 0, and never again another level's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RawLevel(NonZeroU64);

impl RawLevel {
    /// The level of a number from [`to_bits`](Self::to_bits); `None` for 0.
    ///
    /// Context: any.
    ///
    /// ```
    /// assert!(interp_guard::thread_state::raw::RawLevel::from_bits(0).is_none());
    /// ```
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    /// As a number.
    ///
    /// Context: any.
    ///
    /// ```
    /// # use interp_guard::{Registry, Site, thread_state::raw::{self, RawLevel}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let level = raw::ensure_id(&registry, id, Site::caller())?;
    /// assert_eq!(RawLevel::from_bits(level.to_bits()), Some(level));
    /// raw::release(&registry, level)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    #[inline(always)]
    fn of(at: At) -> Self {
        // SAFETY: serial numbers start at 1, and begin there again.
        Self(unsafe { NonZeroU64::new_unchecked(at.serial) })
    }
}

/// Counts one more ensure in the innermost level, if that is `id`'s, guarded and attached. Else `None`, and nothing has happened:
/// what any ensure asks first, for who wants no more than that inlined.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// assert_eq!(raw::nest(&registry, id.into()), None);
/// let level = raw::ensure_id(&registry, id, Site::caller())?;
/// assert_eq!(raw::nest(&registry, id.into()), Some(level));
/// for _ in 0..2 {
///     raw::release(&registry, level)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn nest<T: Runtime>(registry: &Registry<T>, id: i64) -> Option<RawLevel> {
    transition::nest::<T>(registry.table(), |top| i64::from(top.id) == id && top.counts()).map(RawLevel::of)
}

/// [`nest`], if the level's own guard was counted in this slot and fork generation and is not recorded, as is one of the same
/// interpreter with these [parts](crate::raw::GuardParts).
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let parts = registry.lookup(id)?.into_raw().into_parts();
/// let level = raw::ensure_id(&registry, id, Site::caller())?;
/// assert_eq!(raw::nest_like(&registry, parts.slot, parts.generation), Some(level));
/// assert_eq!(raw::nest_like(&registry, parts.slot + 1, parts.generation), None);
/// # for _ in 0..2 {
/// #     raw::release(&registry, level)?;
/// # }
/// # drop(unsafe { registry.guard_from_parts(parts) });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn nest_like<T: Runtime>(registry: &Registry<T>, slot: u32, generation: u32) -> Option<RawLevel> {
    let is_like = |top: &Level| top.counts_like(slot, generation);
    transition::nest::<T>(registry.table(), is_like).map(RawLevel::of)
}

/// [`thread_state::ensure`](super::ensure), with a call site.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Errors
/// As there.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let guard = registry.lookup(id)?;
/// let level = raw::ensure(&guard, Site::caller())?;
/// assert_eq!(registry.outstanding(id), Some(2));
/// raw::release(&registry, level)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn ensure<T: Runtime>(guard: &Guard<'_, T>, site: Site) -> Result<RawLevel, EnsureError> {
    let raw = guard.as_raw();
    match transition::nest::<T>(raw.table(), |top| top.id == raw.id() && top.counts()) {
        Some(at) => Ok(RawLevel::of(at)),
        None => ensuring::enter(guard, site).map(RawLevel::of),
    }
}

/// [`thread_state::ensure_id`](super::ensure_id), with a call site.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Errors
/// As there.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::{EnsureError, raw}};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// raw::release(&registry, raw::ensure_id(&registry, id, Site::caller())?)?;
/// registry.finalize(id, None).unwrap();
/// assert_eq!(raw::ensure_id(&registry, id, Site::caller()), Err(EnsureError::NotFound));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn ensure_id<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
    site: Site,
) -> Result<RawLevel, EnsureError> {
    match nest(registry, id.into()) {
        Some(level) => Ok(level),
        None => ensuring::enter_id(registry, id, site).map(RawLevel::of),
    }
}

/// [`ensure_id`], which [`nest`] has refused: in a level of its own.
///
/// Context, errors: as there.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let level = match raw::nest(&registry, id.into()) {
///     Some(level) => level,
///     None => raw::enter_id(&registry, id, Site::caller())?,
/// };
/// raw::release(&registry, level)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn enter_id<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
    site: Site,
) -> Result<RawLevel, EnsureError> {
    ensuring::enter_id_here(registry, id, site).map(RawLevel::of)
}

/// [`thread_state::ensure_owned`](super::ensure_owned): a level of its own, which has the guard.
///
/// Context: normal; waits as the runtime does to attach.
///
/// # Errors
/// As there.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let level = raw::enter(registry.lookup(id)?, Site::caller()).map_err(|refused| refused.error)?;
/// assert_eq!((raw::innermost(&registry), registry.outstanding(id)), (Some(level), Some(1)));
/// raw::release(&registry, level)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn enter<T: Runtime>(guard: Guard<'_, T>, site: Site) -> Result<RawLevel, EnsureOwnedError<'_, T>> {
    ensuring::enter_owned(guard, site).map(RawLevel::of)
}

/// The innermost level of the calling thread, if it is one of this registry.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::<Interpreter>::new();
/// assert_eq!(raw::innermost(&registry), None);
/// ```
#[inline(always)]
pub fn innermost<T: Runtime>(registry: &Registry<T>) -> Option<RawLevel> {
    super::token::innermost_of(registry).map(|level| RawLevel::of(level.latest()))
}

/// Releases the latest ensure of a level, if that is the innermost, and one of this registry.
///
/// Context: normal.
///
/// # Errors
/// [`ReleaseError`]. Where nothing changed, the level stays as it is.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::{ReleaseError, raw}};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let [a, b] = [(); 2].map(|()| Interpreter::locking().register(&registry).unwrap());
/// let outer = raw::ensure_id(&registry, a, Site::caller())?;
/// let inner = raw::ensure_id(&registry, b, Site::caller())?;
/// assert_eq!(raw::release(&registry, outer), Err(ReleaseError::OutOfOrder));
/// raw::release(&registry, inner)?;
/// raw::release(&registry, outer)?;
/// assert_eq!(raw::release(&registry, outer), Err(ReleaseError::Unknown));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn release<T: Runtime>(registry: &Registry<T>, level: RawLevel) -> Result<(), ReleaseError> {
    let (here, table) = (this_thread(), registry.table());
    let is_it = |top: &LevelRef| top.serial == level.to_bits() && is_of::<T>(top, table);
    match levels::top(here).filter(is_it) {
        // SAFETY: it is of this registry.
        Some(top) => unsafe { transition::release_top::<T>(here, table, top) },
        None => Err(not_innermost(level)),
    }
}

#[cold]
#[inline(never)]
fn not_innermost(level: RawLevel) -> ReleaseError {
    match levels::has(level.to_bits()) {
        true => ReleaseError::OutOfOrder,
        false => ReleaseError::Unknown,
    }
}

/// A guard: another one beside that of a level of this thread, also while the interpreter is closing; or a new one.
///
/// Context: normal.
///
/// # Errors
/// As [`Registry::lookup`].
///
/// ```
/// # use interp_guard::{LookupError, Registry, Site, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let level = raw::ensure_id(&registry, id, Site::caller())?;
/// let closing = registry.close(id)?;
/// drop(raw::guard(&registry, id, Site::caller())?);
/// raw::release(&registry, level)?;
/// assert_eq!(raw::guard(&registry, id, Site::caller()).unwrap_err(), LookupError::Finalizing);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline(always)]
pub fn guard<T: Runtime>(
    registry: &Registry<T>,
    id: InterpreterId,
    site: Site,
) -> Result<Guard<'_, T>, LookupError> {
    let table = registry.table();
    let raw = match levels::guard_of(table, id) {
        // SAFETY: a level's, which is not released meanwhile.
        Some(parts) => unsafe { levels::clone_guard(table, parts, site) },
        None => return registry.lookup_at(id, site),
    };
    // SAFETY: the payloads of the registry are Ts.
    Ok(unsafe { Guard::from_raw(raw) })
}

/// Does a level of the calling thread keep interpreter `id` from finalizing? Then a finalizer on this thread would wait for
/// itself.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::raw};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let level = raw::ensure_id(&registry, id, Site::caller())?;
/// assert!(raw::holds(&registry, id));
/// raw::release(&registry, level)?;
/// assert!(!raw::holds(&registry, id));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn holds<T: Runtime>(registry: &Registry<T>, id: InterpreterId) -> bool {
    levels::guard_of(registry.table(), id).is_some()
}

/// [`set_innermost_daemon`](super::set_innermost_daemon), with a call site.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, Site, thread_state::{self, raw}};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let level = raw::ensure_id(&registry, id, Site::caller())?;
/// raw::set_innermost_daemon(&registry, true, Site::caller()).expect("a level of this registry")?;
/// assert_eq!((thread_state::is_daemon(&registry), registry.outstanding(id)), (Some(true), Some(0)));
/// raw::release(&registry, level)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn set_innermost_daemon<T: Runtime>(
    registry: &Registry<T>,
    daemon: bool,
    site: Site,
) -> Option<Result<(), LookupError>> {
    let level = super::token::innermost_of(registry)?;
    Some(set_daemon(registry.table(), level, daemon, site))
}

/// What is attached on the calling thread: [`Runtime::attached`], where [`Runtime::attached_or_anothers`] does not say that it is
/// what the innermost level has.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::thread_state::raw;
/// assert_eq!(raw::attached::<refruntime::Interpreter>(), None);
/// ```
#[inline(always)]
pub fn attached<T: Runtime>() -> Option<T::ThreadState> {
    transition::attached_beside::<T>(levels::top(this_thread()))
}

/// The interpreter and the thread state of the calling thread's innermost level, if it is one of this registry.
///
/// Context: normal.
///
/// ```
/// # use interp_guard::{Registry, thread_state::{self, raw}};
/// # use refruntime::Interpreter;
/// # let registry = Registry::new();
/// # let id = Interpreter::locking().register(&registry)?;
/// let attached = thread_state::ensure_id(&registry, id)?;
/// assert_eq!(raw::innermost_state(&registry), Some((id, attached.thread_state())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn innermost_state<T: Runtime>(registry: &Registry<T>) -> Option<(InterpreterId, T::ThreadState)> {
    let level = super::token::innermost_of(registry)?;
    // SAFETY: the levels of this registry are Ts'.
    Some((level.id, unsafe { level.state.get().get() }))
}
