//! The right to drain: who gets it, and who has it.

use super::on_close::run_on_close;
use crate::events;
use crate::registry::{Book, CloseError, OnClose, Registry, Stats, known};
use crate::signal_safe::ledger::Ledger;
use crate::signal_safe::sys::Errno;
use crate::signal_safe::word::InterpreterId;
use crate::threads;
use std::fmt;

/// The right to drain an interpreter that gives out no more guards.
///
/// Dropping it leaves the interpreter closed and free to be taken up: the next [`Registry::close`] or
/// [`Registry::finalize`] gets it.
#[must_use = "the interpreter stays closed, and somebody has to drain it"]
pub struct Closing<'r, T: Send + Sync + 'static> {
    pub(super) registry: &'r Registry<T>,
    pub(super) id: InterpreterId,
    pub(super) slot: u32,
    /// The number under which the book knows this `Closing`.
    number: u64,
    /// Has a heavy fence succeeded since the interpreter was closed? Until then the sums mean nothing.
    pub(super) fenced: Result<(), Errno>,
}

/// A `Closing` to begin with, and what is left to whoever claimed it, in this order, with the mutex released: C2, the word to
/// operators, and the callbacks.
pub(super) struct Claim<'r, T: Send + Sync + 'static> {
    pub closing: Closing<'r, T>,
    pub on_close: Vec<(InterpreterId, OnClose)>,
    /// Was it closed by this claim?
    pub was_live: bool,
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

impl<'r, T: Send + Sync + 'static> Closing<'r, T> {
    /// Closes the interpreter (C1), or takes up what is closed.
    pub(super) fn claim(
        registry: &'r Registry<T>,
        book: &mut Book,
        id: InterpreterId,
        take_up: TakeUp,
    ) -> Result<Claim<'r, T>, CloseError> {
        if Self::is_taken(registry, book, id, take_up).ok_or(CloseError::NotFound)? {
            return Err(CloseError::AlreadyClosing);
        }
        let number = book.next_closing();
        let entry = book.entries.get_mut(&id).ok_or(CloseError::NotFound)?;
        let was_live = !registry.table().is_closing(entry.slot);
        if was_live {
            // SAFETY: (1) the mutex is held; (2) the book has `id` in this slot, and it is not closing.
            unsafe { registry.table().begin_close(entry.slot, id) };
            book.stats.closings += 1;
        }
        (entry.owner, entry.in_error_of) = (Some(number), None);
        let slot = entry.slot;
        let on_close = std::mem::take(&mut entry.on_close).into_iter().rev().map(|f| (id, f)).collect();
        // Who serves a queue has been woken by each push; in case they were waiting for something else.
        book.queues().for_each(|queue| queue.wake());
        let not_yet = Err(Errno(libc::EINPROGRESS));
        let closing = Self { registry, id, slot, number, fenced: not_yet };
        Ok(Claim { closing, on_close, was_live })
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

    /// Closes, makes earlier lookups visible, and calls who wanted to be told (C1, C2).
    pub(crate) fn begin(
        registry: &'r Registry<T>,
        id: InterpreterId,
        take_up: TakeUp,
    ) -> Result<Self, CloseError> {
        let claimed = {
            let mut book = registry.lock();
            Self::claim(registry, book.as_mut().ok_or(CloseError::NotFound)?, id, take_up)
        };
        let Claim { mut closing, on_close, was_live } = claimed?;
        closing.fenced = registry.table().heavy_fence();
        if was_live {
            closing.tell_closed();
        }
        run_on_close(on_close);
        Ok(closing)
    }

    /// Tells operators. No lock is held.
    pub(super) fn tell_closed(&self) {
        if events::ON {
            self.tell_released_twice();
            events::closed(self.id, self.registry.name(self.id).as_deref(), self.outstanding());
        }
    }

    /// Tells operators what the ledger, wherever that was, has found since they were told last: of any interpreter.
    pub(super) fn tell_released_twice(&self) {
        let twice = if events::ON { self.registry.table().ledger() } else { None };
        match twice.map_or(0, Ledger::take_twice) {
            0 => {}
            times => events::released_twice(times),
        }
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

    /// Does this `Closing` own the drain? In a forked child, what was claimed before the fork can be taken up by others, so
    /// it is claimed anew: from here on it cannot.
    pub(super) fn confirm(&mut self) -> bool {
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
    pub(super) fn note_error_of(&self, thread: Option<u64>) -> bool {
        let mut book = self.registry.lock();
        let entry = book.as_mut().and_then(|book| book.entries.get_mut(&self.id));
        let Some(entry) = entry.filter(|entry| entry.owner == Some(self.number)) else { return false };
        entry.in_error_of = thread;
        true
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Stats)) {
        if let Some(book) = self.registry.lock().as_mut() {
            note(&mut book.stats);
        }
    }

    /// Vacates the slot and retires the ID, if this `Closing` still owns the drain. To be called with no guard out.
    pub(super) fn take(&self) -> Option<T> {
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
