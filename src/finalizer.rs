//! Closing an interpreter, draining its guards, handing it back.
//!
//! A drain sums the counters and, while guards are out, sleeps on the slot's wake word. No lock is held meanwhile: a
//! guard's holder may be registering. Zero is final (`signal_safe::counters`, N2): after close only a holder can add.

use crate::registry::{CloseError, Registry};
use crate::signal_safe::sys::Errno;
use crate::signal_safe::word::InterpreterId;
use std::error::Error;
use std::fmt;
use std::mem::ManuallyDrop;
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
    fenced: Result<(), Errno>,
}

impl<'r, T: Send + Sync + 'static> Closing<'r, T> {
    /// C1 and C2, or, with `take_up`, taking up what somebody else has closed and left.
    pub(crate) fn begin(
        registry: &'r Registry<T>,
        id: InterpreterId,
        take_up: bool,
    ) -> Result<Self, CloseError> {
        let (slot, number) = {
            let mut book = registry.lock();
            let book = book.as_mut().ok_or(CloseError::NotFound)?;
            let number = book.next_closing();
            let entry = book.entries.get_mut(&id).ok_or(CloseError::NotFound)?;
            let closing = registry.table().is_closing(entry.slot);
            if entry.owner.is_some() || closing && !take_up {
                return Err(CloseError::AlreadyClosing);
            }
            if !closing {
                // SAFETY: (1) the mutex is held; (2) the book has `id` in this slot, and it is not closing.
                unsafe { registry.table().begin_close(entry.slot, id) };
            }
            entry.owner = Some(number);
            (entry.slot, number)
        };
        let fenced = registry.table().heavy_fence();
        Ok(Self { registry, id, slot, number, fenced })
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

    /// How many guards are out. Never too few; one that was given up a moment ago may still be counted.
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
        self.registry.table().out(self.slot).try_into().unwrap_or(0)
    }

    /// Did the kernel refuse the fence that makes earlier lookups visible to this thread? The error number, if so.
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
    /// Context: normal; blocks, with no lock held.
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
    pub fn drain(mut self, timeout: Option<Duration>) -> Result<T, DrainError<'r, T>> {
        let began = Instant::now();
        let deadline = timeout.and_then(Deadline::after);
        if self.fenced.is_err() {
            self.fenced = self.registry.table().heavy_fence();
            if self.fenced.is_err() {
                return Err(DrainError::FenceFailed(DrainTimeout::new(self, began)));
            }
        }
        while !cfg!(interp_guard_inject = "no_drain") {
            let Some(wake) = self.registry.table().wake(self.slot) else { break };
            let seen = wake.value(); // D0
            match self.registry.table().out(self.slot) {
                0 => break, // D3
                1.. => {}
                _ => return Err(DrainError::Unbalanced(DrainTimeout::new(self, began))),
            }
            if deadline.as_ref().is_some_and(Deadline::has_passed) {
                return Err(DrainError::Timeout(DrainTimeout::new(self, began)));
            }
            wake.wait(seen, deadline.as_ref().map(|deadline| deadline.0));
        }
        match self.take() {
            Some(interpreter) => {
                let _ = ManuallyDrop::new(self); // there is nothing left to give back
                Ok(interpreter)
            }
            None => Err(DrainError::Superseded(DrainTimeout::new(self, began))),
        }
    }

    /// Vacates the slot and retires the ID, if this `Closing` still owns the drain. To be called with no guard out.
    fn take(&self) -> Option<T> {
        let mut book = self.registry.lock();
        let book = book.as_mut()?;
        if book.entries.get(&self.id)?.owner != Some(self.number) {
            return None;
        }
        // SAFETY: (1) the mutex is held; (2) `drain` saw zero after `fenced` was Ok.
        let payload = unsafe { self.registry.table().vacate(self.slot, self.id) }?;
        book.entries.remove(&self.id);
        // SAFETY: `insert` boxed it, `vacate` gave it up, and no guard is out: it is exclusively ours. The guards' use
        // of it happened before: X1 (Release) pairs with D1 (Acquire).
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

/// A point on the monotonic clock, as the futex call takes it.
struct Deadline(libc::timespec);

impl Deadline {
    /// `None` if that point is beyond what the clock can say: no limit.
    fn after(timeout: Duration) -> Option<Self> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid timespec to write to; the monotonic clock exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
        let seconds = i64::try_from(timeout.as_secs()).ok()?;
        let tv_sec = now.tv_sec.checked_add(seconds)?.checked_add(nanos / 1_000_000_000)?;
        Some(Self(libc::timespec { tv_sec, tv_nsec: nanos % 1_000_000_000 }))
    }

    fn has_passed(&self) -> bool {
        Self::after(Duration::ZERO)
            .is_some_and(|now| (now.0.tv_sec, now.0.tv_nsec) >= (self.0.tv_sec, self.0.tv_nsec))
    }
}

/// What a drain that did not finish leaves behind: a report, and the [`Closing`] to go on with.
///
/// Displayed, it is the report.
pub struct DrainTimeout<'r, T: Send + Sync + 'static> {
    closing: Closing<'r, T>,
    outstanding: u64,
    waited: Duration,
}

impl<'r, T: Send + Sync + 'static> DrainTimeout<'r, T> {
    fn new(closing: Closing<'r, T>, began: Instant) -> Self {
        Self { outstanding: closing.outstanding(), closing, waited: began.elapsed() }
    }

    /// Gives the `Closing` back, to wait again.
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
        self.closing
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
        self.outstanding
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for DrainTimeout<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainTimeout")
            .field("id", &self.closing.id)
            .field("outstanding", &self.outstanding)
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> fmt::Display for DrainTimeout<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guards = if self.outstanding == 1 { "guard is" } else { "guards are" };
        write!(
            f,
            "interpreter {}: {} {guards} out after {:.3} s of draining",
            self.closing.id,
            self.outstanding,
            self.waited.as_secs_f64()
        )
    }
}

/// Why a drain handed nothing back. The interpreter is closed and otherwise untouched.
#[non_exhaustive]
pub enum DrainError<'r, T: Send + Sync + 'static> {
    /// The deadline passed with guards out.
    Timeout(DrainTimeout<'r, T>),
    /// The calling thread itself is what the drain would wait for.
    WouldDeadlock(DrainTimeout<'r, T>),
    /// More guards were given up than taken: somewhere a guard was released twice, and nobody can say whether one is
    /// still out.
    Unbalanced(DrainTimeout<'r, T>),
    /// The kernel refuses the fence that makes lookups of other threads visible to this one.
    FenceFailed(DrainTimeout<'r, T>),
    /// Somebody else has taken this drain up meanwhile: in a forked child, what belonged to threads that are gone can
    /// be.
    Superseded(DrainTimeout<'r, T>),
}

impl<'r, T: Send + Sync + 'static> DrainError<'r, T> {
    fn parts(&self) -> (&'static str, &'static str, &DrainTimeout<'r, T>) {
        match self {
            Self::Timeout(timeout) => ("Timeout", "timed out", timeout),
            Self::WouldDeadlock(timeout) => ("WouldDeadlock", "would wait for its own thread", timeout),
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
        write!(f, "the drain {what}: {timeout}")
    }
}

impl<T: Send + Sync + 'static> Error for DrainError<'_, T> {}

/// Why an interpreter was not finalized.
pub enum FinalizeError<'r, T: Send + Sync + 'static> {
    /// No interpreter has this ID: it was never registered, or it has been finalized.
    NotFound,
    /// Somebody else holds the [`Closing`] of this interpreter.
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
