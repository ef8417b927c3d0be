//! The head of the table and what it points to: slots, counters, ledger; how it is published.

use super::super::counters::{Counters, Side, Stripes};
use super::super::gate::Gate;
use super::super::ledger::{Ledger, Site, Ticket};
use super::super::state::State;
use super::super::sync::{self, Atomic, AtomicPtr, Ordering};
use super::super::wake::Wake;
use super::super::word::{InterpreterId, Word};
use super::hash::home;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// One place in the table. Zero-filled memory is a vacant slot.
#[derive(Default)]
#[repr(C, align(32))]
pub struct Slot {
    pub(super) word: Atomic<Word>,
    pub(super) payload: AtomicPtr<()>,
    pub(super) wake: Wake,
    /// Of the IDs whose *home* this slot is: see T2.
    pub(super) displacement: Atomic<u32>,
    pub(super) gate: Gate,
}

/// The head of the table: everything that a lookup reads besides one slot and one counter line, on one cache line. A
/// second line has what only a recorded guard needs.
#[repr(C, align(64))]
pub struct Table {
    /// Null until published (T4).
    slots: AtomicPtr<Slot>,
    /// How many slots and stripes there are, how guards are counted, whether they are recorded; the fork generation.
    pub(super) state: Atomic<State>,
    stripes: UnsafeCell<MaybeUninit<Stripes>>,
    /// The main interpreter's word, or Vacant.
    pub(super) main: Atomic<Word>,
    /// Null if guards are not recorded. Fixed before the table is published (T4).
    ledger: AtomicPtr<Ledger>,
    /// Which of the process's tables this is: never another's, while its address may be.
    serial: Atomic<u64>,
    /// A [`Blocks`](super::Blocks); null until a thread without a guard has attached.
    pub(super) blocks: AtomicPtr<()>,
}

// SAFETY: everything but `stripes` is atomic; `stripes` is written once, before the Release store to `slots`, and
// read only after an Acquire load of `slots` saw it (T4).
unsafe impl Sync for Table {}
// SAFETY: `slots` points to memory that is not tied to a thread; the rest is plain data.
unsafe impl Send for Table {}
// A panic leaves it consistent: nothing of the caller's runs while it is being changed.
impl core::panic::RefUnwindSafe for Table {}

/// A published table: slots, state and counters, readable.
#[derive(Clone, Copy)]
pub(super) struct Mapped<'t> {
    slots: NonNull<Slot>,
    pub state: State,
    pub stripes: &'t Stripes,
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    sync::const_fn! {
        /// A table in which nothing was ever registered: every lookup says `NotFound`.
        pub fn new() -> Self {
            Self {
                slots: AtomicPtr::new(core::ptr::null_mut()),
                state: Atomic::new(State::UNPUBLISHED),
                stripes: UnsafeCell::new(MaybeUninit::uninit()),
                main: Atomic::new(Word::VACANT),
                ledger: AtomicPtr::new(core::ptr::null_mut()),
                serial: Atomic::new(0),
                blocks: AtomicPtr::new(core::ptr::null_mut()),
            }
        }
    }

    /// Makes the table usable. Until then, readers see an empty one.
    ///
    /// # Safety
    /// 1. Called once, by one thread.
    /// 2. `slots` points to `state.mask() + 1` slots, all vacant, and `stripes` and `state` describe counters for as many, all
    ///    zero; both live until this `Table` is dropped.
    /// 3. The requirements of [`Stripes::add`] hold.
    pub unsafe fn publish(&self, slots: NonNull<Slot>, stripes: Stripes, state: State) {
        // SAFETY: by (1) nobody else writes, and nobody reads before the store below (T4).
        unsafe { (*self.stripes.get()).write(stripes) };
        // Relaxed: made visible by the store below (T4).
        let state = state.with_records(self.ledger().is_some()).with_generation(self.generation());
        self.state.store(state, Ordering::Relaxed);
        // Release: pairs with the Acquire in `mapped` (edge E1).
        self.slots.store(slots.as_ptr(), Ordering::Release);
    }

    /// Has guards recorded from now on.
    ///
    /// # Safety
    /// 1. The table is not published, and no other thread publishes it or attaches a ledger.
    /// 2. `ledger` is empty and lives until this `Table` is dropped.
    pub unsafe fn attach_ledger(&self, ledger: NonNull<Ledger>) {
        // Relaxed: made visible by the Release in `publish` (T4), which also notes it in the state.
        self.ledger.store(ledger.as_ptr(), Ordering::Relaxed);
    }

    /// Another head on the same memory, with the same serial number: for whoever has to [`enter`](Self::enter) it and cannot
    /// borrow this one, which may be moved meanwhile. `None` if this one is not published.
    ///
    /// # Safety
    /// 1. The memory behind the table lives until the other head is dropped, too.
    /// 2. No guard is taken through the other head: it does not hear of a fork.
    pub unsafe fn another_head(&self) -> Option<Self> {
        let mapped = self.mapped()?;
        let head = Self::new();
        head.set_serial(self.serial());
        // SAFETY: (1) nobody else knows it; (2) whoever published this one promised the same of its slots and counters,
        // (1) of ours that they live, and that they are in use is nothing to a head; (3) as promised then.
        unsafe { head.publish(mapped.slots, *mapped.stripes, mapped.state) };
        Some(head)
    }

    #[inline(always)]
    pub(super) fn mapped(&self) -> Option<Mapped<'_>> {
        // Acquire: pairs with the Release in `publish` (T4, edge E1).
        let slots = NonNull::new(self.slots.load(Ordering::Acquire))?;
        // SAFETY: non-null, so `publish` has initialised `stripes`, which nobody writes again (T4).
        let stripes = unsafe { (*self.stripes.get()).assume_init_ref() };
        Some(Mapped { slots, state: self.state(), stripes })
    }

    /// The same without a test, for whoever has a guard.
    ///
    /// # Safety
    /// The table is published, and the caller knows it: a guard of this table exists.
    #[inline(always)]
    pub(super) unsafe fn mapped_for_guard(&self, state: State) -> Mapped<'_> {
        // Relaxed: the lookup that made the guard was the Acquire, and whoever handed the guard over synchronised.
        let slots = self.slots.load(Ordering::Relaxed);
        // SAFETY: published, so `slots` is not null and `stripes` is initialised; nobody writes either again (T4).
        unsafe {
            Mapped {
                slots: NonNull::new_unchecked(slots),
                state,
                stripes: (*self.stripes.get()).assume_init_ref(),
            }
        }
    }

    #[inline(always)]
    pub(in super::super) fn state(&self) -> State {
        // Relaxed: the generation is changed only by the single thread of a forked child, before it can be in here; the
        // rest by nobody since the table was published (T4).
        self.state.load(Ordering::Relaxed)
    }

    /// Which of the process's tables this is.
    pub fn serial(&self) -> u64 {
        // Relaxed: stored before the first registration, and so before anything that leads here.
        self.serial.load(Ordering::Relaxed)
    }

    /// Numbers this table. Once, before the first registration.
    pub fn set_serial(&self, serial: u64) {
        // Relaxed: as in `serial`.
        self.serial.store(serial, Ordering::Relaxed);
    }

    /// Writes down a guard that was counted.
    ///
    /// Context: any, async-signal-safe, wait-free.
    #[cold]
    #[inline(never)]
    pub(in super::super) fn record(&self, id: InterpreterId, site: Site, generation: u32) -> Ticket {
        self.ledger().map_or(Ticket::NONE, |ledger| ledger.record(id, site, generation))
    }

    /// The ledger, if guards are recorded.
    pub fn ledger(&self) -> Option<&Ledger> {
        // Relaxed: fixed before the table was published, which whoever records came after (T4).
        let ledger = self.ledger.load(Ordering::Relaxed);
        // SAFETY: null, or live as long as this table by `attach_ledger` (2); everything in it is atomic.
        unsafe { ledger.as_ref() }
    }

    /// How guards are counted, once published.
    pub fn counters(&self) -> Option<Counters> {
        self.mapped().map(|mapped| mapped.state.counters())
    }
}

impl<'t> Mapped<'t> {
    /// Where the probe for `id` begins.
    #[inline(always)]
    pub fn home(self, id: InterpreterId) -> u32 {
        home(id.bits(), self.state.hash_shift())
    }

    /// The slot `distance` after `from`, round the end of the table.
    #[inline(always)]
    pub fn at(self, from: u32, distance: u32) -> u32 {
        from.wrapping_add(distance) & self.state.mask()
    }

    #[inline(always)]
    pub fn slot(self, at: u32) -> &'t Slot {
        debug_assert!(at <= self.state.mask());
        // SAFETY: every `at` in the core comes from `home`, `at` or a loop over the mask, or from a guard or writer who
        // got it from there; so it is at most the mask, and the slots live with the table (T5).
        unsafe { self.slots.add(at as usize).as_ref() }
    }

    #[inline(always)]
    pub fn add(self, at: u32, side: Side) {
        // SAFETY: (1) `at` is a slot, as in `slot`, and the counters live with the table (T5); (2) promised to `publish`.
        unsafe { self.stripes.add(self.state, at, side) };
    }
}

sync::layout! {
    // Two slots share a line; the head that a lookup reads is one line.
    static_assertions::const_assert_eq!(size_of::<Slot>(), 32);
    static_assertions::const_assert!(core::mem::offset_of!(Table, main) + size_of::<u64>() <= 64);
    // Lock-free, each by one instruction.
    static_assertions::const_assert!(Atomic::<Word>::is_lock_free());
    static_assertions::const_assert!(Atomic::<u64>::is_lock_free());
    static_assertions::const_assert!(Atomic::<u32>::is_lock_free());
}
static_assertions::assert_impl_all!(Table: Send, Sync);
