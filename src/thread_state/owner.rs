//! Whose is a thread state that is attached on the calling thread?
//!
//! A level that uses it knows. Of one that the runtime's own code has attached, the runtime knows an ID, which may be given
//! out by more than one registry: then it is looked for in all of them, and where that leaves a doubt, the runtime is asked
//! ([`Runtime::owns`]) or the thread is sent away. Nothing is attached on a guess.

use super::levels::{self, Erased, Keep, LOST, Left, Level, LevelRef, NO_STATE};
use super::{CreateError, Runtime};
use crate::registry::known::{self, Elsewhere};
use crate::signal_safe::guard::RawGuard;
use crate::signal_safe::table::Table;
use crate::signal_safe::this_thread::this_thread;
use crate::{InterpreterId, LookupError, Site};
use std::any::TypeId;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub id: InterpreterId,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The table that asks had or has it.
    Here,
    /// The table with this number had or has it.
    Elsewhere(u64),
    /// Some registry had it, and it has been taken out.
    Gone,
    /// No registry ever had it.
    Nowhere,
}

const AMBIGUOUS: CreateError = CreateError::new(
    "this thread is attached natively to an interpreter whose ID another registry has as well, and Runtime::owns does not say \
     which one it is",
);
const FOREIGN_DAEMON: CreateError = CreateError::new(
    "what this thread is attached to is a daemon of another registry; detach it, or give that level a guard, and try again",
);
const IN_USE: CreateError =
    CreateError::new("what this thread is attached to is in use, and cannot be detached now");

impl Owner {
    /// The owner of `state`, which is attached, as a registry of `T`s with this table sees it. `target` is an interpreter of it
    /// that the caller has at hand.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn of<T: Runtime>(
        table: &Table,
        state: T::ThreadState,
        target: Option<(InterpreterId, &T)>,
    ) -> Result<Self, CreateError> {
        let id = T::interpreter_of(state);
        if let Some(level) = level_with::<T>(state).filter(|level| level.id == id) {
            let place = match level.table.serial {
                serial if serial == table.serial() => Place::Here,
                serial => Place::Elsewhere(serial),
            };
            return Ok(Self { id, place });
        }
        let says = match target {
            Some((target, interpreter)) if target == id => Some(interpreter.owns(state)),
            _ => owns::<T>(table, id, state),
        };
        // `None`: it is not here, or not to be asked any more. `Some(None)`: it does not say.
        let (here, says) = (says.is_some() || table.find(id).is_some(), says.flatten());
        if here && (says == Some(true) || says.is_none() && known::is_alone()) {
            return Ok(Self { id, place: Place::Here });
        }
        let place = match (here, known::elsewhere(table.serial(), id, |other: &T| other.owns(state))) {
            // A namesake that is gone does not count where the runtime says nothing: see `Runtime`, requirement 7.
            (true, Elsewhere::Nowhere | Elsewhere::Retired) if says.is_none() => Place::Here,
            (true, Elsewhere::In(_)) if says.is_none() => return Err(AMBIGUOUS),
            (_, Elsewhere::Nowhere) => Place::Nowhere,
            (_, Elsewhere::Retired) => Place::Gone,
            (_, Elsewhere::In(serial)) => Place::Elsewhere(serial),
            (_, Elsewhere::Ambiguous) => return Err(AMBIGUOUS),
        };
        Ok(Self { id, place })
    }

    /// Is it interpreter `id` of the table that asked?
    #[inline]
    pub fn is(self, id: InterpreterId) -> bool {
        self.id == id && self.place == Place::Here
    }

    /// Is it one of the table that asked?
    pub fn is_here(self) -> bool {
        self.place == Place::Here
    }

    /// The number of the table that has it, seen from `table`, which asked; 0 if none has.
    fn registry(self, table: &Table) -> u64 {
        match self.place {
            Place::Here => table.serial(),
            Place::Elsewhere(serial) => serial,
            Place::Gone | Place::Nowhere => 0,
        }
    }

    /// May `state`, which is its, be detached and attached again later?
    ///
    /// # Errors
    /// It is in use where it is. Or it is a daemon level's of another registry.
    pub fn may_be_left<T: Runtime>(self, state: T::ThreadState) -> Result<(), CreateError> {
        if T::in_use(state) {
            return Err(IN_USE);
        }
        match self.place {
            Place::Elsewhere(serial)
                if levels::guard_from(levels::top(this_thread()), serial, self.id).is_none() =>
            {
                level_with::<T>(state).map_or(Ok(()), |_| Err(FOREIGN_DAEMON))
            }
            _ => Ok(()),
        }
    }

    /// Leaves `state`, which is its, behind: with a guard, where there is one to be had. `outer` is the level around the one that
    /// leaves it, whose own guard may be given up before.
    pub fn leave<S: Copy>(
        self,
        table: &Table,
        outer: Option<LevelRef>,
        state: S,
        was_attached: bool,
        site: Site,
    ) -> Left {
        let (registry, keep) = (self.registry(table), self.keep(table, outer, site));
        Left { state: Erased::new(state), id: self.id, registry, keep, was_attached }
    }

    fn keep(self, table: &Table, outer: Option<LevelRef>, site: Site) -> Keep {
        let is_covered = |registry| levels::guard_from(outer, registry, self.id).is_some();
        match self.place {
            Place::Here if is_covered(table.serial()) => Keep::Covered,
            Place::Here => match table.lookup(self.id, site) {
                Ok(guard) => Keep::Own(RawGuard::into_parts(guard)),
                Err(LookupError::Finalizing) => Keep::Gate,
                Err(LookupError::NotFound) => Keep::Gone,
            },
            Place::Elsewhere(serial) if is_covered(serial) => Keep::Covered,
            Place::Elsewhere(_) => Keep::Gate,
            Place::Gone => Keep::Gone,
            Place::Nowhere => Keep::Runtime,
        }
    }
}

/// Interpreter `id` was in no registry when a thread left it: the number of the table that has it now, if one does.
///
/// # Errors
/// `NotFound`: it was registered meanwhile, and is gone. Or nobody can say which of several it is.
pub(super) fn now_in<T: Runtime>(
    table: &Table,
    id: InterpreterId,
    state: T::ThreadState,
) -> Result<Option<u64>, LookupError> {
    let here = table.find(id).map(|_| table.serial());
    match (here, known::elsewhere(table.serial(), id, |other: &T| other.owns(state))) {
        (here, Elsewhere::Nowhere) => Ok(here),
        (None, Elsewhere::In(serial)) => Ok(Some(serial)),
        _ => Err(LookupError::NotFound),
    }
}

/// The innermost level that uses `state`, of whatever registry.
fn level_with<T: Runtime>(state: T::ThreadState) -> Option<LevelRef> {
    // SAFETY: the states of levels of this runtime are Ts'.
    let its = |level: &Level| unsafe { level.state.get().get::<T::ThreadState>() };
    levels::of_runtime(TypeId::of::<T>(), |level| !level.is(NO_STATE | LOST) && its(level) == state)
}

/// What interpreter `id` of `table` says of `state`; `None` if it is not there to be asked.
fn owns<T: Runtime>(table: &Table, id: InterpreterId, state: T::ThreadState) -> Option<Option<bool>> {
    let entry = table.enter(id).ok()?;
    // SAFETY: the payloads of a registry of `T`s are `T`s, and this one stays until `entry` is dropped.
    let interpreter = unsafe { &*entry.payload().cast::<T>() };
    Some(interpreter.owns(state))
}
