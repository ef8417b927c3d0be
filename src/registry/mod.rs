//! The registry: keeps the table in sync, in normal context, under one mutex.

mod bindings;
mod book;
mod error;
pub(crate) mod known;
mod setup;
mod stats;

pub use error::{CloseError, RegisterError};
pub use setup::{Layout, SetupError};
pub use stats::Stats;

use crate::blockers;
use crate::drain_options::DrainOptions;
use crate::finalizer::{Closing, DrainError, FinalizeError, TakeUp};
use crate::fork::Fork;
use crate::ledger::Holders;
use crate::pending::{self, Queue, Serve};
use crate::signal_safe::LookupError;
use crate::signal_safe::counters::Counters;
use crate::signal_safe::guard::{Guard, GuardParts, RawGuard, View};
use crate::signal_safe::ledger::Site;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
pub(crate) use book::{Book, OnClose};
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

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

/// From any context, a signal handler included.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Takes a guard on `id`, if it is live.
    ///
    /// Context: any, async-signal-safe, re-entrant to any depth. `errno` is not touched.
    ///
    /// # Errors
    /// [`LookupError::Finalizing`] if it is closing, [`LookupError::NotFound`] if it is gone or never was.
    ///
    /// # Complexity
    /// Wait-free. At most one more probe than the largest displacement among the IDs that share this one's home, which
    /// is 0 or 1 for dense IDs; hits and misses alike, however many interpreters there are.
    ///
    /// ```
    /// # use interp_guard::{LookupError, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(*registry.lookup(id)?, "an interpreter");
    /// # Ok::<(), LookupError>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn lookup(&self, id: InterpreterId) -> Result<Guard<'_, T>, LookupError> {
        self.lookup_at(id, Site::caller())
    }

    /// As [`lookup`](Self::lookup), and has the ledger show `site` for the guard: for bindings to other languages.
    ///
    /// Context: any, async-signal-safe, re-entrant to any depth. `errno` is not touched.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    ///
    /// ```
    /// # use interp_guard::{Registry, Site};
    /// let registry = Registry::new().ledger(true);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup_at(id, Site::named(&"worker.py:12"))?;
    /// let holders = registry.holders(id).unwrap();
    /// assert_eq!(holders.iter().next().unwrap().site.to_string(), "worker.py:12");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn lookup_at(&self, id: InterpreterId, site: Site) -> Result<Guard<'_, T>, LookupError> {
        // SAFETY: every payload in this table is a `T` that `insert` boxed and `take` unboxes after vacating.
        self.table.lookup(id, site).map(|raw| unsafe { Guard::from_raw(raw) })
    }

    /// A view of `id`, whether or not an interpreter has it.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, LookupError, Registry};
    /// let registry: Registry<String> = Registry::new();
    /// let view = registry.view(InterpreterId::try_from(7)?);
    /// assert_eq!(view.guard().unwrap_err(), LookupError::NotFound);
    /// # Ok::<(), interp_guard::InvalidId>(())
    /// ```
    #[inline]
    pub fn view(&self, id: InterpreterId) -> View<'_, T> {
        // SAFETY: as in `lookup`.
        unsafe { View::new(&self.table, id) }
    }

    /// The main interpreter: the first registered into an empty registry, unless [`set_main`](Self::set_main) named
    /// another. `None` before that, and from the moment it is finalized.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// assert_eq!(registry.main(), None);
    /// let first = registry.register("first").unwrap();
    /// let second = registry.register("second").unwrap();
    /// assert_eq!(registry.main(), Some(first));
    /// registry.set_main(second)?;
    /// assert_eq!(registry.main(), Some(second));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn main(&self) -> Option<InterpreterId> {
        self.table.main()
    }

    /// Was an interpreter ever registered?
    pub(crate) fn has_registered(&self) -> bool {
        self.lock().as_ref().is_some_and(|book| book.registrations != 0)
    }

    /// Puts a guard together again that [`Guard::into_raw`] and [`RawGuard::into_parts`] took apart: for bindings, which
    /// store guards as plain data.
    ///
    /// Context: any, async-signal-safe.
    ///
    /// # Safety
    /// 1. `parts` came from a guard of this registry.
    /// 2. They are put together once. Twice is an over-release.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let parts = registry.lookup(id)?.into_raw().into_parts();
    /// // SAFETY: taken apart above, and put together only here.
    /// let guard = unsafe { registry.guard_from_parts(parts) };
    /// assert_eq!(*guard, "an interpreter");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub unsafe fn guard_from_parts(&self, parts: GuardParts) -> Guard<'_, T> {
        // SAFETY: (1) and (2) are the requirements of `from_parts`; every payload is a `T`, as in `lookup`.
        unsafe { Guard::from_raw(RawGuard::from_parts(&self.table, parts)) }
    }

    /// The parts of a guard of `id` whose holder has kept the ID alone: one taken in this process (not before a fork), live
    /// or closing, that the ledger does not record. `None` if `id` is in no slot: then nobody has a guard of it.
    ///
    /// For bindings whose release is told nothing but the interpreter. Takes no guard: [`guard_from_parts`] may be given
    /// them by whoever has one.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// [`guard_from_parts`]: Self::guard_from_parts
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// std::mem::forget(registry.lookup(id)?);
    /// let parts = registry.parts_of(id).unwrap();
    /// // SAFETY: the guard that was forgotten has these parts.
    /// drop(unsafe { registry.guard_from_parts(parts) });
    /// assert_eq!(registry.outstanding(id), Some(0));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn parts_of(&self, id: InterpreterId) -> Option<GuardParts> {
        let slot = self.table.find(id)?;
        Some(GuardParts { id, slot, generation: self.table.generation(), ticket: 0 })
    }

    /// Calls `f` with the ID of every interpreter that is live when its place in the table is looked at, in no
    /// particular order.
    ///
    /// Context: any, async-signal-safe if `f` is. O(slots), and there are 2 to 4 slots per interpreter of capacity.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let mut live = 0;
    /// registry.for_each_live(|_| live += 1);
    /// assert_eq!(live, 1);
    /// ```
    pub fn for_each_live(&self, f: impl FnMut(InterpreterId)) {
        self.table.for_each_live(f);
    }
}

/// From normal context. These may block, allocate, and take the registry's mutex.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Registers an interpreter under a fresh ID.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`RegisterError`], with the interpreter in it. Nothing changed.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let first = registry.register("first")?;
    /// let second = registry.register("second")?;
    /// assert_ne!(first, second);
    /// # Ok::<(), interp_guard::RegisterError<&str>>(())
    /// ```
    pub fn register(&self, interpreter: T) -> Result<InterpreterId, RegisterError<T>> {
        self.insert(None, interpreter)
    }

    /// Registers an interpreter under an ID of the caller's choice.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`RegisterError`], with the interpreter in it. Nothing changed.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, Registry};
    /// let registry = Registry::new();
    /// let seven = InterpreterId::try_from(7)?;
    /// registry.register_with_id(seven, "seven").unwrap();
    /// let refused = registry.register_with_id(seven, "another").unwrap_err();
    /// assert_eq!(refused.into_inner(), "another");
    /// # Ok::<(), interp_guard::InvalidId>(())
    /// ```
    pub fn register_with_id(&self, id: InterpreterId, interpreter: T) -> Result<(), RegisterError<T>> {
        self.insert(Some(id), interpreter).map(drop)
    }

    fn insert(
        &self,
        asked: Option<InterpreterId>,
        interpreter: T,
    ) -> Result<InterpreterId, RegisterError<T>> {
        if let Err(why) = self.be_known() {
            return Err(RegisterError::Unavailable(interpreter, why));
        }
        let mut book = self.lock();
        // Relaxed: the mutex is held.
        if self.shutdowns.load(Ordering::Relaxed) != 0 {
            return Err(RegisterError::ShuttingDown(interpreter));
        }
        let Some(book) = &mut *book else { unreachable!("set up above, once and for all") };
        if let Some(id) = asked.filter(|&id| book.was_used(id)) {
            return Err(match book.entries.contains_key(&id) {
                true => RegisterError::DuplicateId(interpreter),
                false => RegisterError::RetiredId(interpreter),
            });
        }
        if book.entries.len() >= self.capacity {
            return Err(RegisterError::RegistryFull(interpreter));
        }
        let Some(id) = asked.or_else(|| book.fresh_id()) else {
            return Err(RegisterError::RetiredId(interpreter)); // all 2^63 - 1 of them
        };
        let payload = Box::into_raw(Box::new(interpreter));
        // SAFETY: (1) the mutex is held; (2) `id` is in the book of used IDs neither as live nor as retired.
        let Some(slot) = (unsafe { self.table.insert(id, payload.cast()) }) else {
            // SAFETY: `payload` was boxed above and the table did not take it.
            return Err(RegisterError::RegistryFull(unsafe { *Box::from_raw(payload) }));
        };
        if book.entries.is_empty() {
            self.table.set_main(Some(id));
        }
        book.enter(id, slot, asked.is_none());
        Ok(id)
    }

    /// Sees to it that the table is published and that the process knows of it: before anything is registered.
    fn be_known(&self) -> Result<(), SetupError> {
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

    /// Closes an interpreter: no new guards from here on. The ones that are out stay valid.
    ///
    /// When this has returned, every lookup that begins says [`LookupError::Finalizing`]. Never undone: dropping the
    /// [`Closing`] leaves the interpreter closed, for the next `close` or [`finalize`](Self::finalize) to take up.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`CloseError::NotFound`]; [`CloseError::AlreadyClosing`] while somebody else holds the `Closing`.
    ///
    /// ```
    /// # use interp_guard::{CloseError, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let closing = registry.close(id)?;
    /// assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing);
    /// assert_eq!(closing.drain(None).unwrap(), "an interpreter");
    /// # Ok::<(), CloseError>(())
    /// ```
    pub fn close(&self, id: InterpreterId) -> Result<Closing<'_, T>, CloseError> {
        Closing::begin(self, id, TakeUp::Left)
    }

    /// Closes an interpreter, waits until no guard is out, and hands it back by value.
    ///
    /// `timeout` limits the waiting; `None` is without limit, zero looks once. The ID is retired when this succeeds.
    ///
    /// Detach first: see [`Closing::drain`], which also says when pending calls are run here.
    ///
    /// Context: normal; blocks.
    ///
    /// # Errors
    /// [`FinalizeError::NotFound`], [`FinalizeError::AlreadyClosing`], or what [`Closing::drain`] says; then the
    /// interpreter is closed and otherwise untouched, and the error has the [`Closing`] in it. The thread that got such an error
    /// may call this again, while it has the error or later: it takes the `Closing` up. Others may when the error is dropped.
    ///
    /// [`WouldDeadlock`](crate::DrainError::WouldDeadlock) is answered at once, and leaves the interpreter as it was, where the
    /// calling thread itself blocks it: inside an ensure or a pending call of it, or attached to it while a daemon is attaching.
    /// (A daemon that begins to attach after that is seen by the drain, and the interpreter is closed then.)
    ///
    /// ```
    /// # use interp_guard::{DrainError, FinalizeError, Registry};
    /// # use std::time::{Duration, Instant};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let refused = registry.finalize(id, Some(Duration::ZERO)).unwrap_err();
    /// let FinalizeError::Drain(DrainError::Timeout(timeout)) = refused else { panic!("{refused}") };
    /// assert_eq!(timeout.outstanding(), 1);
    /// drop(guard);
    /// assert_eq!(timeout.into_closing().drain(None).unwrap(), "an interpreter");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn finalize(&self, id: InterpreterId, timeout: Option<Duration>) -> Result<T, FinalizeError<'_, T>> {
        self.finalize_with(id, DrainOptions::new().timeout(timeout))
    }

    /// [`finalize`](Self::finalize) with an interrupt check or an observer.
    ///
    /// Context: normal; blocks.
    ///
    /// # Errors
    /// As `finalize`, and [`DrainError::Interrupted`](crate::DrainError::Interrupted).
    ///
    /// ```
    /// # use interp_guard::{DrainOptions, Phase, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let mut phases = Vec::new();
    /// registry.finalize_with(id, DrainOptions::new().observe(|phase| phases.push(phase))).unwrap();
    /// assert_eq!(phases, [Phase::Drained(id), Phase::Finalized(id)]);
    /// ```
    pub fn finalize_with(
        &self,
        id: InterpreterId,
        options: DrainOptions<'_>,
    ) -> Result<T, FinalizeError<'_, T>> {
        self.close_and_drain(id, TakeUp::OrOwn, options)
    }

    fn close_and_drain(
        &self,
        id: InterpreterId,
        take_up: TakeUp,
        options: DrainOptions<'_>,
    ) -> Result<T, FinalizeError<'_, T>> {
        // A drain that is somebody else's is refused as that, below. Should they give it up before, it is closed all the
        // same, and the drain says again that it would deadlock.
        let keeps_out = || !options.has_interrupt() && self.is_kept_from_attaching_here(id);
        let blocks = blockers::this_thread_blocks(&self.table, id)
            || keeps_out() && {
                // Among what this thread would run in the drain may be what lets them in.
                let began = Instant::now();
                let mut may_go_on = || options.allows(began.elapsed());
                pending::run_own(self, id, &mut may_go_on);
                pending::run_left(self, id, options.is_without_limit(), &mut may_go_on);
                keeps_out()
            };
        if blocks && !self.is_taken(id, take_up) {
            return Err(FinalizeError::Drain(Closing::would_deadlock(self, id)));
        }
        let closing = Closing::begin(self, id, take_up).map_err(FinalizeError::from)?;
        closing.drain_with(options).map_err(DrainError::for_finalize)
    }

    /// Does this thread, by being attached to `id`, keep others out that are attaching? `false` if it is not live: then its drain
    /// asks.
    fn is_kept_from_attaching_here(&self, id: InterpreterId) -> bool {
        let attaching = self.in_its_way(id).is_some_and(|(_, attaching)| attaching != 0);
        // With a guard, so that it stays where it is.
        let guard = if attaching { self.table.lookup(id, Site::default()).ok() } else { None };
        let slot = guard.as_ref().and_then(|_| self.table.find(id));
        slot.is_some_and(|slot| self.table.is_kept_from_attaching_here(slot, id))
    }

    fn is_taken(&self, id: InterpreterId, take_up: TakeUp) -> bool {
        let book = self.lock();
        book.as_ref().and_then(|book| Closing::is_taken(self, book, id, take_up)).unwrap_or(false)
    }

    /// Has `f` called when the interpreter closes: so that a pool can wind its workers down and give their guards up.
    ///
    /// `f` runs once, on the thread that closes the interpreter, inside [`close`](Self::close),
    /// [`finalize`](Self::finalize) or [`finalize_all`](Self::finalize_all), in normal context, with no lock held, when
    /// no lookup succeeds any more. Of several, the latest runs first. If one panics, the others still run; then the
    /// panic goes on, and the interpreter is closed and free to be taken up. Dropping the registry runs none.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`LookupError::Finalizing`] if it is closing already, [`LookupError::NotFound`]. `f` is dropped, not run.
    ///
    /// ```
    /// # use interp_guard::{LookupError, Registry};
    /// # use std::sync::mpsc;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let (tell, told) = mpsc::channel();
    /// registry.on_close(id, move |id| tell.send(id).unwrap())?;
    /// let closing = registry.close(id)?;
    /// assert_eq!(told.recv(), Ok(id));
    /// assert_eq!(registry.on_close(id, |_| ()), Err(LookupError::Finalizing));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_close(
        &self,
        id: InterpreterId,
        f: impl FnOnce(InterpreterId) + Send + 'static,
    ) -> Result<(), LookupError> {
        let f: OnClose = Box::new(f);
        let mut book = self.lock();
        let refused = match book.as_mut().and_then(|book| book.entries.get_mut(&id)) {
            None => LookupError::NotFound,
            Some(entry) if self.table.is_closing(entry.slot) => LookupError::Finalizing,
            Some(entry) => {
                entry.on_close.push(f);
                return Ok(());
            }
        };
        drop(book); // before `f` is dropped: what it owns may come back here
        Err(refused)
    }

    /// Names the main interpreter.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`LookupError::NotFound`], or [`LookupError::Finalizing`] if it is closing. Nothing changed.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, LookupError, Registry};
    /// let registry: Registry<String> = Registry::new();
    /// let unknown = InterpreterId::try_from(7)?;
    /// assert_eq!(registry.set_main(unknown), Err(LookupError::NotFound));
    /// # Ok::<(), interp_guard::InvalidId>(())
    /// ```
    pub fn set_main(&self, id: InterpreterId) -> Result<(), LookupError> {
        let book = self.lock();
        let entry = book.as_ref().and_then(|book| book.entries.get(&id)).ok_or(LookupError::NotFound)?;
        if self.table.is_closing(entry.slot) {
            return Err(LookupError::Finalizing);
        }
        self.table.set_main(Some(id));
        Ok(())
    }

    /// How many guards of `id` are out; `None` if no interpreter has this ID.
    ///
    /// Counts every guard that is out throughout the call; one that comes or goes meanwhile may or may not be counted.
    ///
    /// Context: normal. O(CPUs).
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// assert_eq!(registry.outstanding(id), Some(1));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn outstanding(&self, id: InterpreterId) -> Option<u64> {
        self.in_its_way(id).map(|(out, _)| out)
    }

    /// How many guards of `id` are out, and how many threads are attaching to it without one.
    pub(crate) fn in_its_way(&self, id: InterpreterId) -> Option<(u64, u64)> {
        let book = self.lock();
        let slot = book.as_ref()?.entries.get(&id)?.slot;
        Some((self.table.out(slot).try_into().unwrap_or(0), self.table.attaching(slot).into()))
    }

    /// Who holds the guards of `id`, as far as the ledger knows; `None` if no interpreter has this ID.
    ///
    /// Context: normal. O(CPUs + guards that are out, of any interpreter).
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new().ledger(true);
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let holders = registry.holders(id).unwrap();
    /// assert_eq!(holders.iter().count(), 1);
    /// println!("{holders}");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn holders(&self, id: InterpreterId) -> Option<Holders> {
        let (outstanding, attaching) = self.in_its_way(id)?;
        Some(Holders::of(&self.table, id, outstanding, attaching))
    }

    /// What this registry's finalizers have done so far.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// registry.finalize(id, None).unwrap();
    /// assert_eq!(registry.stats().drains, 1);
    /// ```
    pub fn stats(&self) -> Stats {
        self.lock().as_ref().map_or_else(Stats::default, |book| book.stats)
    }

    /// How many interpreters are registered, live and closing.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.lock().as_ref().map_or(0, |book| book.entries.len())
    }

    /// Is nothing registered?
    ///
    /// Context: normal.
    ///
    /// ```
    /// assert!(interp_guard::Registry::<String>::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// The IDs of all registered interpreters, live and closing, in ascending order.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.ids(), [id]);
    /// ```
    pub fn ids(&self) -> Vec<InterpreterId> {
        self.lock().as_ref().map_or_else(Vec::new, |book| book.entries.keys().copied().collect())
    }

    /// How the table lies in memory; `None` before the first registration.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// assert_eq!(registry.layout(), None);
    /// registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.layout().unwrap().slots, 2048);
    /// ```
    pub fn layout(&self) -> Option<Layout> {
        let _book = self.lock();
        let mode = self.table.geometry()?.stripes.mode;
        Some(Layout::new(self.capacity, mode))
    }

    /// How many slots beyond the first a lookup of `id` may have to probe, whether or not an interpreter has that ID.
    ///
    /// Context: any.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.displacement(id), 0);
    /// ```
    pub fn displacement(&self, id: InterpreterId) -> u32 {
        self.table.reach(id)
    }
}

/// For the finalizer.
impl<T: Send + Sync + 'static> Registry<T> {
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Binds a pending queue, which a close wakes and a drain's report names. Sets the registry up if need be.
    pub(crate) fn attach_queue(&self, queue: &Arc<Queue>, serve: Weak<dyn Serve>) -> Result<(), SetupError> {
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
            let payload = self.table.take_payload(entry.slot).cast::<T>();
            // SAFETY: `insert` boxed it and the slot was not vacated, so it is still ours. `&mut self` says that no
            // guard borrows this registry.
            drop(unsafe { Box::from_raw(payload) });
        }
    }
}
