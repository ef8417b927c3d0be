//! Guards and views of interpreters of a known type.

use super::super::ledger::Site;
use super::super::lookup_error::LookupError;
use super::super::table::Table;
use super::super::word::InterpreterId;
use super::raw::RawGuard;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

/// A strong reference to an interpreter: while it exists, the interpreter cannot finalize.
///
/// Dereferences to the interpreter. Cloning it takes another guard, which always succeeds. Dropping it gives the guard
/// up; dropping the last one of a closing interpreter wakes its finalizer and touches the interpreter no more, so
/// nothing of the interpreter is ever freed in a signal handler.
///
/// Context: every operation: any, async-signal-safe, wait-free.
///
/// A guard that is leaked, by `mem::forget` or by a `siglongjmp` out of the handler that holds it, keeps its interpreter
/// from finalizing for good; a drain then reports it.
///
/// ```
/// # use interp_guard::Registry;
/// static INTERPRETERS: Registry<String> = Registry::new();
///
/// let id = INTERPRETERS.register("seven".into())?;
/// let guard = INTERPRETERS.lookup(id)?;
/// let another = guard.clone();
/// assert_eq!(*guard, "seven");
/// assert_eq!(another.id(), id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Guard<'r, T> {
    raw: RawGuard<'r>,
    /// Invariant in `T`, as a registry is: a subtype of an interpreter's type may be another runtime.
    ///
    /// ```compile_fail
    /// use interp_guard::Guard;
    /// fn narrowed<'r>(guard: Guard<'r, for<'a> fn(&'a str)>) -> Guard<'r, fn(&'static str)> {
    ///     guard
    /// }
    /// ```
    interpreter: PhantomData<fn(T) -> T>,
}

impl<'r, T> Guard<'r, T> {
    /// Gives a raw guard its type.
    ///
    /// # Safety
    /// The payload of the guarded slot is a `T` that lives, unmoved, until the slot is vacated.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(raw: RawGuard<'r>) -> Self {
        Self { raw, interpreter: PhantomData }
    }

    /// The guarded interpreter's ID.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.lookup(id)?.id(), id);
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn id(&self) -> InterpreterId {
        self.raw.id()
    }

    /// A view of the same interpreter: remembers it without guarding it.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let view = registry.lookup(id)?.view();
    /// assert!(view.guard().is_ok());
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn view(&self) -> View<'r, T> {
        View { table: self.raw.table(), id: self.raw.id(), interpreter: PhantomData }
    }

    /// Has somebody begun to close the interpreter? A long holder that sees `true` should finish and drop its guard:
    /// a finalizer waits for it.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// assert!(!guard.is_closing());
    /// let closing = registry.close(id)?;
    /// assert!(guard.is_closing());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.raw.is_closing()
    }

    pub(crate) fn raw_mut(&mut self) -> &mut RawGuard<'r> {
        &mut self.raw
    }

    /// Takes one more guard, as [`Clone`] does, and has the ledger show `site` for it.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// ```
    /// # use interp_guard::{Registry, Site};
    /// let registry = Registry::new().ledger(true);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let another = guard.clone_at(Site::named(&"worker.py:12"));
    /// assert!(registry.holders(id).unwrap().to_string().contains("worker.py:12"));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn clone_at(&self, site: Site) -> Self {
        Self { raw: self.raw.clone_at(site), interpreter: PhantomData }
    }

    /// The guard without its type, where it is.
    #[inline(always)]
    pub(crate) fn as_raw(&self) -> &RawGuard<'r> {
        &self.raw
    }

    /// The same guard without its type, for bindings.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let raw = registry.lookup(id)?.into_raw();
    /// assert_eq!(registry.outstanding(id), Some(1));
    /// drop(raw);
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn into_raw(self) -> RawGuard<'r> {
        self.raw
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by `from_raw` the payload is a T until the slot is vacated, which this guard prevents.
        unsafe { &*self.raw.payload().cast::<T>() }
    }
}

impl<T> Clone for Guard<'_, T> {
    #[inline]
    #[track_caller]
    fn clone(&self) -> Self {
        self.clone_at(Site::caller())
    }
}

impl<T> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("id", &self.raw.id()).finish_non_exhaustive()
    }
}

/// A weak reference: a registry and an ID. Guards nothing and costs nothing.
///
/// Context: any, async-signal-safe.
///
/// ```
/// # use interp_guard::{LookupError, Registry};
/// let registry = Registry::new();
/// let id = registry.register("an interpreter").unwrap();
/// let view = registry.view(id);
/// assert!(view.guard().is_ok());
/// registry.finalize(id, None).unwrap();
/// assert_eq!(view.guard().unwrap_err(), LookupError::NotFound);
/// ```
pub struct View<'r, T> {
    table: &'r Table,
    id: InterpreterId,
    /// Invariant in `T`, as the guard that comes of it.
    interpreter: PhantomData<fn(T) -> T>,
}

impl<'r, T> View<'r, T> {
    /// # Safety
    /// Every payload of `table` is a `T`, as for [`Guard::from_raw`].
    #[inline]
    pub(crate) unsafe fn new(table: &'r Table, id: InterpreterId) -> Self {
        Self { table, id, interpreter: PhantomData }
    }

    /// The ID that this is a view of, whether or not an interpreter has it.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.view(id).id(), id);
    /// ```
    #[inline]
    pub fn id(self) -> InterpreterId {
        self.id
    }

    /// Takes a guard, if the interpreter is live. The same as [`Registry::lookup`](crate::Registry::lookup).
    ///
    /// Context: any, async-signal-safe, wait-free, O(1).
    ///
    /// # Errors
    /// [`LookupError::Finalizing`] if it is closing, [`LookupError::NotFound`] if it is gone or never was.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(*registry.view(id).guard()?, "an interpreter");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn guard(self) -> Result<Guard<'r, T>, LookupError> {
        self.guard_at(Site::caller())
    }

    /// [`guard`](Self::guard), and has the ledger show `site` for it.
    #[inline(always)] // a call of it would cost seven instructions more
    pub(crate) fn guard_at(self, site: Site) -> Result<Guard<'r, T>, LookupError> {
        // SAFETY: promised to `new`.
        self.table.lookup(self.id, site).map(|raw| unsafe { Guard::from_raw(raw) })
    }
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<T> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("id", &self.id).finish_non_exhaustive()
    }
}

const _: () = {
    static_assertions::assert_impl_all!(Guard<'static, u8>: Send, Sync);
    static_assertions::assert_impl_all!(View<'static, u8>: Send, Sync, Copy);
    static_assertions::const_assert!(size_of::<Guard<'static, u8>>() <= 32);
};
