//! A guard and a view as one tagged word, dressed as pointers: nothing is allocated, so both can be made in a signal
//! handler.
//!
//! ```text
//! guard            : generation << 32 | slot << 2 | 1
//! guard, recorded  : ticket << 2 | 3                      with the ledger on; the rest is in `RECORDED`
//! view             : id << 2 | 2
//! ```
//!
//! Never null, and one passed for the other is noticed.

use crate::ground::registry::{Interpreter, REGISTRY};
use interp_guard::raw::{GuardParts, LEDGER_ENTRIES, OverRelease};
use interp_guard::{Guard, InterpreterId};
use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

const TAG: u64 = 3;
const TAG_BITS: u32 = 2;
const GUARD: u64 = 1;
const VIEW: u64 = 2;
const RECORDED_GUARD: u64 = 3;

/// What there is to know of a guard that the ledger recorded.
struct Recorded {
    ticket: AtomicU64,
    /// `generation << 32 | slot`
    rest: AtomicU64,
}

/// Of each recorded guard, by its place in the ledger, which is its own while it exists.
static RECORDED: [Recorded; LEDGER_ENTRIES] =
    [const { Recorded { ticket: AtomicU64::new(0), rest: AtomicU64::new(0) } }; LEDGER_ENTRIES];

fn recorded(ticket: u64) -> &'static Recorded {
    &RECORDED[ticket as usize % LEDGER_ENTRIES]
}

/// A guard as plain data. Whoever has it owes one [`GuardWord::into_guard`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct GuardWord(NonZeroU64);

impl GuardWord {
    #[inline]
    pub fn new(guard: Guard<'static, Interpreter>) -> Self {
        let parts = guard.into_raw().into_parts();
        let generation = u64::from(parts.generation) << 32;
        let bits = match parts.ticket {
            // A registry has at most 2^21 slots.
            0 => generation | u64::from(parts.slot) << TAG_BITS | GUARD,
            ticket => {
                // Relaxed: whoever gets the word from this thread gets it by a synchronisation of its own.
                recorded(ticket).ticket.store(ticket, Ordering::Relaxed);
                recorded(ticket).rest.store(generation | u64::from(parts.slot), Ordering::Relaxed);
                ticket << TAG_BITS | RECORDED_GUARD
            }
        };
        Self(NonZeroU64::MIN | bits)
    }

    /// The word that has this number, if a guard can have it.
    #[inline]
    pub fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).filter(|bits| matches!(bits.get() & TAG, GUARD | RECORDED_GUARD)).map(Self)
    }

    #[inline]
    pub fn bits(self) -> u64 {
        self.0.get()
    }

    /// The slot and the fork generation of the guard whose word has this number, if it has them in it: not if it is recorded.
    #[inline(always)]
    pub fn place(bits: u64) -> Option<(u32, u32)> {
        (bits & TAG == GUARD).then_some((bits as u32 >> TAG_BITS, (bits >> 32) as u32))
    }

    /// The guard, to give up.
    ///
    /// # Safety
    /// The word came from [`GuardWord::new`] and its guard was not given up since; or it is recorded: then the ledger
    /// knows.
    #[inline]
    pub unsafe fn into_guard(self) -> Guard<'static, Interpreter> {
        // The registry finds a guard's interpreter by its slot. The ID would be written down with a clone of the guard; this
        // one is not cloned.
        let Ok(id) = InterpreterId::try_from(0) else { unreachable!("0 is an ID") };
        // SAFETY: the caller's promise, but for the ID; see above.
        unsafe { self.into_guard_of(id) }
    }

    /// The same, with its ID.
    ///
    /// # Safety
    /// As for [`GuardWord::into_guard`].
    #[inline]
    unsafe fn into_guard_of(self, id: InterpreterId) -> Guard<'static, Interpreter> {
        // SAFETY: the caller's promise.
        unsafe { REGISTRY.guard_from_parts(self.parts(id)) }
    }

    /// Gives the guard up.
    ///
    /// # Safety
    /// As for [`GuardWord::into_guard`].
    ///
    /// # Errors
    /// [`OverRelease`] if the ledger knows that it was given up before.
    #[inline(always)]
    pub unsafe fn give_up(self) -> Result<(), OverRelease> {
        #[cold]
        #[inline(never)]
        unsafe fn give_up_recorded(word: GuardWord) -> Result<(), OverRelease> {
            // SAFETY: the caller's promise.
            unsafe { word.into_guard() }.into_raw().release()
        }
        if self.bits() & TAG == GUARD {
            // SAFETY: the caller's promise.
            return unsafe { self.into_guard() }.into_raw().release();
        }
        // SAFETY: the caller's promise.
        unsafe { give_up_recorded(self) }
    }

    /// The guard, to look at and to clone; not given up. `None` if it was taken before a fork, and protects nothing here.
    ///
    /// # Safety
    /// The word came from [`GuardWord::new`] and its guard was not given up since.
    #[inline]
    pub unsafe fn borrow(self) -> Option<ManuallyDrop<Guard<'static, Interpreter>>> {
        if self.bits() & TAG == RECORDED_GUARD {
            let ticket = self.bits() >> TAG_BITS;
            // Relaxed: as in `new`. Where a child has given the place to another guard, what is there is that one's.
            if recorded(ticket).ticket.load(Ordering::Relaxed) != ticket {
                return None;
            }
        }
        // SAFETY: the caller's promise; taken apart again below, so not given up.
        let raw = unsafe { self.into_guard() }.into_raw();
        let is_counted = raw.is_counted();
        raw.into_parts();
        if !is_counted {
            return None;
        }
        // SAFETY: as above; never dropped.
        let guard = ManuallyDrop::new(unsafe { self.into_guard() });
        // SAFETY: as above.
        Some(ManuallyDrop::new(unsafe { self.into_guard_of(guard.id) }))
    }

    #[inline(always)]
    fn parts(self, id: InterpreterId) -> GuardParts {
        let (place, ticket) = match self.bits() & TAG {
            RECORDED_GUARD => {
                let ticket = self.bits() >> TAG_BITS;
                // Relaxed: as in `new`.
                (recorded(ticket).rest.load(Ordering::Relaxed), ticket)
            }
            _ => (self.bits() & !0xFFFF_FFFF | (self.bits() & 0xFFFF_FFFF) >> TAG_BITS, 0),
        };
        GuardParts { id, slot: place as u32, generation: (place >> 32) as u32, ticket }
    }
}

/// A guard as one word, which gives the guard up when it is dropped.
#[repr(transparent)]
pub struct Held(GuardWord);

impl Held {
    #[inline(always)]
    pub fn new(guard: Guard<'static, Interpreter>) -> Self {
        Self(GuardWord::new(guard))
    }

    /// What was left to whoever has its word.
    ///
    /// # Safety
    /// As for [`GuardWord::into_guard`].
    pub unsafe fn again(word: GuardWord) -> Self {
        Self(word)
    }

    /// The guard's word.
    pub fn bits(&self) -> u64 {
        self.0.bits()
    }

    /// Leaves the guard to whoever has its word.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: from `new`, and not given up before.
        let _ = unsafe { self.0.give_up() };
    }
}

/// A view as plain data.
#[derive(Clone, Copy)]
pub struct ViewWord(u64);

impl ViewWord {
    pub fn new(id: InterpreterId) -> Self {
        Self((i64::from(id) as u64) << TAG_BITS | VIEW)
    }

    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits & TAG == VIEW).then_some(Self(bits))
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn id(self) -> Option<InterpreterId> {
        InterpreterId::try_from((self.0 >> TAG_BITS) as i64).ok()
    }
}
