//! The ensure levels of one thread, innermost last: which interpreter, under which guard, and what to restore.
//!
//! One stack per thread for all registries and runtimes, so the levels carry no types. Two interpreters are the same if their
//! registries and their IDs are: an ID alone may be another registry's, too. A registry is told by the serial number of its
//! table, for its address changes when it is moved, and may later be another's. No level is followed to its table but by
//! those who know that it is where it was: the level's own handle, and functions that are given the table.
//!
//! The stack hangs on a word of the thread ([`this_thread`]), is made by the thread's first level and goes with the
//! thread. Handlers do not come here.

use crate::signal_safe::guard::{GuardParts, RawGuard};
use crate::signal_safe::table::Table;
use crate::signal_safe::this_thread::{self, Noted};
use crate::{InterpreterId, Site};
use std::any::TypeId;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// One ensure that has not been released.
#[derive(Clone, Copy)]
pub(crate) struct Level {
    /// Tells it from all other levels of the process, for all practical purposes.
    pub serial: u64,
    pub table: TableRef,
    pub id: InterpreterId,
    pub hold: Hold,
    /// The runtime's type.
    pub runtime: TypeId,
    /// The thread state that this level has attached or found attached, if `has_state`.
    pub state: Erased,
    /// Not before it is attached, nor once it is destroyed.
    pub has_state: bool,
    /// The runtime is at work on this level's behalf, and may run code that comes here: nothing about the level changes
    /// meanwhile but by whoever set this.
    pub busy: bool,
    /// Did the ensure create it?
    pub created: bool,
    /// A daemon's re-attach was refused: nothing is attached, and `state` has gone with its interpreter.
    pub lost: bool,
    pub before: Before,
    /// What handlers were told to be attached before.
    pub noted_before: Option<Noted>,
    /// Releases this level, of whatever runtime it is.
    pub release: unsafe fn(u64) -> Result<(), super::ReleaseError>,
}

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

/// What was attached before a level, to be restored by its release.
#[derive(Clone, Copy)]
pub(crate) enum Before {
    /// The thread state that the level uses itself.
    Same,
    Nothing,
    /// One of another interpreter, which is in the table with this number; 0 if none has it.
    State {
        state: Erased,
        id: InterpreterId,
        registry: u64,
        keep: Keep,
    },
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
    /// Nothing can: it was gone already, and is not attached again.
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
    pub fn new(table: &Table) -> Self {
        Self { address: table, serial: table.serial() }
    }
}

/// A thread state of any runtime, as bytes.
#[derive(Clone, Copy)]
pub(crate) struct Erased(MaybeUninit<[*const (); 2]>);

impl Erased {
    pub fn new<S: Copy>(state: S) -> Self {
        const { assert!(size_of::<S>() <= size_of::<Self>() && align_of::<S>() <= align_of::<Self>()) };
        let mut bytes = MaybeUninit::uninit();
        // SAFETY: checked above: it fits.
        unsafe { ptr::from_mut(&mut bytes).cast::<S>().write(state) };
        Self(bytes)
    }

    /// # Safety
    /// Made of an `S`.
    pub unsafe fn get<S: Copy>(self) -> S {
        // SAFETY: the caller's promise; it fits, checked in `new`.
        unsafe { ptr::from_ref(&self.0).cast::<S>().read() }
    }
}

struct Levels {
    stack: Vec<Level>,
    next_serial: u64,
    /// The thread's destructors have run: whoever empties the stack frees it.
    orphaned: bool,
}

/// Frees the stack when the thread ends.
struct Reaper;

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(levels) = borrow() {
            levels.orphaned = true;
            free_if_orphaned();
        }
    }
}

thread_local! {
    static REAPER: Reaper = const { Reaper };
}

/// The calling thread's stack. Each function below lets go of it before it returns or calls what is not in this file.
fn borrow<'t>() -> Option<&'t mut Levels> {
    // SAFETY: null, or made by `make` on this thread and not freed; no other borrow of it is in use, as said above, and
    // handlers have none.
    unsafe { this_thread::levels().cast::<Levels>().as_mut() }
}

#[cold]
fn make<'t>() -> &'t mut Levels {
    /// Threads that have had a stack.
    static THREADS: AtomicU64 = AtomicU64::new(0);
    // Relaxed: the numbers have to differ, nothing else. The low 40 bits count the thread's levels.
    let next_serial = ((THREADS.fetch_add(1, Ordering::Relaxed) + 1) << 40) | 1;
    let orphaned = REAPER.try_with(|_| ()).is_err();
    let levels = Box::leak(Box::new(Levels { stack: Vec::with_capacity(8), next_serial, orphaned }));
    this_thread::set_levels(ptr::from_mut(levels).cast());
    levels
}

fn free_if_orphaned() {
    let levels = this_thread::levels().cast::<Levels>();
    if borrow().is_some_and(|levels| levels.orphaned && levels.stack.is_empty()) {
        this_thread::set_levels(ptr::null_mut());
        // SAFETY: made by `make` from a box, and nobody finds it any more.
        drop(unsafe { Box::from_raw(levels) });
    }
}

/// Enters a level, whose serial number it chooses and returns.
#[inline(always)] // a level is large: built where it stays
pub(crate) fn push(level: Level) -> u64 {
    let levels = match borrow() {
        Some(levels) => levels,
        None => make(),
    };
    let serial = levels.next_serial;
    levels.next_serial = levels.next_serial.wrapping_add(1).max(1);
    levels.stack.push(Level { serial, ..level });
    serial
}

/// Takes the level with this serial number away: the innermost, but for levels that were entered while its thread state was
/// being destroyed, and leaked. Those go with it, for it may have covered them; what guards they have stay out.
#[inline]
pub(crate) fn pop(serial: u64) {
    if let Some(levels) = borrow() {
        if let Some(at) = levels.stack.iter().rposition(|level| level.serial == serial) {
            levels.stack.truncate(at);
        }
        if levels.orphaned {
            free_if_orphaned();
        }
    }
}

/// [`pop`], and what the level was at the end: guards that it held may have been counted anew, in a child forked meanwhile.
pub(crate) fn take(serial: u64) -> Option<Level> {
    let level = find(serial);
    pop(serial);
    level
}

/// Calls the runtime while nothing about the innermost level changes. `f` does not unwind.
pub(crate) fn busy_while<R>(f: impl FnOnce() -> R) -> R {
    let set = |busy: bool| {
        let top = borrow().and_then(|levels| levels.stack.last_mut())?;
        Some((top.serial, std::mem::replace(&mut top.busy, busy)))
    };
    let before = set(true);
    let result = f();
    if let Some((serial, busy)) = before {
        change(serial, |level| level.busy = busy);
    }
    result
}

/// Takes the innermost level away, if it is `serial` and `is` accepts it; then what it noted before and held.
#[inline(always)] // a level is large: read where it is
pub(crate) fn pop_if(serial: u64, is: impl FnOnce(&Level) -> bool) -> Option<(Option<Noted>, Hold)> {
    let levels = borrow()?;
    let top = levels.stack.last().filter(|top| top.serial == serial && is(top))?;
    let taken = (top.noted_before, top.hold);
    levels.stack.pop();
    if levels.orphaned {
        free_if_orphaned();
    }
    Some(taken)
}

/// The innermost level.
#[inline]
pub(crate) fn top() -> Option<Level> {
    borrow()?.stack.last().copied()
}

/// Does the innermost level have `state` attached for the interpreter that `level` is of?
///
/// # Safety
/// The runtime of the levels of that registry has `S` for its thread states.
#[inline(always)]
pub(crate) unsafe fn top_is<S: Copy + Eq>(level: &Level, state: S) -> bool {
    let top = borrow().and_then(|levels| levels.stack.last());
    top.is_some_and(|top| {
        // SAFETY: of the same registry, and so by the caller's promise.
        top.table == level.table
            && top.id == level.id
            && top.has_state
            && !top.lost
            && unsafe { top.state.get::<S>() } == state
    })
}

/// The level with this serial number.
pub(crate) fn find(serial: u64) -> Option<Level> {
    find_map(|level| (level.serial == serial).then_some(*level))
}

/// Changes the level with this serial number.
pub(crate) fn change(serial: u64, change: impl FnOnce(&mut Level)) {
    let levels = borrow().map(|levels| levels.stack.as_mut_slice()).unwrap_or_default();
    if let Some(level) = levels.iter_mut().rev().find(|level| level.serial == serial) {
        change(level);
    }
}

/// Notes that `id` of the table with this number has gone under its daemon levels, and that nothing of it is attached.
pub(crate) fn lose(registry: u64, id: InterpreterId) {
    for level in borrow().map(|levels| levels.stack.as_mut_slice()).unwrap_or_default() {
        level.lost |= level.table.serial == registry && level.id == id;
    }
}

/// Looks through the levels from the innermost out.
fn find_map<R>(f: impl FnMut(&Level) -> Option<R>) -> Option<R> {
    borrow()?.stack.iter().rev().find_map(f)
}

/// The guard, if any, by which a level of this thread keeps `id` from finalizing.
#[inline]
pub(crate) fn guard_of(table: &Table, id: InterpreterId) -> Option<GuardParts> {
    guard_in(table.serial(), id)
}

/// [`guard_of`], of the table with this number.
#[inline]
pub(crate) fn guard_in(registry: u64, id: InterpreterId) -> Option<GuardParts> {
    find_map(|level| if level.table.serial == registry { level.guard_of(id) } else { None })
}

/// A thread state that the levels remember for `id`.
pub(crate) fn state_of(table: &Table, id: InterpreterId) -> Option<Erased> {
    let here = table.serial();
    find_map(|level| match level.before {
        _ if level.table.serial == here && level.id == id && level.has_state && !level.lost => {
            Some(level.state)
        }
        Before::State { state, id: left, registry, .. } if registry == here && left == id => Some(state),
        _ => None,
    })
}

/// The innermost level of runtime `runtime` that `is` accepts.
pub(crate) fn of_runtime(runtime: TypeId, mut is: impl FnMut(&Level) -> bool) -> Option<Level> {
    find_map(|level| (level.runtime == runtime && is(level)).then_some(*level))
}

/// For a forked child: calls `f` with every guard of `table` that this thread's levels hold, to be counted anew.
pub(crate) fn for_each_guard(table: &Table, mut f: impl FnMut(&mut GuardParts)) {
    let table = TableRef::new(table);
    for level in borrow().map(|levels| levels.stack.as_mut_slice()).unwrap_or_default() {
        if level.table == table {
            level.guards_mut().into_iter().flatten().for_each(&mut f);
        }
    }
}

impl Level {
    /// The guard of `id` that this level holds: its own, or that of what it left behind.
    #[inline]
    fn guard_of(&self, id: InterpreterId) -> Option<GuardParts> {
        match (&self.hold, &self.before) {
            (Hold::Own(parts), _) if self.id == id => Some(*parts),
            (_, Before::State { keep: Keep::Own(parts), id: left, .. }) if *left == id => Some(*parts),
            _ => None,
        }
    }

    /// Both of them.
    fn guards_mut(&mut self) -> [Option<&mut GuardParts>; 2] {
        let own = match &mut self.hold {
            Hold::Own(parts) => Some(parts),
            Hold::Covered | Hold::Daemon => None,
        };
        let kept = match &mut self.before {
            Before::State { keep: Keep::Own(parts), .. } => Some(parts),
            _ => None,
        };
        [own, kept]
    }

    /// Does the level use what it found attached, and is that attached still?
    ///
    /// # Safety
    /// The level's runtime has `S` for its thread states.
    #[inline(always)]
    pub unsafe fn reuses<S: Copy + Eq>(&self, attached: Option<S>) -> bool {
        // SAFETY: the caller's promise.
        matches!(self.before, Before::Same)
            && !self.lost
            && !self.busy
            && attached == Some(unsafe { self.state.get() })
    }

    /// The level's table.
    ///
    /// # Safety
    /// It lives.
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
