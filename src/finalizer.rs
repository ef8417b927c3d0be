//! Closing an interpreter, draining its guards, handing it back.
//!
//! A drain sums the counters and, while guards are out, sleeps on the slot's wake word. No lock is held meanwhile: a
//! guard's holder may be registering. Zero is final (`signal_safe::counters`, N2): after close only a holder can add.

use crate::blockers;
use crate::drain_options::{DrainOptions, Enough, Phase, Watch};
use crate::ledger::Holders;
use crate::pending::{self, Left, Waiting};
use crate::registry::{Book, CloseError, OnClose, Registry, Stats, known};
use crate::signal_safe::sys::Errno;
use crate::signal_safe::word::InterpreterId;
use crate::threads;
use crate::unwind;
use std::error::Error;
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// The right to drain an interpreter that gives out no more guards.
///
/// Dropping it leaves the interpreter closed and free to be taken up: the next [`Registry::close`] or
/// [`Registry::finalize`] gets it.
#[must_use = "the interpreter stays closed, and somebody has to drain it"]
pub struct Closing<'r, T: Send + Sync + 'static> {
    registry: &'r Registry<T>,
    id: InterpreterId,
    slot: u32,
    /// The number under which the book knows this `Closing`.
    number: u64,
    /// Has a heavy fence succeeded since the interpreter was closed? Until then the sums mean nothing.
    pub(crate) fenced: Result<(), Errno>,
}

/// What may be taken up that is closed already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakeUp {
    Nothing,
    /// What nobody holds the right to drain of.
    Left,
    /// That, and what an error holds that `finalize` or `finalize_all` gave to the calling thread: it tries again.
    OrOwn,
}

/// The number of a `Closing` that owns nothing. The book counts from one.
const UNCLAIMED: u64 = 0;

/// Calls them, the latest first, with no lock held; a panic goes on when all have run.
pub(crate) fn run_on_close(callbacks: Vec<(InterpreterId, OnClose)>) {
    let mut panicked = None;
    for (id, callback) in callbacks {
        // Unwind-safe: the callback is consumed, and the panic goes on below.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(id)))
            && let Some(earlier) = panicked.replace(panic)
        {
            unwind::discard(earlier);
        }
    }
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}

impl<'r, T: Send + Sync + 'static> Closing<'r, T> {
    /// C1, or taking up what is closed. What is left to the caller, in this order, with the mutex released: C2, and the
    /// callbacks.
    pub(crate) fn claim(
        registry: &'r Registry<T>,
        book: &mut Book,
        id: InterpreterId,
        take_up: TakeUp,
    ) -> Result<(Self, Vec<(InterpreterId, OnClose)>), CloseError> {
        if Self::is_taken(registry, book, id, take_up).ok_or(CloseError::NotFound)? {
            return Err(CloseError::AlreadyClosing);
        }
        let number = book.next_closing();
        let entry = book.entries.get_mut(&id).ok_or(CloseError::NotFound)?;
        if !registry.table().is_closing(entry.slot) {
            // SAFETY: (1) the mutex is held; (2) the book has `id` in this slot, and it is not closing.
            unsafe { registry.table().begin_close(entry.slot, id) };
            book.stats.closings += 1;
        }
        (entry.owner, entry.in_error_of) = (Some(number), None);
        let slot = entry.slot;
        let callbacks = std::mem::take(&mut entry.on_close).into_iter().rev().map(|f| (id, f)).collect();
        // Who serves a queue has been woken by each push; in case they were waiting for something else.
        book.queues().for_each(|queue| queue.ring.wake());
        let not_yet = Err(Errno(libc::EINPROGRESS));
        Ok((Self { registry, id, slot, number, fenced: not_yet }, callbacks))
    }

    /// Would a claim be refused, since the drain is somebody else's? `None`: nobody has this ID.
    pub(crate) fn is_taken(
        registry: &Registry<T>,
        book: &Book,
        id: InterpreterId,
        take_up: TakeUp,
    ) -> Option<bool> {
        let entry = book.entries.get(&id)?;
        let again = take_up == TakeUp::OrOwn && entry.in_error_of == Some(threads::number());
        let owned = entry.owner.is_some_and(|owner| owner > book.inherited) && !again;
        Some(owned || take_up == TakeUp::Nothing && registry.table().is_closing(entry.slot))
    }

    /// C1, C2 and the callbacks.
    pub(crate) fn begin(
        registry: &'r Registry<T>,
        id: InterpreterId,
        take_up: TakeUp,
    ) -> Result<Self, CloseError> {
        let claimed = {
            let mut book = registry.lock();
            Self::claim(registry, book.as_mut().ok_or(CloseError::NotFound)?, id, take_up)
        };
        let (mut closing, callbacks) = claimed?;
        closing.fenced = registry.table().heavy_fence();
        run_on_close(callbacks);
        Ok(closing)
    }

    /// What `finalize` says on a thread that itself blocks the interpreter: it is not closed, and nobody owns the drain.
    pub(crate) fn would_deadlock(registry: &'r Registry<T>, id: InterpreterId) -> DrainError<'r, T> {
        DrainError::WouldDeadlock(DrainTimeout::new(Self::unclaimed(registry, id), Instant::now()))
    }

    /// Owns nothing.
    fn unclaimed(registry: &'r Registry<T>, id: InterpreterId) -> Self {
        Self { registry, id, slot: 0, number: UNCLAIMED, fenced: Ok(()) }
    }

    /// The interpreter that is closing.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.close(id)?.id(), id);
    /// # Ok::<(), interp_guard::CloseError>(())
    /// ```
    pub fn id(&self) -> InterpreterId {
        self.id
    }

    /// How many guards are out. Never too few, but while [`fence_error`](Self::fence_error) says that earlier lookups cannot be
    /// seen; one that was given up a moment ago may still be counted.
    ///
    /// Context: normal. O(CPUs).
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// assert_eq!(registry.close(id)?.outstanding(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outstanding(&self) -> u64 {
        self.registry.outstanding(self.id).unwrap_or(0)
    }

    /// Did the kernel refuse the fence that makes earlier lookups visible to this thread, or have no memory for it? The error
    /// number, if so.
    /// [`drain`](Self::drain) tries again; until it succeeds, no drain hands the interpreter back.
    ///
    /// ```
    /// # let registry = interp_guard::Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.close(id)?.fence_error(), None);
    /// # Ok::<(), interp_guard::CloseError>(())
    /// ```
    pub fn fence_error(&self) -> Option<i32> {
        self.fenced.err().map(|errno| errno.0)
    }

    /// Waits until no guard is out, takes the interpreter out, retires its ID, and hands it back.
    ///
    /// `timeout` limits the waiting; `None` is without limit, zero looks once. Never proceeds with a guard out.
    ///
    /// To be called detached from the interpreter. While this thread is attached, a guard's holder may be waiting for the
    /// runtime's lock, which nobody here can know: then the wait lasts until the deadline. Of a daemon that is attaching it is
    /// known, and said: `WouldDeadlock`.
    ///
    /// A drain that may wait runs the interpreter's [pending calls](crate::pending) that only its own thread would run.
    ///
    /// Context: normal; blocks, with no lock held; takes as long as the pending calls do that it runs.
    ///
    /// # Errors
    /// [`DrainError`]. The interpreter is closed and otherwise untouched, and the `Closing` is in the error.
    ///
    /// ```
    /// # use interp_guard::{DrainError, Registry};
    /// # use std::time::Duration;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::from_millis(1))).unwrap_err();
    /// assert!(matches!(late, DrainError::Timeout(_)));
    /// drop(guard);
    /// assert_eq!(late.into_closing().drain(None).unwrap(), "an interpreter");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(self, timeout: Option<Duration>) -> Result<T, DrainError<'r, T>> {
        self.drain_with(DrainOptions::new().timeout(timeout))
    }

    /// [`drain`](Self::drain) with an interrupt check or an observer.
    ///
    /// Context: normal; blocks, with no lock held.
    ///
    /// # Errors
    /// As `drain`, and [`DrainError::Interrupted`].
    ///
    /// ```
    /// # use interp_guard::{DrainOptions, Registry};
    /// # use std::ops::ControlFlow;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let mut guard = Some(registry.lookup(id)?);
    /// let let_go = || { guard = None; ControlFlow::Continue(()) };
    /// let options = DrainOptions::new().interrupt(let_go);
    /// assert_eq!(registry.close(id)?.drain_with(options).unwrap(), "an interpreter");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_with(self, options: DrainOptions<'_>) -> Result<T, DrainError<'r, T>> {
        let mut watch = options.start();
        let id = self.id;
        let drained = self.until_drained(&mut watch);
        watch.tell(if drained.is_ok() { Phase::Drained(id) } else { Phase::NotDrained(id) });
        drained?.hand_over(&mut watch)
    }

    /// C2, if it has not succeeded yet, and D0 to D3 until no guard is out. Zero is final: what comes back may be
    /// handed over at any time.
    pub(crate) fn until_drained(mut self, watch: &mut Watch<'_>) -> Result<Self, DrainError<'r, T>> {
        if !self.confirm() {
            return Err(DrainError::Superseded(DrainTimeout::new(self, watch.began)));
        }
        if blockers::this_thread_blocks(self.registry.table(), self.id) {
            return Err(DrainError::WouldDeadlock(DrainTimeout::new(self, watch.began)));
        }
        if self.fenced.is_err() {
            self.fenced = watch.fence(self.registry.table());
            if self.fenced.is_err() {
                let interrupted = matches!(watch.enough(), Some(Enough::Interrupted));
                let refused = if interrupted { DrainError::Interrupted } else { DrainError::FenceFailed };
                return Err(refused(DrainTimeout::new(self, watch.began)));
            }
        }
        while let Some(wake) = self.registry.table().wake(self.slot) {
            let seen = wake.value(); // D0
            pending::run_own(self.registry, self.id, &mut || watch.enough().is_none());
            match self.registry.table().out(self.slot) {
                0 if self.registry.table().seal(self.slot) => break, // D3, G2
                0.. => {}
                _ => return Err(DrainError::Unbalanced(DrainTimeout::new(self, watch.began))),
            }
            let over = watch.enough();
            // Not when the time is over: one call could push the next one for ever.
            let without_limit = watch.is_without_limit();
            let mut may_go_on = || watch.enough().is_none();
            let left = match over {
                None => pending::run_left(self.registry, self.id, without_limit, &mut may_go_on),
                Some(_) => Left::Nothing,
            };
            if left == Left::Ran {
                continue;
            }
            // An interrupt check may let others attach for a moment: with one, nobody can say that they never will.
            if !watch.has_interrupt() && self.registry.table().is_kept_from_attaching_here(self.slot, self.id)
            {
                return Err(DrainError::WouldDeadlock(DrainTimeout::new(self, watch.began)));
            }
            match over {
                None => {}
                Some(Enough::Deadline) => {
                    self.note(|stats| stats.timeouts += 1);
                    return Err(DrainError::Timeout(DrainTimeout::new(self, watch.began)));
                }
                Some(Enough::Interrupted) => {
                    return Err(DrainError::Interrupted(DrainTimeout::new(self, watch.began)));
                }
            }
            wake.wait(seen, watch.next_look(left == Left::ToOthers));
        }
        Ok(self)
    }

    /// Takes the interpreter out and retires its ID. To be called with no guard out.
    pub(crate) fn hand_over(self, watch: &mut Watch<'_>) -> Result<T, DrainError<'r, T>> {
        match self.take() {
            Some(interpreter) => {
                self.note(|stats| stats.drained(watch.began.elapsed()));
                let closing = ManuallyDrop::new(self); // there is nothing left to give back
                watch.tell(Phase::Finalized(closing.id));
                Ok(interpreter)
            }
            None => Err(DrainError::Superseded(DrainTimeout::new(self, watch.began))),
        }
    }

    /// Does this `Closing` own the drain? In a forked child, what was claimed before the fork can be taken up by others, so
    /// it is claimed anew: from here on it cannot.
    fn confirm(&mut self) -> bool {
        let mut book = self.registry.lock();
        let Some(book) = book.as_mut() else { return false };
        let number = if self.number > book.inherited { self.number } else { book.next_closing() };
        let entry = book.entries.get_mut(&self.id).filter(|entry| entry.owner == Some(self.number));
        let Some(entry) = entry else { return false };
        entry.owner = Some(number);
        self.number = number;
        true
    }

    /// It goes into an error of `finalize` or `finalize_all`, or, with `None`, comes out of one. Does it own the drain?
    fn note_error_of(&self, thread: Option<u64>) -> bool {
        let mut book = self.registry.lock();
        let entry = book.as_mut().and_then(|book| book.entries.get_mut(&self.id));
        let Some(entry) = entry.filter(|entry| entry.owner == Some(self.number)) else { return false };
        entry.in_error_of = thread;
        true
    }

    fn note(&self, note: impl FnOnce(&mut Stats)) {
        if let Some(book) = self.registry.lock().as_mut() {
            note(&mut book.stats);
        }
    }

    /// Vacates the slot and retires the ID, if this `Closing` still owns the drain. To be called with no guard out.
    fn take(&self) -> Option<T> {
        // Before it is out of the table, and without the mutex. Should somebody else have taken it up, it is for them.
        known::retire::<T>(self.id);
        let mut book = self.registry.lock();
        let book = book.as_mut()?;
        if book.entries.get(&self.id)?.owner != Some(self.number) {
            return None;
        }
        // SAFETY: (1) the mutex is held; (2) `drain` saw zero after `fenced` was Ok, and sealed the gate.
        let payload = unsafe { self.registry.table().vacate(self.slot, self.id) }?;
        book.entries.remove(&self.id);
        // SAFETY: `insert` boxed it, `vacate` gave it up, and no guard is out: it is exclusively ours. The guards' use
        // of it happened before: X1 (Release) pairs with D1 (Acquire), edge E5.
        Some(*unsafe { Box::from_raw(payload.cast::<T>()) })
    }
}

impl<T: Send + Sync + 'static> Drop for Closing<'_, T> {
    fn drop(&mut self) {
        if let Some(entry) = self.registry.lock().as_mut().and_then(|book| book.entries.get_mut(&self.id))
            && entry.owner == Some(self.number)
        {
            entry.owner = None;
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Closing<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a drain that did not finish leaves behind: a report, and the [`Closing`] to go on with.
///
/// Displayed, it is the report.
pub struct DrainTimeout<'r, T: Send + Sync + 'static> {
    closing: Closing<'r, T>,
    report: Box<Report>,
}

/// How things stood when a drain gave up.
struct Report {
    waited: Duration,
    holders: Holders,
    pending: Vec<Waiting>,
}

impl<'r, T: Send + Sync + 'static> DrainTimeout<'r, T> {
    fn new(closing: Closing<'r, T>, began: Instant) -> Self {
        let waited = began.elapsed();
        let (outstanding, attaching) = closing.registry.in_its_way(closing.id).unwrap_or_default();
        let holders = Holders::of(closing.registry.table(), closing.id, outstanding, attaching);
        let pending = closing.registry.lock().as_ref().map_or_else(Vec::new, |book| book.waiting(closing.id));
        Self { closing, report: Box::new(Report { waited, holders, pending }) }
    }

    /// Gives the `Closing` back, to wait again.
    ///
    /// Where [`Registry::finalize`] said [`WouldDeadlock`](DrainError::WouldDeadlock) there is none, since the interpreter
    /// was left as it was; then this closes it. Nor is there one where the same thread has called `finalize` or `finalize_all`
    /// again, which took it up; then this takes up what that left. If somebody else has the interpreter by then, or it is gone,
    /// the `Closing` owns nothing, and its drain says [`Superseded`](DrainError::Superseded) at once.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// drop(guard);
    /// assert!(late.into_timeout().into_closing().drain(None).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_closing(self) -> Closing<'r, T> {
        if self.closing.note_error_of(None) {
            return self.closing;
        }
        let claimed = Closing::begin(self.closing.registry, self.closing.id, TakeUp::Left);
        claimed.unwrap_or(self.closing)
    }

    /// The pending queues in which calls of the interpreter waited when the drain gave up.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// let waiting = &late.timeout().pending()[0];
    /// assert_eq!((waiting.calls, waiting.served), (1, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pending(&self) -> &[Waiting] {
        &self.report.pending
    }

    /// How many threads were attaching as daemons when the drain gave up. They hold no guard; a drain waits until they are
    /// attached.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// assert_eq!(late.timeout().attaching(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attaching(&self) -> u64 {
        self.report.holders.attaching()
    }

    /// How many guards were out when the drain gave up.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// assert_eq!(late.timeout().outstanding(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outstanding(&self) -> u64 {
        self.report.holders.outstanding()
    }

    /// Who holds them, as far as the ledger knows.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// let registry = Registry::new().ledger(true);
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// for holder in late.timeout().holders() {
    ///     println!("thread {} has held one for {:?}", holder.thread_name, holder.age);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn holders(&self) -> &Holders {
        &self.report.holders
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for DrainTimeout<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainTimeout")
            .field("id", &self.closing.id)
            .field("outstanding", &self.outstanding())
            .field("waited", &self.report.waited)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> fmt::Display for DrainTimeout<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guards = if self.outstanding() == 1 { "guard is" } else { "guards are" };
        let (id, out, waited) = (self.closing.id, self.outstanding(), self.report.waited.as_secs_f64());
        writeln!(f, "interpreter {id}: {out} {guards} out after {waited:.3} s of draining")?;
        self.report.holders.fmt(f)?;
        self.report.pending.iter().try_for_each(|waiting| write!(f, "\n  {waiting}"))
    }
}

impl<T: Send + Sync + 'static> Error for DrainTimeout<'_, T> {}

/// Why a drain handed nothing back. The interpreter is closed and otherwise untouched.
#[non_exhaustive]
pub enum DrainError<'r, T: Send + Sync + 'static> {
    /// The deadline passed with guards out.
    Timeout(DrainTimeout<'r, T>),
    /// The interrupt check of [`DrainOptions`] ended the waiting with guards out.
    Interrupted(DrainTimeout<'r, T>),
    /// The calling thread itself is what the drain would wait for: it is inside an ensure or a pending call of the interpreter; or
    /// it is attached to it, and a daemon is attaching. Release, return or detach, and try again.
    WouldDeadlock(DrainTimeout<'r, T>),
    /// More guards were given up than taken: somewhere a guard was released twice, and nobody can say whether one is
    /// still out.
    Unbalanced(DrainTimeout<'r, T>),
    /// The kernel refuses the fence that makes lookups of other threads visible to this one. A want of memory
    /// ([`fence_error`](Closing::fence_error) says `ENOMEM`) may pass: it is waited out until the deadline, but for a second at
    /// most. A later drain tries again.
    FenceFailed(DrainTimeout<'r, T>),
    /// Somebody else has taken this drain up meanwhile: another `finalize` of the thread that got the error in which it was; or, in
    /// a forked child, where what belonged to threads that are gone can be taken up.
    Superseded(DrainTimeout<'r, T>),
}

impl<'r, T: Send + Sync + 'static> DrainError<'r, T> {
    /// As `finalize` and `finalize_all` give it to the calling thread, which may try again while it has the error.
    pub(crate) fn for_finalize(self) -> FinalizeError<'r, T> {
        self.timeout().closing.note_error_of(Some(threads::number()));
        FinalizeError::Drain(self)
    }

    fn parts(&self) -> (&'static str, &'static str, &DrainTimeout<'r, T>) {
        match self {
            Self::Timeout(timeout) => ("Timeout", "the drain timed out", timeout),
            Self::Interrupted(timeout) => ("Interrupted", "the drain was interrupted", timeout),
            Self::WouldDeadlock(timeout) => {
                ("WouldDeadlock", "the drain would wait for its own thread", timeout)
            }
            Self::Unbalanced(timeout) => ("Unbalanced", "more guards were released than taken", timeout),
            Self::FenceFailed(timeout) => ("FenceFailed", "the kernel refuses the memory barrier", timeout),
            Self::Superseded(timeout) => ("Superseded", "somebody else has taken the drain up", timeout),
        }
    }

    /// The report, and what the error has in it.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// println!("{}", late.timeout());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(&self) -> &DrainTimeout<'r, T> {
        self.parts().2
    }

    /// What the error has in it, by value.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// assert_eq!(late.into_timeout().outstanding(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_timeout(self) -> DrainTimeout<'r, T> {
        match self {
            Self::Timeout(timeout)
            | Self::Interrupted(timeout)
            | Self::WouldDeadlock(timeout)
            | Self::Unbalanced(timeout)
            | Self::FenceFailed(timeout)
            | Self::Superseded(timeout) => timeout,
        }
    }

    /// The `Closing`, to wait again.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// drop(guard);
    /// assert!(late.into_closing().drain(None).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_closing(self) -> Closing<'r, T> {
        self.into_timeout().into_closing()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for DrainError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _, timeout) = self.parts();
        f.debug_tuple(name).field(timeout).finish()
    }
}

impl<T: Send + Sync + 'static> fmt::Display for DrainError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, what, timeout) = self.parts();
        match self {
            // Without a fence, or in somebody else's hands, nobody here can say what is out.
            Self::FenceFailed(_) | Self::Superseded(_) => {
                write!(f, "interpreter {}: {what}", timeout.closing.id)
            }
            _ => write!(f, "{what}: {timeout}"),
        }
    }
}

impl<T: Send + Sync + 'static> Error for DrainError<'_, T> {}

/// Why an interpreter was not finalized.
pub enum FinalizeError<'r, T: Send + Sync + 'static> {
    /// No interpreter has this ID: it was never registered, or it has been finalized.
    NotFound,
    /// Somebody else holds the [`Closing`] of this interpreter, or an error with one in it.
    AlreadyClosing,
    /// It was closed, and the drain did not finish.
    Drain(DrainError<'r, T>),
}

impl<T: Send + Sync + 'static> From<CloseError> for FinalizeError<'_, T> {
    fn from(refused: CloseError) -> Self {
        match refused {
            CloseError::NotFound => Self::NotFound,
            CloseError::AlreadyClosing => Self::AlreadyClosing,
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for FinalizeError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("NotFound"),
            Self::AlreadyClosing => f.write_str("AlreadyClosing"),
            Self::Drain(error) => f.debug_tuple("Drain").field(error).finish(),
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Display for FinalizeError<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => CloseError::NotFound.fmt(f),
            Self::AlreadyClosing => CloseError::AlreadyClosing.fmt(f),
            Self::Drain(error) => error.fmt(f),
        }
    }
}

impl<T: Send + Sync + 'static> Error for FinalizeError<'_, T> {}
