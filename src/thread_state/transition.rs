//! How a thread gets to an interpreter, and back: what every ensure and release does, by whatever handle.
//!
//! On the way in, in this order: guard the interpreter that is left behind; find or create a thread state; detach the old one;
//! attach. On the way out: detach or destroy; restore; and only then give the guards up. The other order would let an
//! interpreter finalize between the drop of its guard and the moment at which this thread attaches to it again.

use super::blockers;
use super::error::ReleaseError;
use super::levels::{
    self, At, BUSY, CREATED, Erased, Hold, Keep, Kind, LOST, Left, Level, LevelRef, NO_STATE, REUSES,
};
use super::owner::{self, Owner};
use super::{CreateError, Runtime};
use crate::registry::{entering, known};
use crate::signal_safe::guard::{GuardParts, RawGuard};
use crate::signal_safe::table::Table;
use crate::signal_safe::this_thread::{Noted, ThisThread, this_thread};
use crate::{InterpreterId, LookupError, Site};
use std::any::TypeId;
use std::marker::PhantomData;

const CHANGED: CreateError =
    CreateError::new("what was attached on this thread changed while the runtime made a thread state");

/// What is attached on this thread. `level` is the innermost of its levels that is not just beginning.
#[inline(always)]
pub(super) fn attached_beside<T: Runtime>(level: Option<LevelRef>) -> Option<T::ThreadState> {
    let level = level.filter(|level| level.is_of(TypeId::of::<T>()) && !level.is(NO_STATE | LOST));
    // SAFETY: the level is of this runtime.
    let ours = level.map(|level| unsafe { level.state.get().get::<T::ThreadState>() });
    ours.filter(|_| T::attached_or_anothers() == ours).or_else(T::attached)
}

/// Is the level of this table, which is a `Registry<T>`'s? It may have been moved since.
#[inline(always)]
pub(super) fn is_of<T: Runtime>(level: &Level, table: &Table) -> bool {
    T::ALONE || level.table.serial == table.serial()
}

/// Is the innermost level's thread state attached, may ensures be counted in it, and are handlers told of it, if they are told at
/// all? By a level, they are told of the innermost alone, unless that is busy: on its way in a level tells them that nothing is
/// attached, before anything is, and on its way out what the level around it has told them. What a runtime tells them is of no
/// registry.
///
/// # Safety
/// It is of runtime `T`.
#[inline(always)]
unsafe fn is_plain<T: Runtime>(here: &ThisThread, top: &Level) -> bool {
    top.counts() && (!T::NOTES || here.registry() == top.table.serial) && {
        let attached = T::attached_or_anothers();
        // SAFETY: the caller's promise.
        attached == Some(unsafe { top.state.get().get() })
    }
}

/// Tells handlers.
#[inline(always)]
fn note<T: Runtime>(here: &ThisThread, noted: Option<Noted>) {
    if T::NOTES {
        here.set_attached(noted);
    }
}

/// Counts one more ensure in the innermost level, if that is one of this table that `is` accepts, guarded and attached. A level
/// stays with the place of its table: once that has been moved, nothing more is counted in it.
#[inline(always)]
pub(super) fn nest<T: Runtime>(table: &Table, is: impl FnOnce(&Level) -> bool) -> Option<At> {
    let here = this_thread();
    let top = levels::top(here).filter(|top| is(top) && (T::ALONE || top.table.is_still(table)))?;
    // SAFETY: the levels of this table are of its registry's T.
    if !unsafe { is_plain::<T>(here, &top) } {
        return None;
    }
    debug_assert!(!T::NOTES || here.noted() == Some(top.noted()));
    top.count()
}

struct KindOf<T>(PhantomData<T>);

impl<T: Runtime> KindOf<T> {
    const KIND: &'static Kind =
        &Kind { runtime: TypeId::of::<T>, notes: T::NOTES, release: release_where_it_was::<T> };
}

/// Why a level was not entered, with what it was to hold: what the caller handed over, or what was counted in its place in a
/// child that was forked meanwhile.
pub(super) struct NotEntered {
    pub why: CreateError,
    pub hold: Hold,
}

/// Enters a level. On an error nothing changed, and the hold that comes with it is the caller's to give up.
///
/// # Safety
/// 1. `table` is a `Registry<T>`'s, and `interpreter` the payload of `id` in it, which stays until this has returned.
/// 2. `hold` is right: a guard of `id` that is handed over, or there is another level's, or nothing.
#[inline(always)]
pub(super) unsafe fn enter<T: Runtime>(
    here: &ThisThread,
    table: &Table,
    id: InterpreterId,
    interpreter: &T,
    hold: Hold,
    site: Site,
) -> Result<At, NotEntered> {
    let level = levels::begin(here, table, id, KindOf::<T>::KIND, hold, NO_STATE | BUSY, T::NOTES);
    // SAFETY: as there.
    unsafe { attach_beside(here, table, level, interpreter, site) }?;
    Ok(level.latest())
}

/// [`enter`], of a thread that is in no level. Most ensures are such, with nothing attached.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn enter_first<T: Runtime>(
    here: &ThisThread,
    table: &Table,
    id: InterpreterId,
    interpreter: &T,
    parts: GuardParts,
    site: Site,
) -> Result<At, NotEntered> {
    let hold = Hold::Own(parts);
    let level = levels::begin(here, table, id, KindOf::<T>::KIND, hold, NO_STATE | BUSY, T::NOTES);
    match T::attached() {
        // SAFETY: as there; nothing is attached.
        None => unsafe { attach::<T>(here, table, level, None, interpreter, None, site) }?,
        // SAFETY: as there.
        Some(_) => unsafe { attach_beside(here, table, level, interpreter, site) }?,
    }
    Ok(At { serial: level.serial, depth: 0 })
}

/// [`attach`], whatever this thread is in and has attached.
///
/// # Safety
/// As for [`enter`], of what the level was begun with.
#[inline(never)]
unsafe fn attach_beside<T: Runtime>(
    here: &ThisThread,
    table: &Table,
    level: LevelRef,
    interpreter: &T,
    site: Site,
) -> Result<(), NotEntered> {
    let id = level.id;
    let left = match attached_beside::<T>(level.outer()) {
        Some(state) => match Owner::of(table, state, Some((id, interpreter))) {
            Ok(owner) if owner.is(id) => {
                note::<T>(here, Some(level.noted()));
                level.begin_reusing(Erased::new(state));
                return Ok(());
            }
            found => match found.and_then(|owner| owner.may_be_left::<T>(state).map(|()| owner)) {
                Ok(owner) => Some((state, owner)),
                // SAFETY: of this table.
                Err(refused) => return Err(unsafe { refuse::<T>(here, table, level, refused) }),
            },
        },
        None => None,
    };
    // SAFETY: the caller's promise; `left` is what is attached.
    unsafe { attach(here, table, level, level.outer(), interpreter, left, site) }
}

/// Attaches for `level`, which has just begun: its own thread state, or a remembered one, or a new one. Ends the level if
/// there is none.
///
/// From here on the runtime's code runs, and may come back here. What it finds is this level, which holds what it holds: the one
/// around it is not the innermost any more, and cannot give up a guard that this one counts on.
///
/// # Safety
/// 1. As for [`enter`], of what the level was begun with.
/// 2. `left` is what is attached, with its owner; `table` and `outer` are the level's.
#[inline(always)]
unsafe fn attach<T: Runtime>(
    here: &ThisThread,
    table: &Table,
    level: LevelRef,
    outer: Option<LevelRef>,
    interpreter: &T,
    left: Option<(T::ThreadState, Owner)>,
    site: Site,
) -> Result<(), NotEntered> {
    let own = T::own();
    // The level itself is in no state yet; without another there is none to ask.
    let known = outer.and_then(|_| levels::state_of(table, level.id));
    // SAFETY: the levels of this table are of its registry's T.
    let known = known.map(|state| unsafe { state.get::<T::ThreadState>() });
    let is_its = |own: &T::ThreadState| interpreter.owns(*own) == Some(true);
    let known = known.or_else(|| own.filter(is_its)).or_else(|| interpreter.remembered());
    match (left, own) {
        (Some((state, owner)), _) => level.leave(owner.leave(table, outer, state, true, site)),
        (None, Some(own)) if known != Some(own) => leave_unbound(table, level, interpreter, own, site),
        _ => {}
    }
    let state = match known {
        Some(state) => state,
        None => match interpreter.create() {
            Ok(state) => state,
            // SAFETY: of this table.
            Err(refused) => return Err(unsafe { refuse::<T>(here, table, level, refused) }),
        },
    };
    // What they run may have left something behind: an ensure that it forgot, or a detached thread. Nothing can be said of what
    // would be restored.
    let has_changed = || T::attached() != left.map(|(left, _)| left) || !levels::is_innermost(here, level);
    if !T::CREATES_ALONE && has_changed() {
        // SAFETY: of this table.
        return Err(unsafe { refuse::<T>(here, table, level, CHANGED) });
    }
    // Not what was noted before: a level that they forgot may have changed that, and gone.
    if T::NOTES && !here.words().is_nothing() {
        note::<T>(here, None);
    }
    if let Some((left, _)) = left {
        // SAFETY: it is attached, as asked above.
        unsafe { T::detach(left) };
    }
    // SAFETY: (1) nothing is attached now; the state is this thread's: just created, remembered by the runtime, or used by
    // an outer level; (2) the caller's promise (1).
    unsafe { T::attach(state) };
    note::<T>(here, Some(level.noted()));
    level.begin_attached(Erased::new(state), known.is_none());
    Ok(())
}

/// Ends a level that has attached nothing. Its hold is the caller's.
///
/// # Safety
/// It is of this table.
#[cold]
#[inline(never)]
unsafe fn refuse<T: Runtime>(
    here: &ThisThread,
    table: &Table,
    level: LevelRef,
    why: CreateError,
) -> NotEntered {
    // As they are now: guards may have been counted anew, in a child forked meanwhile.
    let (hold, left, told) = (level.hold(), level.left(), level.noted_before::<T>());
    levels::end(here, level);
    if T::NOTES && here.words() != told {
        // By a level that what they ran has forgotten, and that has just gone: of no registry any more (see `is_plain`).
        here.set_attached(here.noted().map(|noted| Noted { registry: 0, ..noted }));
    }
    // SAFETY: taken out above: put together once.
    unsafe { give_up_left(table, left) };
    NotEntered { why, hold }
}

/// `own` is what the runtime takes for this thread's own thread state, with nothing attached. Attaching another one will change
/// that.
#[cold]
#[inline(never)]
fn leave_unbound<T: Runtime>(
    table: &Table,
    level: LevelRef,
    interpreter: &T,
    own: T::ThreadState,
    site: Site,
) {
    if let Ok(owner) = Owner::of(table, own, Some((level.id, interpreter))) {
        level.leave(owner.leave(table, level.outer(), own, false, site));
    }
}

/// The beginning of an allow-threads section. `state` is attached.
pub(super) fn detach_for_now<T: Runtime>(state: T::ThreadState) {
    note::<T>(this_thread(), None);
    // SAFETY: it is attached, say the callers, who have just asked.
    levels::busy_while(|| unsafe { T::detach(state) });
}

/// The end of an allow-threads section.
pub(super) fn attach_again<T: Runtime>(
    table: &Table,
    id: InterpreterId,
    state: T::ThreadState,
) -> Result<(), LookupError> {
    attach_kept::<T>(table, id, state).inspect_err(|_| levels::lose(table.serial(), id))?;
    note::<T>(this_thread(), Some(Noted { id, registry: table.serial() }));
    Ok(())
}

/// Attaches where a level of this thread guards the interpreter, or else through the gate: for as long as another's
/// guard is out.
fn attach_kept<T: Runtime>(
    table: &Table,
    id: InterpreterId,
    state: T::ThreadState,
) -> Result<(), LookupError> {
    // SAFETY: (1) the callers have left nothing attached, and `state` is this thread's; (2) the guard, which its level does not
    // give up meanwhile, or `enter`.
    let attach = || levels::busy_while(|| unsafe { T::attach(state) });
    match levels::guard_of(table, id) {
        Some(_) => attach(),
        None => entering::enter(table, id, blockers::keeps_others_from_attaching::<T>, |_| attach())?,
    }
    Ok(())
}

/// Releases an ensure of this table, if it is the innermost of this thread.
///
/// # Safety
/// Its level is of this table, which is a `Registry<T>`'s, if there is one.
#[inline(always)]
pub(super) unsafe fn release<T: Runtime>(table: &Table, at: At) -> Result<(), ReleaseError> {
    let here = this_thread();
    match levels::top(here).filter(|top| top.latest() == at) {
        // SAFETY: the caller's promise.
        Some(level) => unsafe { release_top::<T>(here, table, level) },
        // SAFETY: the caller's promise.
        None => unsafe { release_otherwise::<T>(table, at) },
    }
}

/// [`release`], of the latest ensure of the innermost level, by those who have not been given its table.
///
/// # Safety
/// It is of runtime `T`, and its table is where it was.
unsafe fn release_where_it_was<T: Runtime>(level: LevelRef) -> Result<(), ReleaseError> {
    // SAFETY: the caller's promise.
    unsafe { release_top::<T>(this_thread(), level.table(), level) }
}

/// [`release`], of the latest ensure of the innermost level.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn release_top<T: Runtime>(
    here: &ThisThread,
    table: &Table,
    level: LevelRef,
) -> Result<(), ReleaseError> {
    // SAFETY: it is of T.
    if !unsafe { is_plain::<T>(here, &level) } {
        // SAFETY: the caller's promise.
        return unsafe { release_otherwise::<T>(table, level.latest()) };
    }
    if level.has_counted() {
        level.count_off();
        return Ok(());
    }
    // SAFETY: the caller's promise; asked above.
    unsafe { release_plain::<T>(table, level) }
}

/// [`release`], of the last ensure of the innermost level, whose thread state is attached.
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn release_plain<T: Runtime>(table: &Table, level: LevelRef) -> Result<(), ReleaseError> {
    // Asked for again: to keep it over the question what is attached costs those more that are merely counted off.
    let here = this_thread();
    // SAFETY: the level's states are Ts'.
    let state = unsafe { level.state.get().get::<T::ThreadState>() };
    let reuses = level.is(REUSES);
    if level.has_left() || !reuses && T::in_use(state) {
        // SAFETY: the caller's promise; it is attached.
        return unsafe { leave::<T>(here, table, level) };
    }
    // What `leave` comes to, without its questions.
    if !reuses {
        let created = level.is(CREATED);
        level.set(BUSY, true);
        note::<T>(here, None);
        // SAFETY: attached; created by this level, which is on its way out, or else to be attached again.
        unsafe { if created { T::destroy(state) } else { T::detach(state) } };
    }
    if T::NOTES {
        here.put_back(level.noted_before::<T>());
    }
    let hold = level.hold();
    levels::end(here, level);
    // SAFETY: taken out above: put together once.
    unsafe { give_up_hold(table, hold) };
    Ok(())
}

/// [`release`], of whatever it is.
///
/// # Safety
/// As there.
#[cold]
#[inline(never)]
unsafe fn release_otherwise<T: Runtime>(table: &Table, at: At) -> Result<(), ReleaseError> {
    let (here, level) = (this_thread(), innermost(at)?);
    let attached = attached_beside::<T>(Some(level));
    // SAFETY: the level's states are Ts', and one that is not busy has one.
    let state = unsafe { level.state.get().get::<T::ThreadState>() };
    let lost = has_lost::<T>(table, level, attached, state);
    if attached != (!lost).then_some(state) {
        return Err(ReleaseError::Detached);
    }
    // SAFETY: the caller's promise; it is attached, or lost.
    unsafe { leave::<T>(here, table, level) }
}

/// Takes the latest ensure off the innermost level, and ends that with its first.
///
/// # Safety
/// As for [`release`]; and the level's thread state is attached, or the level has lost it.
#[inline(never)]
unsafe fn leave<T: Runtime>(here: &ThisThread, table: &Table, level: LevelRef) -> Result<(), ReleaseError> {
    let lost = level.is(LOST);
    if level.has_counted() {
        level.count_off();
        note::<T>(here, (!lost).then(|| level.noted()));
        return Ok(());
    }
    // SAFETY: the level's states are Ts'.
    let state = unsafe { level.state.get().get::<T::ThreadState>() };
    if !lost && !level.is(REUSES) && T::in_use(state) {
        return Err(ReleaseError::InUse);
    }
    let mut restored = Ok(());
    if level.is(REUSES) {
        if lost {
            restored = Err(ReleaseError::Gone);
        }
    } else {
        level.set(BUSY, true);
        if !lost {
            note::<T>(here, None);
            if level.is(CREATED) {
                // SAFETY: attached, says the caller; this level created it and is on its way out, and the levels further in that
                // used it are gone.
                unsafe { T::destroy(state) };
                level.set(NO_STATE, true);
            } else {
                // SAFETY: attached, says the caller.
                unsafe { T::detach(state) };
            }
        }
        if let Some(left) = level.left() {
            restored = restore::<T>(table, left);
        }
    }
    match restored {
        Ok(()) if T::NOTES => here.put_back(level.noted_before::<T>()),
        _ => note::<T>(here, None),
    }
    // What the level holds at the end: guards may have been counted anew, in a child forked meanwhile.
    let (left, hold) = (level.left(), level.hold());
    levels::end(here, level);
    // SAFETY: taken out above: put together once.
    unsafe { give_up(table, left, hold) };
    restored
}

/// Has a daemon level lost its interpreter? It may not have been told yet: where that ended under it, on this thread or on
/// another, the runtime says that nothing is attached, or that something else is. Of an interpreter that lives on without its
/// registry that says nothing.
pub(super) fn has_lost<T: Runtime>(
    table: &Table,
    level: LevelRef,
    attached: Option<T::ThreadState>,
    state: T::ThreadState,
) -> bool {
    if level.is(LOST) || T::LIVES_ON {
        return level.is(LOST);
    }
    let is_there = !matches!(level.hold(), Hold::Daemon)
        || levels::guard_of(table, level.id).is_some()
        || table.find(level.id).is_some();
    if is_there || attached == Some(state) && T::interpreter_of(state) == level.id {
        return false;
    }
    levels::lose(table.serial(), level.id);
    true
}

/// Attaches to an interpreter of the table with number `registry`, unless it is gone.
fn attach_through_gate<T: Runtime>(
    table: &Table,
    id: InterpreterId,
    registry: u64,
    state: T::ThreadState,
) -> Result<(), LookupError> {
    match registry == table.serial() {
        true => attach_kept::<T>(table, id, state),
        // SAFETY: (1) nothing is attached; the state was on this thread before; (2) `enter` keeps it.
        false => known::enter(registry, id, blockers::keeps_others_from_attaching::<T>, || unsafe {
            T::attach(state);
        }),
    }
}

/// Puts back what a level has left behind, or notes that it is gone. Nothing is attached.
#[inline(never)]
fn restore<T: Runtime>(table: &Table, left: Left) -> Result<(), ReleaseError> {
    // SAFETY: the levels that leave Ts' states behind are Ts'.
    let state = unsafe { left.state.get::<T::ThreadState>() };
    if !left.was_attached {
        bind_again::<T>(table, left, state);
        return Ok(());
    }
    let restored = match left.keep {
        Keep::Own(_) | Keep::Covered => {
            // SAFETY: (1) nothing is attached; the state was on this thread before; (2) guarded by this level or one
            // further out.
            unsafe { T::attach(state) };
            Ok(())
        }
        Keep::Gate => attach_through_gate::<T>(table, left.id, left.registry, state),
        Keep::Runtime => match owner::now_in::<T>(table, left.id, state) {
            Ok(None) => {
                // SAFETY: (1) as above; (2) no registry has it: the runtime's own affair.
                unsafe { T::attach(state) };
                Ok(())
            }
            Ok(Some(registry)) => attach_through_gate::<T>(table, left.id, registry, state),
            Err(gone) => Err(gone),
        },
        Keep::Gone => Err(LookupError::NotFound),
    };
    if restored.is_err() && T::LIVES_ON {
        // SAFETY: (1) as above; (2) no registry has it, or none will much longer: the runtime's own affair, as it says.
        unsafe { T::attach(state) };
        return Ok(());
    }
    restored.map_err(|_| {
        levels::lose(left.registry, left.id);
        ReleaseError::Gone
    })
}

/// Has the runtime take `state` for this thread's own again, where its interpreter is kept meanwhile. (Else it may end, and nobody
/// could say whether it can be attached.)
fn bind_again<T: Runtime>(table: &Table, left: Left, state: T::ThreadState) {
    let is_bound = T::own() == Some(state);
    let is_kept = || match left.keep {
        Keep::Own(_) | Keep::Covered => {
            // SAFETY: (1) nothing is attached; the state is this thread's; (2) guarded by this level or one further out.
            unsafe { T::attach(state) };
            true
        }
        Keep::Gate => attach_through_gate::<T>(table, left.id, left.registry, state).is_ok(),
        Keep::Runtime | Keep::Gone => false,
    };
    if !is_bound && is_kept() {
        // SAFETY: attached right above.
        unsafe { T::detach(state) };
    }
}

/// The level that stands for an ensure, if it is the innermost.
pub(super) fn innermost(at: At) -> Result<LevelRef, ReleaseError> {
    match levels::top(this_thread()) {
        Some(top) if top.latest() == at && !top.is(BUSY) => Ok(top),
        _ if levels::find(at).is_some() => Err(ReleaseError::OutOfOrder),
        _ => Err(ReleaseError::Unknown),
    }
}

/// Gives up the guards of a level: of what it had left behind, then its own.
///
/// # Safety
/// `table` is the level's. The guards are used no more.
#[inline(always)]
unsafe fn give_up(table: &Table, left: Option<Left>, hold: Hold) {
    if left.is_some() {
        // SAFETY: the caller's promise.
        unsafe { give_up_left(table, left) };
    }
    // SAFETY: the caller's promise.
    unsafe { give_up_hold(table, hold) };
}

/// # Safety
/// As for [`give_up`].
#[inline(never)]
unsafe fn give_up_left(table: &Table, left: Option<Left>) {
    if let Some(Left { keep: Keep::Own(parts), .. }) = left {
        // SAFETY: the caller's promise.
        drop(unsafe { RawGuard::from_parts(table, parts) });
    }
}

/// # Safety
/// `hold` is one of `table`, and used no more.
#[inline(always)]
pub(super) unsafe fn give_up_hold(table: &Table, hold: Hold) {
    if let Hold::Own(parts) = hold {
        // SAFETY: the caller's promise.
        drop(unsafe { RawGuard::from_parts(table, parts) });
    }
}

/// See [`Attached::set_daemon`](super::Attached::set_daemon). `level` is the innermost, and of `table`.
pub(super) fn set_daemon(
    table: &Table,
    level: LevelRef,
    daemon: bool,
    site: Site,
) -> Result<(), LookupError> {
    let hold = match (daemon, level.hold()) {
        (true, _) => Hold::Daemon,
        (false, Hold::Daemon) if level.is(LOST) => return Err(LookupError::NotFound),
        (false, Hold::Daemon) => {
            cover(table, level.id, || table.lookup(level.id, site).map(RawGuard::into_parts))?
        }
        (false, Hold::Own(_) | Hold::Covered) => return Ok(()),
    };
    // Those that it was counted with keep what they have.
    let level = levels::split(level, level.latest().depth);
    let before = level.hold();
    level.set_hold(hold);
    if daemon {
        // SAFETY: taken out of the level above.
        unsafe { give_up_hold(table, before) };
    }
    Ok(())
}

/// Under the guard of another level of this thread, or else the one that `take` takes.
#[inline(always)]
pub(super) fn cover<E>(
    table: &Table,
    id: InterpreterId,
    take: impl FnOnce() -> Result<GuardParts, E>,
) -> Result<Hold, E> {
    match levels::guard_of(table, id) {
        Some(_) => Ok(Hold::Covered),
        None => take().map(Hold::Own),
    }
}
