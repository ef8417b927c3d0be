//! The registry itself: what it is made of, how it is built, set up and dropped.

use super::book::Book;
use super::forking::Fork;
use super::known;
use super::queues::{Queue, Serve};
use super::setup::{self, Layout, SetupError};
use crate::signal_safe::counters::Counters;
use crate::signal_safe::table::Table;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// A fixed-capacity set of interpreters, looked up from any context.
///
/// Usable as a `static`. Nothing is allocated until the first registration, which maps the whole table; pages are
/// touched as they are needed.
///
/// Dropping a registry drops the interpreters that are left in it. No guard can be out then, by borrowing, unless it
/// was leaked; an interpreter with a leaked guard is leaked with it.
///
/// ```
/// use interp_guard::{Counters, LookupError, Registry};
///
/// struct Interpreter { name: &'static str }
///
/// static INTERPRETERS: Registry<Interpreter> = Registry::with_capacity(64);
///
/// let id = INTERPRETERS.register(Interpreter { name: "main" })?;
/// let guard = INTERPRETERS.lookup(id)?; // from anywhere, a signal handler included
/// assert_eq!(guard.name, "main");
/// drop(guard);
/// let interpreter = INTERPRETERS.finalize(id, None)?; // by value: exclusive again
/// assert_eq!(interpreter.name, "main");
/// assert_eq!(INTERPRETERS.lookup(id).unwrap_err(), LookupError::NotFound);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Registry<T: Send + Sync + 'static> {
    table: Table,
    book: Mutex<Option<Book>>,
    capacity: usize,
    counters: Option<Counters>,
    /// How many `finalize_all` are running. Used with the mutex held.
    shutdowns: AtomicU32,
    /// Of a thread that is forking.
    fork: Fork,
    ledger: Option<bool>,
    /// Does the process know of this registry? See [`known`].
    known: AtomicBool,
    /// Invariant in `T`, which goes in as well as out. Were it covariant, safe code could register what asks more of its
    /// callers than those who look it up know of:
    ///
    /// ```compile_fail
    /// use interp_guard::Registry;
    /// fn keep(forever: &'static str) {}
    /// let registry: Registry<for<'a> fn(&'a str)> = Registry::new();
    /// let narrower: &Registry<fn(&'static str)> = &registry;
    /// narrower.register(keep);
    /// ```
    interpreters: PhantomData<fn(T) -> T>,
}

impl<T: Send + Sync + 'static> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("len", &self.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// Building.
impl<T: Send + Sync + 'static> Registry<T> {
    /// A registry for 1,024 interpreters.
    ///
    /// Context: any; `const`.
    ///
    /// ```
    /// static INTERPRETERS: interp_guard::Registry<String> = interp_guard::Registry::new();
    /// assert_eq!(INTERPRETERS.capacity(), 1024);
    /// ```
    pub const fn new() -> Self {
        Self::with_capacity(1024)
    }

    /// A registry for `capacity` interpreters at a time, 1 to 2^20. Another capacity is reported by the first
    /// registration, as [`SetupError::Capacity`].
    ///
    /// Context: any; `const`.
    ///
    /// ```
    /// static INTERPRETERS: interp_guard::Registry<String> = interp_guard::Registry::with_capacity(8);
    /// assert_eq!(INTERPRETERS.capacity(), 8);
    /// ```
    pub const fn with_capacity(capacity: usize) -> Self {
        Self {
            table: Table::new(),
            book: Mutex::new(None),
            capacity,
            counters: None,
            shutdowns: AtomicU32::new(0),
            fork: Fork::new(),
            ledger: None,
            known: AtomicBool::new(false),
            interpreters: PhantomData,
        }
    }

    /// The capacity that was asked for.
    ///
    /// Context: any.
    ///
    /// ```
    /// assert_eq!(interp_guard::Registry::<String>::with_capacity(5).capacity(), 5);
    /// ```
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Asks for a way to count guards. Without this, `INTERP_GUARD_COUNTERS` (`per-cpu` or `shared`) decides, and
    /// without that the best the machine has. What the machine lacks is reported by the first registration, as
    /// [`SetupError::Counters`].
    ///
    /// Context: any; `const`.
    ///
    /// ```
    /// use interp_guard::{Counters, Registry};
    /// static INTERPRETERS: Registry<String> = Registry::new().counters(Counters::Shared);
    /// INTERPRETERS.register("main".into())?;
    /// assert_eq!(INTERPRETERS.layout().unwrap().counters, Counters::Shared);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn counters(mut self, counters: Counters) -> Self {
        self.counters = Some(counters);
        self
    }

    /// Asks for a ledger, or for none: a record of who holds each guard, for [`holders`](Self::holders) and for the
    /// report of a drain. Without this, `INTERP_GUARD_LEDGER` (`1` or `0`) decides, and without that there is none.
    ///
    /// With a ledger a lookup makes four system calls. It records 16,384 guards at a time; what is beyond that is
    /// counted, and reported as not recorded.
    ///
    /// Context: any; `const`.
    ///
    /// ```
    /// use interp_guard::Registry;
    /// static INTERPRETERS: Registry<String> = Registry::new().ledger(true);
    /// let id = INTERPRETERS.register("main".into())?;
    /// let guard = INTERPRETERS.lookup(id)?;
    /// let late = INTERPRETERS.finalize(id, Some(std::time::Duration::ZERO)).unwrap_err();
    /// assert!(late.to_string().contains(file!())); // where the guard was taken
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn ledger(mut self, on: bool) -> Self {
        self.ledger = Some(on);
        self
    }
}

/// For the rooms that are built on it.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Sees to it that the table is published and that the process knows of it: before anything is registered.
    pub(crate) fn be_known(&self) -> Result<(), SetupError> {
        // Acquire: pairs with the Release below.
        if self.known.load(Ordering::Acquire) {
            return Ok(());
        }
        let mappings = match &mut *self.lock() {
            Some(book) => book.mappings(),
            empty => empty.insert(self.set_up()?).mappings(),
        };
        // SAFETY: the book has the mappings that its table was published on.
        unsafe { known::add::<T>(&self.table, mappings) };
        // Release: who sees it finds the registry among those that are known.
        self.known.store(true, Ordering::Release);
        Ok(())
    }

    fn set_up(&self) -> Result<Book, SetupError> {
        if self.capacity == 0 || self.capacity > setup::MAX_CAPACITY {
            return Err(SetupError::Capacity(self.capacity));
        }
        let layout = Layout::new(self.capacity, setup::choose_counters(self.counters)?);
        let ledger = setup::choose_ledger(self.ledger)?;
        // SAFETY: (1) the mutex is held and there is no book yet, so the table is not published; (2) the mappings go
        // into the book, which is dropped with this registry, when the table can no longer be borrowed.
        Ok(Book::new(unsafe { layout.publish(&self.table, ledger) }?))
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Binds a pending queue, which a close wakes and a drain's report names. Sets the registry up if need be.
    pub(crate) fn attach_queue(
        &self,
        queue: Weak<dyn Queue>,
        serve: Weak<dyn Serve>,
    ) -> Result<(), SetupError> {
        let mut book = self.lock();
        match &mut *book {
            Some(book) => book.attach(queue, serve),
            empty => empty.insert(self.set_up()?).attach(queue, serve),
        }
        Ok(())
    }

    pub(crate) fn fork(&self) -> &Fork {
        &self.fork
    }

    /// Is a `finalize_all` running? To be asked with the mutex held.
    pub(super) fn is_shutting_down(&self) -> bool {
        // Relaxed: the mutex is held.
        self.shutdowns.load(Ordering::Relaxed) != 0
    }

    /// Counts the `finalize_all` that are running.
    pub(crate) fn change_shutdowns(&self, change: impl FnOnce(u32) -> u32) {
        let _book = self.lock();
        // Relaxed: the mutex is held, here and where it is read.
        self.shutdowns.store(change(self.shutdowns.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// In a forked child, with the mutex held: no `finalize_all` is running.
    pub(crate) fn forget_shutdowns(&self) {
        // Relaxed: as in `change_shutdowns`.
        self.shutdowns.store(0, Ordering::Relaxed);
    }

    /// The book, once the table is published. A panic of another thread cannot have left it half-changed: each change is
    /// one call, after everything that can fail.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Book>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync + 'static> Drop for Registry<T> {
    fn drop(&mut self) {
        let book = self.book.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(book) = book else { return };
        known::remove::<T>(self.table.serial(), book.entries.keys().copied());
        for entry in book.entries.values() {
            if self.table.out(entry.slot) > 0 || !self.table.seal(entry.slot) {
                // A leaked guard: some thread may still be attached to it. Or a thread that has left it for another
                // registry is on its way back; from here on none is.
                continue;
            }
            let payload = self.table.payload(entry.slot).cast::<T>();
            // SAFETY: `insert` boxed it and the slot was not vacated, so it is still ours. `&mut self` says that no
            // guard borrows this registry.
            drop(unsafe { Box::from_raw(payload) });
        }
    }
}
