//! The table: a fixed number of slots, open addressing, linear probing, bounded for hits and misses.
//!
//! # States of a slot
//!
//! ```text
//! Vacant --publish--> Live(id) --begin_close--> Closing(id) --vacate--> Vacant
//! ```
//!
//! Readers run in any context and only load. The four transitions are made by writers, in normal context, one at a time:
//! the registry's mutex is held. Entries never move, and readers never stop at a vacant slot, so there are no
//! tombstones and nothing to rehash.
//!
//! # Invariants
//!
//! - **T1** An ID is in at most one slot at a time, and never in a second one later: IDs are not reused.
//! - **T2** `slots[h].displacement` is at least the distance from `h` of every Live or Closing entry whose home is `h`.
//!   It is raised before such an entry is published and lowered only after one is vacated. So a reader who loads it
//!   once and looks no further misses no entry that was there before the reader began and is there when it ends.
//! - **T3** The payload is stored before the word becomes Live. A vacant slot's payload means nothing.
//! - **T4** The geometry and the state are written before `slots` becomes non-null, and never again, but for the state's
//!   fork generation. A reader sees null, which means that nothing was ever registered, or everything.
//! - **T5** The memory behind a published table lives until the `Table` is dropped.
//!
//! # Taking and giving up a guard
//!
//! ```text
//! acquire(slot, id)                              exit(slot)
//!  A1 word == Live(id)?  no: fail                 X1 released[stripe][slot] += 1    (Release)
//!  A2 acquired[stripe][slot] += 1                 X2 light fence
//!  A3 light fence                                 X3 word is Closing, of any ID?  notify the slot's wake word
//!  A4 word == Live(id)?  (Acquire)
//!     yes: guard; only now read the payload      close(slot)
//!     no:  exit(slot), fail                       C1 word = Closing(id)
//!                                                 C2 heavy fence
//! ```
//!
//! `docs/orderings.md` names the edges and gives the argument. In short: *no guard is missed*, since an acquire whose A4
//! saw Live is in the sums after C2, and one whose A4 comes later backs out. *A straggler is harmless*: stalled between
//! A1 and A2 while its slot is drained and reused, it finds another ID at A4. X3 tests Closing of *any* ID, because that
//! straggler must wake the finalizer of the slot's next tenant. A1 is there for progress: without it lookups of a closing
//! ID could keep the sums unequal for ever.
//!
//! # Progress
//!
//! `lookup` takes at most `displacement + 1` loads and two adds: wait-free, O(1), and re-entrant, since no step waits
//! for another party or keeps private state between steps.

use super::LookupError;
use super::counters::{Side, Stripes};
use super::gate::Gate;
use super::guard::RawGuard;
use super::ledger::{Ledger, Site, Ticket};
use super::state::State;
use super::sync::{self, Atomic, AtomicPtr, Ordering, fence};
use super::wake::Wake;
use super::word::{InterpreterId, Word};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// One place in the table. Zero-filled memory is a vacant slot.
#[derive(Default)]
#[repr(C, align(32))]
pub struct Slot {
    word: Atomic<Word>,
    payload: AtomicPtr<()>,
    wake: Wake,
    /// Of the IDs whose *home* this slot is: see T2.
    displacement: Atomic<u32>,
    gate: Gate,
}

/// What is fixed when the table is published.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Geometry {
    /// The guard counters.
    pub stripes: Stripes,
    /// The hash's shift: 64 less the binary logarithm of the number of slots.
    pub shift: u32,
    /// The number of slots less one; a power of two less one.
    pub mask: u32,
}

impl Geometry {
    /// The same, packed.
    fn state(&self) -> State {
        let Stripes { stride, cpus, mode, .. } = self.stripes;
        debug_assert!(stride.is_power_of_two());
        State::new(self.shift, stride.trailing_zeros(), cpus, mode)
    }
}

/// The head of the table: everything that a lookup reads besides one slot and one counter line, on one cache line. A
/// second line has what only a recorded guard needs.
#[repr(C, align(64))]
pub struct Table {
    /// Null until published (T4).
    slots: AtomicPtr<Slot>,
    /// The geometry once more, packed for the hot paths; whether guards are recorded; the fork generation.
    state: Atomic<State>,
    geometry: UnsafeCell<MaybeUninit<Geometry>>,
    /// The main interpreter's word, or Vacant.
    main: Atomic<Word>,
    // On the second line, which nobody reads who records nothing:
    /// Null if guards are not recorded. Fixed before the table is published (T4).
    ledger: AtomicPtr<Ledger>,
    /// Which of the process's tables this is: never another's, while its address may be.
    serial: Atomic<u64>,
    /// A [`Blocks`]; null until a thread without a guard has attached.
    blocks: AtomicPtr<()>,
}

/// Asks the runtime: does the calling thread keep others from attaching to the interpreter in this slot, which has this ID?
/// Normal context.
pub type Blocks = fn(&Table, u32, InterpreterId) -> bool;

// SAFETY: everything but `geometry` is atomic; `geometry` is written once, before the Release store to `slots`, and
// read only after an Acquire load of `slots` saw it (T4).
unsafe impl Sync for Table {}
// SAFETY: `slots` points to memory that is not tied to a thread; the rest is plain data.
unsafe impl Send for Table {}
// A panic leaves it consistent: nothing of the caller's runs while it is being changed.
impl core::panic::RefUnwindSafe for Table {}

/// A published table: slots, state and geometry, readable.
#[derive(Clone, Copy)]
struct Mapped<'t> {
    slots: NonNull<Slot>,
    state: State,
    geometry: &'t Geometry,
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
                geometry: UnsafeCell::new(MaybeUninit::uninit()),
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
    /// 2. `slots` points to `geometry.mask + 1` slots, all vacant, and `geometry` describes counters for as many, all
    ///    zero; both live until this `Table` is dropped.
    /// 3. The requirements of [`Stripes::add`] hold.
    pub unsafe fn publish(&self, slots: NonNull<Slot>, geometry: Geometry) {
        // SAFETY: by (1) nobody else writes, and nobody reads before the store below (T4).
        unsafe { (*self.geometry.get()).write(geometry) };
        // Relaxed: made visible by the store below (T4).
        let state = geometry.state().with_records(self.ledger().is_some()).with_generation(self.generation());
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
        unsafe { head.publish(mapped.slots, *mapped.geometry) };
        Some(head)
    }

    #[inline(always)]
    fn mapped(&self) -> Option<Mapped<'_>> {
        // Acquire: pairs with the Release in `publish` (T4, edge E1).
        let slots = NonNull::new(self.slots.load(Ordering::Acquire))?;
        // SAFETY: non-null, so `publish` has initialised the geometry, which nobody writes again (T4).
        let geometry = unsafe { (*self.geometry.get()).assume_init_ref() };
        Some(Mapped { slots, state: self.state(), geometry })
    }

    /// The same without a test, for whoever has a guard.
    ///
    /// # Safety
    /// The table is published, and the caller knows it: a guard of this table exists.
    #[inline(always)]
    unsafe fn mapped_for_guard(&self, state: State) -> Mapped<'_> {
        // Relaxed: the lookup that made the guard was the Acquire, and whoever handed the guard over synchronised.
        let slots = self.slots.load(Ordering::Relaxed);
        // SAFETY: published, so `slots` is not null and the geometry is initialised; nobody writes either again (T4).
        unsafe {
            Mapped {
                slots: NonNull::new_unchecked(slots),
                state,
                geometry: (*self.geometry.get()).assume_init_ref(),
            }
        }
    }

    #[inline(always)]
    pub(super) fn state(&self) -> State {
        // Relaxed: the generation is changed only by the single thread of a forked child, before it can be in here; the
        // rest by nobody since the table was published (T4).
        self.state.load(Ordering::Relaxed)
    }

    /// The geometry, once published.
    pub fn geometry(&self) -> Option<&Geometry> {
        self.mapped().map(|mapped| mapped.geometry)
    }

    // --- readers: any context, async-signal-safe ---------------------------------------------------------------

    /// Takes a guard on `id`, if it is live. The ledger, if there is one, shows `site` for it.
    ///
    /// Context: any, async-signal-safe, wait-free.
    #[inline(always)]
    pub fn lookup(&self, id: InterpreterId, site: Site) -> Result<RawGuard<'_>, LookupError> {
        let mapped = self.mapped().ok_or(LookupError::NotFound)?;
        let home = mapped.home(id);
        let first = mapped.slot(home);
        // A1, at home. Acquire: pairs with the Release in `insert` (edge E2).
        let (mut at, mut word) = (home, first.word.load(Ordering::Acquire));
        if word != Word::live(id) {
            // Relaxed: whatever made the caller know a live `id` made the displacement that covers it visible too (T2).
            let reach = first.displacement.load(Ordering::Relaxed);
            if word != Word::closing(id) && reach != 0 {
                (at, word) = self.find_displaced(home, reach, id);
            }
            if word != Word::live(id) {
                return Err(LookupError::because_of(word, id));
            }
        }
        self.acquire(mapped, at, id, site)
    }

    /// [`lookup`](Self::lookup) where it is nearly always over: at home, with no ledger. Calls nothing, so that an exported
    /// function whose other calls are in its tail needs next to no frame.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Errors
    /// [`NotAtHome`]: no guard, or not yet.
    #[inline(always)]
    pub fn lookup_at_home(&self, id: InterpreterId) -> Result<RawGuard<'_>, NotAtHome> {
        let mapped = self.mapped().ok_or(NotAtHome::Refused(LookupError::NotFound))?;
        let home = mapped.home(id);
        let slot = mapped.slot(home);
        // A1. Acquire: pairs with the Release in `insert` (edge E2).
        let word = slot.word.load(Ordering::Acquire);
        if word != Word::live(id) {
            // Relaxed: as in `lookup`.
            let reach = slot.displacement.load(Ordering::Relaxed);
            return Err(match word == Word::closing(id) || reach == 0 {
                true => NotAtHome::Refused(LookupError::because_of(word, id)),
                false => NotAtHome::Elsewhere,
            });
        }
        if mapped.state.records() {
            return Err(NotAtHome::Elsewhere);
        }
        mapped.add(home, Side::Acquired); // A2, A3
        // Both asked for again, rather than kept over A2: registers are what is scarce here.
        let state = self.state();
        // SAFETY: published, or there would have been no word.
        let slot = unsafe { self.mapped_for_guard(state) }.slot(home);
        // A4. SeqCst: as in `acquire`.
        if slot.word.load(Ordering::SeqCst) != Word::live(id) {
            return Err(NotAtHome::Counted(home));
        }
        // SAFETY: A2 counted this guard, and A4 has seen that it counts; no ledger, as seen above.
        Ok(unsafe { RawGuard::unrecorded(self, state, id, home) })
    }

    /// Gives back what [`lookup_at_home`](Self::lookup_at_home) has counted in vain, and says why it was in vain.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Safety
    /// It answered `Counted(at)` for `id`, and this is done once.
    pub unsafe fn back_out_at_home(&self, at: u32, id: InterpreterId) -> LookupError {
        // Acquire: what A4 saw, or later. (Published, or nothing would have been counted.)
        let word = self.mapped().map_or(Word::VACANT, |mapped| mapped.slot(at).word.load(Ordering::Acquire));
        self.back_out(at, word, id)
    }

    /// A1 in the rest of the probe, at most `reach` slots: where `id` is, live or closing, and the word there; Vacant if it
    /// is nowhere. Takes and returns nothing that would have to go through memory, so that the caller keeps what it has
    /// in registers.
    #[inline(never)]
    fn find_displaced(&self, home: u32, reach: u32, id: InterpreterId) -> (u32, Word) {
        let Some(mapped) = self.mapped() else { return (home, Word::VACANT) };
        for distance in 1..=reach {
            let at = mapped.at(home, distance);
            // A1. Acquire: pairs with the Release in `insert` (edge E2).
            let word = mapped.slot(at).word.load(Ordering::Acquire);
            if word == Word::live(id) || word == Word::closing(id) {
                return (at, word);
            }
        }
        (home, Word::VACANT)
    }

    /// A2 to A4.
    #[inline(always)]
    fn acquire(
        &self,
        mapped: Mapped<'_>,
        at: u32,
        id: InterpreterId,
        site: Site,
    ) -> Result<RawGuard<'_>, LookupError> {
        mapped.add(at, Side::Acquired); // A2, A3
        // A4. SeqCst: in shared mode, with A2, pairs with C1 and C2 (edge E3; see counters/shared.rs). It is an Acquire
        // too (edge E2): the payload, stored before the word became Live, may be read from here on (T3).
        let word = mapped.slot(at).word.load(Ordering::SeqCst);
        if word == Word::live(id) {
            // SAFETY: A2 counted this guard, and A4 has seen that it counts.
            return Ok(unsafe { RawGuard::counted(self, mapped.state, id, at, site) });
        }
        Err(self.back_out(at, word, id))
    }

    /// The interpreter was closed, or closed and drained, between A1 and A4.
    #[cold]
    #[inline(never)]
    fn back_out(&self, at: u32, word: Word, id: InterpreterId) -> LookupError {
        if let Some(mapped) = self.mapped() {
            mapped.exit(at);
        }
        LookupError::because_of(word, id)
    }

    /// Calls `f` with every ID that is live when its slot is looked at. Slots are looked at in table order.
    ///
    /// Context: any, async-signal-safe if `f` is; O(slots).
    pub fn for_each_live(&self, mut f: impl FnMut(InterpreterId)) {
        let Some(mapped) = self.mapped() else { return };
        for at in 0..=mapped.geometry.mask {
            // Acquire: pairs with the Release in `insert` (edge E2), so that a lookup of what is reported here finds it
            // (T2).
            let word = mapped.slot(at).word.load(Ordering::Acquire);
            if let (true, Some(id)) = (word.is_live(), word.id()) {
                f(id);
            }
        }
    }

    /// The main interpreter.
    ///
    /// Context: any, async-signal-safe.
    #[inline]
    pub fn main(&self) -> Option<InterpreterId> {
        // Acquire: pairs with the Release in `set_main` (edge E8): what was registered before can be looked up.
        self.main.load(Ordering::Acquire).id()
    }

    /// The slot in which `id` is, live or closing.
    ///
    /// Context: any, async-signal-safe, wait-free.
    pub fn find(&self, id: InterpreterId) -> Option<u32> {
        let mapped = self.mapped()?;
        let home = mapped.home(id);
        // Relaxed: as in `lookup`.
        let reach = mapped.slot(home).displacement.load(Ordering::Relaxed);
        (0..=reach).map(|distance| mapped.at(home, distance)).find(|&at| {
            // Acquire: as in `lookup`.
            mapped.slot(at).word.load(Ordering::Acquire).id() == Some(id)
        })
    }

    /// The fork generation; a guard counts only in the one in which it was taken.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.state().generation()
    }

    /// Lets a thread without a guard in, so that it can attach to `id`: live, or closing with guards still out.
    ///
    /// Context: normal. O(CPUs) while it is closing.
    ///
    /// # Errors
    /// `Finalizing` when it is closing and no guard is out any more; `NotFound` after that.
    pub fn enter(&self, id: InterpreterId) -> Result<Entry<'_>, LookupError> {
        let mapped = self.mapped().ok_or(LookupError::NotFound)?;
        let at = self.find(id).ok_or(LookupError::NotFound)?;
        let slot = mapped.slot(at);
        if !slot.gate.enter(|| slot.wake.notify()) {
            return Err(LookupError::Finalizing);
        }
        let entry = Entry { table: self, slot: at, attaching: false };
        // GE3. Acquire: pairs with the Release in `insert` (edge E2): the payload may be read from here on (T3).
        let word = slot.word.load(Ordering::Acquire);
        if word == Word::live(id) {
            return Ok(entry);
        }
        if word != Word::closing(id) {
            return Err(LookupError::NotFound);
        }
        // The finalizer has not come to seal the gate yet; but zero after a heavy fence is final.
        let drained = mapped.geometry.stripes.heavy_fence().is_ok() && self.out(at) == 0;
        if drained { Err(LookupError::Finalizing) } else { Ok(entry) }
    }

    /// L1.
    fn leave(&self, at: u32) {
        let Some(mapped) = self.mapped() else { return };
        let slot = mapped.slot(at);
        if slot.gate.leave() {
            slot.wake.notify(); // edge Gate-wake
        }
    }

    /// Which of the process's tables this is.
    pub fn serial(&self) -> u64 {
        // Relaxed: stored before the first registration, and so before anything that leads here.
        self.serial.load(Ordering::Relaxed)
    }

    // --- for guards: the slot is known ---------------------------------------------------------------------------

    /// Writes down a guard that was counted.
    ///
    /// Context: any, async-signal-safe, wait-free.
    #[cold]
    #[inline(never)]
    pub(super) fn record(&self, id: InterpreterId, site: Site, generation: u32) -> Ticket {
        self.ledger().map_or(Ticket::NONE, |ledger| ledger.record(id, site, generation))
    }

    /// The ledger, if guards are recorded.
    pub fn ledger(&self) -> Option<&Ledger> {
        // Relaxed: fixed before the table was published, which whoever records came after (T4).
        let ledger = self.ledger.load(Ordering::Relaxed);
        // SAFETY: null, or live as long as this table by `attach_ledger` (2); everything in it is atomic.
        unsafe { ledger.as_ref() }
    }

    /// Counts one more guard of a slot that the caller already guards.
    ///
    /// Context: any, async-signal-safe, wait-free.
    ///
    /// # Safety
    /// The caller has a guard of slot `at` that counts, and `state` is this table's.
    #[inline(always)]
    pub(super) unsafe fn count_clone(&self, state: State, at: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.mapped_for_guard(state) }.add(at, Side::Acquired);
    }

    /// X1 to X3: gives up one counted guard of the slot.
    ///
    /// Context: any, async-signal-safe, wait-free. The interpreter is not touched from X1 on.
    ///
    /// # Safety
    /// The caller has a guard of slot `at` that counts, and `state` is this table's.
    #[inline(always)]
    pub(super) unsafe fn exit(&self, state: State, at: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.mapped_for_guard(state) }.exit(at);
    }

    /// What a guard of the slot protects.
    #[inline(always)]
    pub(super) fn payload(&self, at: u32) -> *mut () {
        match self.mapped() {
            // Relaxed: the guard's A4 was the Acquire (T3), and whoever handed the guard over synchronised.
            Some(mapped) => mapped.slot(at).payload.load(Ordering::Relaxed),
            None => core::ptr::null_mut(),
        }
    }

    /// Is an interpreter closing in this slot?
    #[inline(always)]
    pub fn is_closing(&self, at: u32) -> bool {
        // Relaxed: advice; nothing is read on the strength of it.
        self.mapped().is_some_and(|mapped| mapped.slot(at).word.load(Ordering::Relaxed).is_closing())
    }

    // --- writers: normal context, one at a time --------------------------------------------------------------------

    /// Vacant to Live. `None`, and nothing changed, if no slot is vacant or the table is not published.
    ///
    /// # Safety
    /// 1. No other writer runs.
    /// 2. `id` was never in this table.
    pub unsafe fn insert(&self, id: InterpreterId, payload: *mut ()) -> Option<u32> {
        let mapped = self.mapped()?;
        let home = mapped.home(id);
        let (distance, at) = (0..=mapped.geometry.mask)
            .map(|distance| (distance, mapped.at(home, distance)))
            // Relaxed: only writers change words, and there is no other (1).
            .find(|&(_, at)| mapped.slot(at).word.load(Ordering::Relaxed) == Word::VACANT)?;
        let slot = mapped.slot(at);
        // Relaxed: published by the Release below (T3).
        slot.payload.store(payload, Ordering::Relaxed);
        let reach = &mapped.slot(home).displacement;
        // Relaxed load: only writers change it. Relaxed store: published by the Release below (T2).
        if reach.load(Ordering::Relaxed) < distance {
            reach.store(distance, Ordering::Relaxed);
        }
        // R2. Release: pairs with the Acquire loads of A1 and A4 and in `for_each_live` (edge E2).
        slot.word.store(Word::live(id), Ordering::Release);
        Some(at)
    }

    /// C1, Live to Closing. [`Stripes::heavy_fence`] must follow before the sums mean anything.
    ///
    /// # Safety
    /// 1. No other writer runs.
    /// 2. `id` is live in slot `at`.
    pub unsafe fn begin_close(&self, at: u32, id: InterpreterId) {
        let Some(mapped) = self.mapped() else { return };
        // SeqCst: with the heavy fence, pairs with A2/A4 and X1/X3 in shared mode (edges E3, E4; see counters/shared.rs).
        mapped.slot(at).word.store(Word::closing(id), Ordering::SeqCst);
    }

    /// C2. See [`Stripes::heavy_fence`].
    pub fn heavy_fence(&self) -> Result<(), super::sys::Errno> {
        self.mapped().map_or(Ok(()), |mapped| mapped.geometry.stripes.heavy_fence())
    }

    /// D1 and D2: the guards of slot `at` that are out, never too few; negative after an over-release.
    pub fn out(&self, at: u32) -> i64 {
        match self.mapped() {
            // SAFETY: the counters live with the table (T5), and `slot()` reduces `at` to one of its slots.
            Some(mapped) => unsafe { mapped.geometry.stripes.out(at & mapped.geometry.mask) },
            None => 0,
        }
    }

    /// G1 and G2, after `out` said zero: may slot `at` be vacated? From the first call on nobody enters. Finalizers only.
    pub fn seal(&self, at: u32) -> bool {
        self.mapped().is_none_or(|mapped| mapped.slot(at).gate.seal())
    }

    /// How many threads without a guard are attaching to the interpreter in slot `at` at this moment.
    pub fn attaching(&self, at: u32) -> u32 {
        self.mapped().map_or(0, |mapped| mapped.slot(at).gate.attaching())
    }

    /// Are there such threads, and is it the calling thread that keeps them from attaching? To be asked while slot `at` has the
    /// interpreter `id`.
    ///
    /// Context: normal.
    pub fn is_kept_from_attaching_here(&self, at: u32, id: InterpreterId) -> bool {
        if self.attaching(at) == 0 {
            return false;
        }
        // Relaxed: a function, and functions are always there. Not null: `attaching` saw the count that came after the store.
        let blocks = self.blocks.load(Ordering::Relaxed);
        // SAFETY: `Entry::attaches` stored it, who stores nothing else.
        let blocks = unsafe { core::mem::transmute::<*mut (), Option<Blocks>>(blocks) };
        blocks.is_some_and(|blocks| blocks(self, at, id))
    }

    /// Forgets the threads that were attaching: in a forked child they do not exist.
    ///
    /// # Safety
    /// The caller is the only thread of the process.
    pub unsafe fn forget_entering(&self) {
        let Some(mapped) = self.mapped() else { return };
        for at in 0..=mapped.geometry.mask {
            mapped.slot(at).gate.forget_inside();
        }
    }

    /// Numbers this table. Once, before the first registration.
    pub fn set_serial(&self, serial: u64) {
        // Relaxed: as in `serial`.
        self.serial.store(serial, Ordering::Relaxed);
    }

    /// The wake word of slot `at`.
    pub fn wake(&self, at: u32) -> Option<&Wake> {
        self.mapped().map(|mapped| &mapped.slot(at).wake)
    }

    /// Closing to Vacant. Returns the payload, which is the caller's from now on; `None`, and nothing changed, if
    /// `id` is not closing in slot `at`.
    ///
    /// # Safety
    /// 1. No other writer runs.
    /// 2. `out(at)` was zero after a heavy fence that succeeded after `begin_close(at, id)`; then `seal(at)` said yes.
    pub unsafe fn vacate(&self, at: u32, id: InterpreterId) -> Option<*mut ()> {
        let mapped = self.mapped()?;
        let slot = mapped.slot(at);
        // Relaxed: only writers change words.
        if slot.word.load(Ordering::Relaxed) != Word::closing(id) {
            return None;
        }
        // Relaxed: only writers change main.
        if self.main.load(Ordering::Relaxed).id() == Some(id) {
            self.set_main(None);
        }
        // Release: orders the T's use under the guards before whatever happens to the slot next.
        slot.word.store(Word::VACANT, Ordering::Release); // G3
        // Relaxed: by (2) no guard exists or can come to be, and so nobody reads the payload.
        let payload = slot.payload.load(Ordering::Relaxed);
        slot.gate.unseal(); // G4
        mapped.lower_displacement(mapped.home(id), |word| word != Word::VACANT);
        Some(payload)
    }

    /// In a forked child: no guard is counted any more, whoever held it.
    ///
    /// # Safety
    /// No other thread exists, and this one is in no operation of a guard.
    pub unsafe fn begin_generation(&self) {
        // Relaxed, both: the only thread; whatever it starts later happens after.
        let state = self.state.load(Ordering::Relaxed);
        let next = state.generation().wrapping_add(1);
        self.state.store(state.with_generation(next), Ordering::Relaxed);
        if let Some(mapped) = self.mapped() {
            // SAFETY: the counters live with the table (T5) and are as many as its slots; the rest is promised.
            unsafe { mapped.geometry.stripes.reset(mapped.geometry.mask.wrapping_add(1)) };
        }
    }

    /// Names the main interpreter. Writers only.
    pub fn set_main(&self, id: Option<InterpreterId>) {
        // Release: pairs with the Acquire in `main` (edge E8).
        self.main.store(id.map_or(Word::VACANT, Word::live), Ordering::Release);
    }

    /// The payload in slot `at`, for who keeps it from being vacated.
    pub fn interpreter(&self, at: u32) -> *mut () {
        self.payload(at)
    }

    /// The payload in slot `at`, for the owner of the whole table.
    pub fn take_payload(&mut self, at: u32) -> *mut () {
        self.payload(at)
    }

    /// How far a reader that looks for `id` may have to probe, in slots beyond the first.
    pub fn reach(&self, id: InterpreterId) -> u32 {
        // Relaxed: a diagnostic.
        self.mapped().map_or(0, |mapped| mapped.slot(mapped.home(id)).displacement.load(Ordering::Relaxed))
    }
}

/// A thread without a guard on its way in: the interpreter stays until this is dropped. Not for keeping.
pub struct Entry<'t> {
    table: &'t Table,
    slot: u32,
    attaching: bool,
}

impl Entry<'_> {
    /// The thread attaches now. `blocks` is for a finalizer that waits for it.
    pub fn attaches(mut self, blocks: Blocks) -> Self {
        if let Some(mapped) = self.table.mapped() {
            let slot = mapped.slot(self.slot);
            // Relaxed: published by the count.
            self.table.blocks.store(blocks as *mut (), Ordering::Relaxed);
            slot.gate.begin_attaching();
            self.attaching = true;
            // SeqCst: pairs with the heavy fence of close (edge Gate-tell): either this sees Closing, or the drain, which looks
            // after that fence, sees the count.
            fence(Ordering::SeqCst);
            if self.table.is_closing(self.slot) {
                slot.wake.notify();
            }
        }
        self
    }

    /// The payload of the slot that was entered.
    pub fn payload(&self) -> *mut () {
        self.table.payload(self.slot)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let (true, Some(mapped)) = (self.attaching, self.table.mapped()) {
            mapped.slot(self.slot).gate.end_attaching();
        }
        self.table.leave(self.slot);
    }
}

/// Why [`Registry::lookup_at_home`](crate::Registry::lookup_at_home) has no guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAtHome {
    /// There is none to be had.
    Refused(LookupError),
    /// It is not for this function to say: a whole lookup does.
    Elsewhere,
    /// Closed meanwhile, with a guard counted in this slot: to be backed out of.
    Counted(u32),
}

impl<'t> Mapped<'t> {
    /// Where the probe for `id` begins.
    #[inline(always)]
    fn home(self, id: InterpreterId) -> u32 {
        home(id.bits(), self.state.hash_shift())
    }

    /// The slot `distance` after `from`, round the end of the table.
    #[inline(always)]
    fn at(self, from: u32, distance: u32) -> u32 {
        from.wrapping_add(distance) & self.geometry.mask
    }

    #[inline(always)]
    fn slot(self, at: u32) -> &'t Slot {
        debug_assert!(at <= self.geometry.mask);
        // SAFETY: every `at` in the core comes from `home`, `at` or a loop over the mask, or from a guard or writer who
        // got it from there; so it is at most `mask`, and the slots live with the table (T5).
        unsafe { self.slots.add(at as usize).as_ref() }
    }

    #[inline(always)]
    fn add(self, at: u32, side: Side) {
        // SAFETY: (1) `at` is a slot, as in `slot`, and the counters live with the table (T5); (2) promised to `publish`.
        unsafe { self.geometry.stripes.add(self.state, at, side) };
    }

    /// X1 to X3.
    #[inline(always)]
    fn exit(self, at: u32) {
        self.add(at, Side::Released); // X1, X2
        let slot = self.slot(at);
        // X3. SeqCst: in shared mode, with X1, pairs with C1 and C2 (edge E4; see counters/shared.rs).
        if slot.word.load(Ordering::SeqCst).is_closing() {
            slot.wake.notify();
        }
    }

    /// T2, after an entry of `home` has gone: the largest distance among those that `counts` accepts. Writers only.
    fn lower_displacement(self, home: u32, counts: impl Fn(Word) -> bool) {
        let reach = &self.slot(home).displacement;
        // Relaxed, all of them: only writers change words and displacements. A reader may see the old, larger reach and
        // probe a little further, or the new one, which covers every entry that is left.
        let old = reach.load(Ordering::Relaxed);
        let new = (0..=old).rev().find(|&distance| {
            let word = self.slot(self.at(home, distance)).word.load(Ordering::Relaxed);
            counts(word) && word.id().is_some_and(|id| self.home(id) == home)
        });
        reach.store(new.unwrap_or(0), Ordering::Relaxed);
    }
}

/// The hash: where the probe for an ID begins, in a table of `1 << (64 - shift)` slots.
///
/// Multiplying by the golden ratio spreads dense IDs evenly (displacement 0 or 1 for 0..n). Alone it piles up strides
/// that are Fibonacci numbers; folding the ID by eight bits first breaks them up. `docs/hash.md` has the measurements.
#[inline(always)]
pub const fn home(id: u64, shift: u32) -> u32 {
    ((id ^ (id >> 8)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (shift & 63)) as u32
}

sync::layout! {
    // Two slots share a line; the head that a lookup reads is one line.
    static_assertions::const_assert_eq!(size_of::<Slot>(), 32);
    static_assertions::const_assert_eq!(core::mem::offset_of!(Table, ledger), 64);
    // Lock-free, each by one instruction.
    static_assertions::const_assert!(Atomic::<Word>::is_lock_free());
    static_assertions::const_assert!(Atomic::<u64>::is_lock_free());
    static_assertions::const_assert!(Atomic::<u32>::is_lock_free());
}
static_assertions::assert_impl_all!(Table: Send, Sync);
