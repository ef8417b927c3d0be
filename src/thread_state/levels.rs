//! The ensure levels of one thread, linked from the innermost out: which interpreter, under which guard, and what to restore.
//!
//! One list per thread for all registries and runtimes, so the levels carry no types. Two interpreters are the same if their
//! registries and their IDs are: an ID alone may be another registry's, too. A registry is told by the serial number of its
//! table, for its address changes when it is moved, and may later be another's. No level is followed to its table but by
//! those who know that it is where it was: the level's own handle, and functions that are given the table.
//!
//! # Counted ensures
//!
//! An ensure of the interpreter that the innermost level has attached, and that is guarded, differs in nothing from it: it is
//! counted there, and its release counted off. So a level stands for the ensures `first` to `last` of its serial number, and
//! a handle is that number and its own ([`At`]). Where one of them needs something of its own (to be a daemon, or a number
//! by which C releases it), it is [split](split) off into a level of its own, and its handle finds it there.
//!
//! # Memory
//!
//! The list hangs on a word of the thread ([`ThisThread`]). A level's memory is a box. What is not in use is kept for the
//! next ones, as a stack's is, and freed when the thread ends. Nobody looks at a level but its thread, in normal context. A
//! [`LevelRef`] is not used once [`end`] has been called for it or for one further out. It is a pointer, and no reference is
//! kept: the memory may be written anew, or freed, while a function runs that was given it.

use super::Runtime;
use crate::signal_safe::guard::{GuardParts, RawGuard};
use crate::signal_safe::table::Table;
use crate::signal_safe::this_thread::{Noted, ThisThread, Words, this_thread};
use crate::{InterpreterId, Site};
use std::any::TypeId;
use std::cell::Cell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::ptr::{self, NonNull, without_provenance_mut};
use std::sync::atomic::{AtomicU64, Ordering};

/// One ensure that has not been released, and those that are counted in it.
pub(crate) struct Level {
    /// The level around it; null if none is.
    outer: Cell<*mut Level>,
    /// Tells it from all other levels of the process, for all practical purposes, but for those that were split off from it.
    pub serial: u64,
    /// May ensures be counted in it, and what guard is like its own? 0: they may not. [`COUNTS`]: they may. Else they may, and the
    /// number is [`like`] of its own guard.
    countable: Cell<u64>,
    /// Which ensures of its serial number it stands for.
    first: Apart<u32>,
    last: Apart<Cell<u32>>,
    flags: Apart<Cell<u8>>,
    pub table: TableRef,
    pub id: InterpreterId,
    /// Its runtime.
    pub kind: &'static Kind,
    hold: Cell<Hold>,
    /// The thread state that this level has attached or found attached, unless it has none ([`NO_STATE`]).
    pub state: Cell<Erased>,
    /// What handlers were told to be attached before, if they are told at all.
    noted_before: Cell<MaybeUninit<Words>>,
    /// The number by which C knows its first ensure, where that is not the serial number; or 0.
    name: Cell<u64>,
    /// With `LEFT`.
    left: Cell<MaybeUninit<Left>>,
}

/// A field that has its eight bytes to itself. A processor may take a load for one of a store that it has not committed yet if both
/// are to the same eight bytes, and then waits for that. With `first` beside `last`, which a nested ensure writes and its release
/// writes back, that took nested ensures from 10 ns to 27, for as long as nothing interrupted them.
#[repr(align(8))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A level of the calling thread. See the module for how long it may be used.
#[derive(Clone, Copy)]
pub(crate) struct LevelRef(NonNull<Level>);

impl Deref for LevelRef {
    type Target = Level;

    #[inline(always)]
    fn deref(&self) -> &Level {
        // SAFETY: from the list of this thread, which it cannot leave (`NonNull` is not `Send`); used as the module says.
        unsafe { self.0.as_ref() }
    }
}

impl LevelRef {
    /// A level of this thread's list, or none.
    #[inline(always)]
    fn of(level: *mut Level) -> Option<Self> {
        NonNull::new(level).map(Self)
    }

    #[inline(always)]
    fn is_at(self, level: *mut Level) -> bool {
        self.0.as_ptr() == level
    }
}

/// A runtime, to those who do not know its type.
pub(crate) struct Kind {
    /// The type's ID. (Which is no constant.)
    pub runtime: fn() -> TypeId,
    /// Are handlers told what it attaches?
    pub notes: bool,
    /// Releases the latest ensure of the innermost level, which is of this runtime and not busy. Its table is where it was.
    pub release: unsafe fn(LevelRef) -> Result<(), super::ReleaseError>,
}

/// An ensure: its level's serial number, and which one it is of those that are counted under that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub serial: u64,
    pub depth: u32,
}

// What `flags` is made of:
/// Nothing is attached on its behalf: not yet, or not any more.
pub(crate) const NO_STATE: u8 = 1;
/// The runtime is at work on this level's behalf, and may run code that comes here: nothing about the level changes
/// meanwhile but by whoever set this.
pub(crate) const BUSY: u8 = 2;
/// A daemon's re-attach was refused: nothing is attached, and `state` has gone with its interpreter.
pub(crate) const LOST: u8 = 4;
/// Any of these.
pub(crate) const IN_THE_WAY: u8 = NO_STATE | BUSY | LOST;
/// The ensure created `state`.
pub(crate) const CREATED: u8 = 8;
/// It uses what it found attached.
pub(crate) const REUSES: u8 = 16;
/// It has left something behind.
const LEFT: u8 = 32;
/// Ensures were split off from it. Nothing more is counted in it: a later ensure would be taken for one of those.
const SPLIT: u8 = 64;

/// In `countable`: it counts, and no guard is known to be like its own.
const COUNTS: u64 = 1 << 32;

/// What keeps a level's interpreter from finalizing.
#[derive(Clone, Copy)]
pub(crate) enum Hold {
    /// A guard of its own.
    Own(GuardParts),
    /// The guard of a level further out, which is released later.
    Covered,
    /// Nothing: a daemon.
    Daemon,
}

/// A thread state of another interpreter that is to be put back by a level's release.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub state: Erased,
    pub id: InterpreterId,
    /// The number of the table that has the interpreter; 0 if none has it.
    pub registry: u64,
    pub keep: Keep,
    /// Was it attached? Else it was bound to the thread, with nothing attached ([`Runtime::own`](super::Runtime::own)).
    pub was_attached: bool,
}

/// What keeps the interpreter that was left behind.
#[derive(Clone, Copy)]
pub(crate) enum Keep {
    /// A guard of the level's table.
    Own(GuardParts),
    /// The guard of a level further out.
    Covered,
    /// Nothing. It is attached again through its table's gate, if it is still there.
    Gate,
    /// Its runtime: no registry ever had it.
    Runtime,
    /// Nothing can: it was gone already.
    Gone,
}

/// Which table; see the module.
#[derive(Clone, Copy)]
pub(crate) struct TableRef {
    address: *const Table,
    pub serial: u64,
}

impl PartialEq for TableRef {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl TableRef {
    #[inline(always)]
    pub fn new(table: &Table) -> Self {
        Self { address: table, serial: table.serial() }
    }

    /// Is it this table, which has not been moved since?
    #[inline(always)]
    pub fn is_still(self, table: &Table) -> bool {
        ptr::eq(self.address, table) && self.serial == table.serial()
    }
}

/// A thread state of any runtime, as bytes.
#[derive(Clone, Copy)]
pub(crate) struct Erased(MaybeUninit<[*const (); 2]>);

impl Erased {
    #[inline(always)]
    pub fn new<S: Copy>(state: S) -> Self {
        const {
            assert!(
                size_of::<S>() <= size_of::<Self>() && align_of::<S>() <= align_of::<Self>(),
                "Runtime::ThreadState is larger than two words, or aligned to more than one: make it a handle, that is a \
                 pointer to the thread state or an index, with a count beside it where memory is used again"
            );
        };
        let mut bytes = MaybeUninit::uninit();
        // SAFETY: checked above: it fits.
        unsafe { ptr::from_mut(&mut bytes).cast::<S>().write(state) };
        Self(bytes)
    }

    /// # Safety
    /// Made of an `S`.
    #[inline(always)]
    pub unsafe fn get<S: Copy>(self) -> S {
        // SAFETY: the caller's promise; it fits, checked in `new`.
        unsafe { ptr::from_ref(&self.0).cast::<S>().read() }
    }
}

// --- memory ---------------------------------------------------------------------------------------------------------

// What `ThisThread::spare` is, where it is not the first of a list that ends in `EMPTY`:
/// Nothing is kept.
const EMPTY: *mut Level = without_provenance_mut(1);
/// The thread is ending, and what would be kept would never be freed.
const ENDING: *mut Level = without_provenance_mut(2);

/// Frees what is kept when the thread ends.
struct Reaper;

impl Drop for Reaper {
    fn drop(&mut self) {
        let mut kept = this_thread().spare.replace(ENDING.cast()).cast::<Level>();
        while kept.addr() > ENDING.addr() {
            // SAFETY: kept by `keep`: initialised, and nobody else's.
            let next = unsafe { (*kept).outer.get() };
            // SAFETY: a box's, by `allocate`.
            drop(unsafe { Box::from_raw(kept.cast::<MaybeUninit<Level>>()) });
            kept = next;
        }
    }
}

thread_local! {
    static REAPER: Reaper = const { Reaper };
}

/// The thread's first level.
#[cold]
#[inline(never)]
fn begin_thread(here: &ThisThread) -> u64 {
    /// Threads that have had a level.
    static THREADS: AtomicU64 = AtomicU64::new(0);
    if here.spare.get().is_null() {
        let is_ending = REAPER.try_with(|_| ()).is_err();
        here.spare.set(if is_ending { ENDING } else { EMPTY }.cast());
    }
    // Relaxed: the numbers have to differ, nothing else. The low 40 bits count the thread's levels.
    ((THREADS.fetch_add(1, Ordering::Relaxed) + 1) << 40) | 1
}

#[inline(always)]
fn new_serial(here: &ThisThread) -> u64 {
    let serial = match here.next.get() {
        0 => begin_thread(here),
        serial => serial,
    };
    here.next.set(serial.wrapping_add(1));
    serial
}

#[cold]
#[inline(never)]
fn allocate() -> *mut Level {
    Box::into_raw(Box::<Level>::new_uninit()).cast()
}

/// Memory for a level. The thread has had a serial number.
#[inline(always)]
fn take(here: &ThisThread) -> *mut Level {
    let kept = here.spare.get().cast::<Level>();
    if kept.addr() <= ENDING.addr() {
        return allocate();
    }
    // SAFETY: kept by `keep`: initialised, and nobody else's.
    here.spare.set(unsafe { (*kept).outer.get() }.cast());
    kept
}

/// Keeps a level's memory for the next one, or frees it.
///
/// # Safety
/// It is from `take`, initialised, and not used any more.
#[inline(always)]
unsafe fn keep(here: &ThisThread, level: *mut Level) {
    let kept = here.spare.get().cast::<Level>();
    if kept == ENDING {
        // SAFETY: a box's, by `allocate`.
        return drop(unsafe { Box::from_raw(level.cast::<MaybeUninit<Level>>()) });
    }
    // SAFETY: the caller's promise.
    unsafe { (*level).outer.set(kept) };
    here.spare.set(level.cast());
}

// --- the list -------------------------------------------------------------------------------------------------------

/// The innermost level.
#[inline(always)]
pub(crate) fn top(here: &ThisThread) -> Option<LevelRef> {
    LevelRef::of(here.innermost.get().cast())
}

#[inline(always)]
pub(crate) fn is_innermost(here: &ThisThread, level: LevelRef) -> bool {
    level.is_at(here.innermost.get().cast())
}

/// The levels from the innermost out.
fn all() -> impl Iterator<Item = LevelRef> {
    from(top(this_thread()))
}

/// This level, and those around it from the innermost out.
fn from(level: Option<LevelRef>) -> impl Iterator<Item = LevelRef> {
    std::iter::successors(level, |level| level.outer())
}

/// Enters a level, with nothing attached and nothing left behind yet.
#[inline(always)]
pub(crate) fn begin(
    here: &ThisThread,
    table: &Table,
    id: InterpreterId,
    kind: &'static Kind,
    hold: Hold,
    flags: u8,
    notes: bool,
) -> LevelRef {
    let serial = new_serial(here);
    let level = take(here);
    // Field by field: what is not known yet is not written. (`state`, `left` and `noted_before` may be anything.)
    // SAFETY: memory for a level, which nobody else has; all others are written.
    let level = unsafe {
        (&raw mut (*level).outer).write(Cell::new(here.innermost.get().cast()));
        (&raw mut (*level).serial).write(serial);
        (&raw mut (*level).countable).write(Cell::new(countable(hold, flags)));
        (&raw mut (*level).first).write(Apart(0));
        (&raw mut (*level).last).write(Apart(Cell::new(0)));
        (&raw mut (*level).flags).write(Apart(Cell::new(flags)));
        (&raw mut (*level).table).write(TableRef::new(table));
        (&raw mut (*level).id).write(id);
        (&raw mut (*level).kind).write(kind);
        (&raw mut (*level).hold).write(Cell::new(hold));
        if notes {
            (&raw mut (*level).noted_before).write(Cell::new(MaybeUninit::new(here.words())));
        }
        (&raw mut (*level).name).write(Cell::new(0));
        NonNull::new_unchecked(level)
    };
    here.innermost.set(level.as_ptr().cast());
    LevelRef(level)
}

/// Takes `level` away: the innermost, but for levels that were entered while its thread state was being made or destroyed, and
/// leaked. Those go with it, for it may have covered them; what guards they have stay out.
#[inline(always)]
pub(crate) fn end(here: &ThisThread, level: LevelRef) {
    let level = level.0.as_ptr();
    while here.innermost.get() != level.cast() {
        end_leaked(here);
    }
    // SAFETY: a level of this thread, from `begin` or `split`.
    here.innermost.set(unsafe { (*level).outer.get() }.cast());
    // SAFETY: in no list any more.
    unsafe { keep(here, level) };
}

/// Takes the innermost level away, which is inside one that ends.
#[cold]
#[inline(never)]
fn end_leaked(here: &ThisThread) {
    let leaked = here.innermost.get().cast::<Level>();
    // SAFETY: a level of this thread: the one that ends is, and is not reached yet.
    here.innermost.set(unsafe { (*leaked).outer.get() }.cast());
    // SAFETY: from `begin` or `split`, and in no list any more.
    unsafe { keep(here, leaked) };
}

/// Has the ensure `depth` of this level's serial number, which the level stands for, begin a level of its own, and those
/// after it go along. The level itself if it does already.
pub(crate) fn split(level: LevelRef, depth: u32) -> LevelRef {
    if depth <= *level.first {
        return level;
    }
    let here = this_thread();
    let memory = take(here);
    let flags = level.flags.get() & IN_THE_WAY | REUSES;
    // SAFETY: memory for a level, which nobody else has.
    let inner = unsafe {
        memory.write(Level {
            outer: Cell::new(level.0.as_ptr()),
            serial: level.serial,
            countable: Cell::new(countable(Hold::Covered, flags)),
            first: Apart(depth),
            last: Apart(Cell::new(level.last.get())),
            flags: Apart(Cell::new(flags)),
            table: level.table,
            id: level.id,
            kind: level.kind,
            hold: Cell::new(Hold::Covered), // nothing is counted in a level that keeps nothing
            state: Cell::new(level.state.get()),
            noted_before: Cell::new(MaybeUninit::new(Words::of(level.noted()))),
            name: Cell::new(0),
            left: Cell::new(MaybeUninit::uninit()),
        });
        NonNull::new_unchecked(memory)
    };
    level.last.set(depth - 1);
    level.set(SPLIT, true);
    match all().find(|next| level.is_at(next.outer.get())) {
        Some(next) => next.outer.set(memory),
        None => here.innermost.set(memory.cast()),
    }
    LevelRef(inner)
}

/// The number by which C knows an ensure: never another one's.
pub(crate) fn name(level: LevelRef, depth: u32) -> u64 {
    let level = split(level, depth);
    level.name().unwrap_or_else(|| {
        level.name.set(new_serial(this_thread()));
        level.name.get()
    })
}

/// The ensure that has this number.
pub(crate) fn named(number: u64) -> Option<LevelRef> {
    all().find(|level| level.name() == Some(number))
}

/// The level that stands for an ensure.
#[inline(always)]
pub(crate) fn find(at: At) -> Option<LevelRef> {
    all().find(|level| level.stands_for(at))
}

/// Is the calling thread in a level with this serial number?
pub(crate) fn has(serial: u64) -> bool {
    all().any(|level| level.serial == serial)
}

/// Calls the runtime while nothing about the innermost level changes. `f` does not unwind.
pub(crate) fn busy_while<R>(f: impl FnOnce() -> R) -> R {
    let Some(top) = top(this_thread()) else { return f() };
    let was_busy = top.is(BUSY);
    top.set(BUSY, true);
    let result = f();
    // With what was split off meanwhile, which is next to it.
    let mut its = all().skip_while(|level| level.serial != top.serial);
    while let Some(level) = its.next().filter(|level| level.serial == top.serial) {
        level.set(BUSY, was_busy);
    }
    result
}

/// Notes that `id` of the table with this number has gone under its daemon levels, and that nothing of it is attached.
pub(crate) fn lose(registry: u64, id: InterpreterId) {
    all()
        .filter(|level| level.table.serial == registry && level.id == id)
        .for_each(|level| level.set(LOST, true));
}

/// Handlers were told `over` for a while, and before that `before`. The levels that began in that while, with serial
/// numbers from `first` on, and outlive it, put back `before` in its place.
pub(crate) fn told_for_a_while(first: u64, over: Words, before: Words) {
    for level in all().take_while(|level| level.serial >= first).filter(|level| level.kind.notes) {
        // SAFETY: written by `begin` where handlers are told.
        if unsafe { level.noted_before.get().assume_init() } == over {
            level.noted_before.set(MaybeUninit::new(before));
        }
    }
}

/// The guard, if any, by which a level of this thread keeps `id` from finalizing.
#[inline(always)]
pub(crate) fn guard_of(table: &Table, id: InterpreterId) -> Option<GuardParts> {
    top(this_thread()).and_then(|top| guard_from(Some(top), table.serial(), id))
}

/// [`guard_of`], of the table with this number, and by this level or one around it.
#[inline(never)]
pub(crate) fn guard_from(level: Option<LevelRef>, registry: u64, id: InterpreterId) -> Option<GuardParts> {
    from(level).filter(|level| level.table.serial == registry).find_map(|level| level.guard_of(id))
}

/// A thread state that the levels remember for `id`.
#[inline(never)]
pub(crate) fn state_of(table: &Table, id: InterpreterId) -> Option<Erased> {
    let here = table.serial();
    all().find_map(|level| {
        if level.table.serial == here && level.id == id && !level.is(NO_STATE | LOST) {
            return Some(level.state.get());
        }
        level.left().filter(|left| left.registry == here && left.id == id).map(|left| left.state)
    })
}

/// The innermost level of runtime `runtime` that `is` accepts.
pub(crate) fn of_runtime(runtime: TypeId, mut is: impl FnMut(&Level) -> bool) -> Option<LevelRef> {
    all().find(|level| level.is_of(runtime) && is(level))
}

/// For a forked child: calls `f` with every guard of `table` that this thread's levels hold, to be counted anew.
pub(crate) fn for_each_guard(table: &Table, mut f: impl FnMut(&mut GuardParts)) {
    let table = TableRef::new(table);
    for level in all().filter(|level| level.table == table) {
        if let Hold::Own(mut parts) = level.hold() {
            f(&mut parts);
            level.set_hold(Hold::Own(parts));
        }
        if let Some(left @ Left { keep: Keep::Own(mut parts), .. }) = level.left() {
            f(&mut parts);
            level.leave(Left { keep: Keep::Own(parts), ..left });
        }
    }
}

/// The one number of a guard's place, whose low half is not 0. `None` where no slot is.
#[inline(always)]
fn like(slot: u32, generation: u32) -> Option<u64> {
    Some(u64::from(generation) << 32 | u64::from(slot.checked_add(1)?))
}

/// What `countable` is in a level with these.
#[inline(always)]
fn countable(hold: Hold, flags: u8) -> u64 {
    match hold {
        _ if flags & (IN_THE_WAY | SPLIT) != 0 => 0,
        Hold::Own(parts) if parts.ticket == 0 => like(parts.slot, parts.generation).unwrap_or(COUNTS),
        Hold::Own(_) | Hold::Covered => COUNTS,
        Hold::Daemon => 0,
    }
}

impl Level {
    /// Is this its runtime's type?
    #[inline(always)]
    pub fn is_of(&self, runtime: TypeId) -> bool {
        (self.kind.runtime)() == runtime
    }

    /// Is one of these flags set?
    #[inline(always)]
    pub fn is(&self, flags: u8) -> bool {
        self.flags.get() & flags != 0
    }

    /// Is its thread state being found or made?
    pub fn is_beginning(&self) -> bool {
        self.flags.get() & (NO_STATE | BUSY) == NO_STATE | BUSY
    }

    #[inline(always)]
    pub fn set(&self, flag: u8, on: bool) {
        let flags = self.flags.get();
        let flags = if on { flags | flag } else { flags & !flag };
        self.flags.set(flags);
        self.countable.set(countable(self.hold.get(), flags));
    }

    #[inline(always)]
    pub fn hold(&self) -> Hold {
        self.hold.get()
    }

    pub fn set_hold(&self, hold: Hold) {
        self.hold.set(hold);
        self.countable.set(countable(hold, self.flags.get()));
    }

    /// It uses what it has found attached.
    #[inline(always)]
    pub fn begin_reusing(&self, state: Erased) {
        self.state.set(state);
        self.flags.set(REUSES);
        self.countable.set(countable(self.hold.get(), REUSES));
    }

    /// What handlers were told to be attached before; nothing, if `T` does not have them told.
    #[inline(always)]
    pub fn noted_before<T: Runtime>(&self) -> Words {
        // SAFETY: written by `begin` where they are told.
        if T::NOTES { unsafe { self.noted_before.get().assume_init() } } else { Words::NOTHING }
    }

    /// Has it left something behind?
    #[inline(always)]
    pub fn has_left(&self) -> bool {
        self.is(LEFT)
    }

    /// Its thread state is attached.
    #[inline(always)]
    pub fn begin_attached(&self, state: Erased, created: bool) {
        let flags = self.flags.get() & LEFT | if created { CREATED } else { 0 };
        self.state.set(state);
        self.flags.set(flags);
        self.countable.set(countable(self.hold.get(), flags));
    }

    /// What it has left behind.
    #[inline(always)]
    pub fn left(&self) -> Option<Left> {
        // SAFETY: written by `leave`.
        self.is(LEFT).then(|| unsafe { self.left.get().assume_init() })
    }

    pub fn leave(&self, left: Left) {
        self.left.set(MaybeUninit::new(left));
        self.set(LEFT, true);
    }

    /// Does it stand for this ensure?
    #[inline(always)]
    fn stands_for(&self, at: At) -> bool {
        self.serial == at.serial && *self.first <= at.depth && at.depth <= self.last.get()
    }

    /// The latest ensure that it stands for.
    #[inline(always)]
    pub fn latest(&self) -> At {
        At { serial: self.serial, depth: self.last.get() }
    }

    /// The number by which C knows its first ensure, if it has one.
    fn name(&self) -> Option<u64> {
        match (self.name.get(), *self.first) {
            (0, 0) => Some(self.serial),
            (0, _) => None,
            (name, _) => Some(name),
        }
    }

    /// The number by which C knows its latest ensure, if it has one.
    pub fn is_latest_named(&self, number: u64) -> bool {
        self.last.get() == *self.first && self.name() == Some(number)
    }

    /// What handlers are told while it is attached.
    #[inline(always)]
    pub fn noted(&self) -> Noted {
        Noted { id: self.id, registry: self.table.serial }
    }

    /// May a nested ensure be counted in it, if it is the innermost, its thread state is attached, and handlers are told so? Not while
    /// something is in the way, nor in a daemon.
    #[inline(always)]
    pub fn counts(&self) -> bool {
        self.countable.get() != 0
    }

    /// The same, if it has a guard of its own that the ledger has not recorded, counted in this slot and fork generation.
    #[inline(always)]
    pub fn counts_like(&self, slot: u32, generation: u32) -> bool {
        like(slot, generation).is_some_and(|like| self.countable.get() == like)
    }

    /// Counts one more ensure in it.
    #[inline(always)]
    pub fn count(&self) -> Option<At> {
        self.last.set(self.last.get().checked_add(1)?);
        Some(self.latest())
    }

    /// Is there more than its first ensure?
    #[inline(always)]
    pub fn has_counted(&self) -> bool {
        self.last.get() != *self.first
    }

    /// Counts its latest ensure off, which is not its first.
    #[inline(always)]
    pub fn count_off(&self) {
        self.last.set(self.last.get() - 1);
    }

    /// The guard of `id` that this level holds: its own, or that of what it left behind.
    #[inline]
    fn guard_of(&self, id: InterpreterId) -> Option<GuardParts> {
        match (self.hold.get(), self.left()) {
            (Hold::Own(parts), _) if self.id == id => Some(parts),
            (_, Some(Left { keep: Keep::Own(parts), id: left, .. })) if left == id => Some(parts),
            _ => None,
        }
    }

    /// The level around it.
    #[inline(always)]
    pub fn outer(&self) -> Option<LevelRef> {
        LevelRef::of(self.outer.get())
    }

    /// The level's table, for those who have not been given it.
    ///
    /// # Safety
    /// It lives, where it was when the level began.
    #[inline(always)]
    pub unsafe fn table<'r>(&self) -> &'r Table {
        // SAFETY: the caller's promise.
        unsafe { &*self.table.address }
    }
}

/// Another guard of the interpreter that `parts` guard.
///
/// # Safety
/// `parts` are a guard of `table` that is not given up during the call.
pub(crate) unsafe fn clone_guard(table: &Table, parts: GuardParts, site: Site) -> RawGuard<'_> {
    // SAFETY: never dropped, so it does not count as put together.
    let guard = ManuallyDrop::new(unsafe { RawGuard::from_parts(table, parts) });
    guard.clone_at(site)
}
