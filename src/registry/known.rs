//! The registries of this process, by the type of what they hold: for threads that meet an interpreter of another one.
//!
//! A thread may come to one registry while it is attached to an interpreter of another. What a runtime says of a thread state
//! is an ID, and IDs are unique within one registry only. So each published registry is known here, with another head of its
//! table (a registry may be moved; its memory stays); and so are the IDs that have been retired, for those say that
//! whatever is still attached under them is not to be attached again.
//!
//! Under one lock of the process, for a few steps at a time. It is never taken with a registry's mutex held, nor is such a
//! mutex taken under it, so that forks may take both in any order. Every fork holds it.

use super::setup::Mappings;
use crate::LookupError;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use rangemap::RangeInclusiveSet;
use std::any::TypeId;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// One published registry.
struct Known {
    holds: TypeId,
    head: Table,
    _mappings: Arc<Mappings>,
}

struct Everything {
    registries: Vec<Arc<Known>>,
    /// IDs whose interpreters have been handed back, or dropped with their registry.
    retired: BTreeMap<TypeId, RangeInclusiveSet<i64>>,
}

static EVERYTHING: Mutex<Everything> =
    Mutex::new(Everything { registries: Vec::new(), retired: BTreeMap::new() });

/// How many registries are known, for who need not ask further where there is one.
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The lock, while this thread forks. Not dropped when the thread ends: a destructor that a thread has yet to run would keep
    /// a library that was loaded at run time from being unloaded.
    static HELD: Cell<Option<ManuallyDrop<MutexGuard<'static, Everything>>>> = const { Cell::new(None) };
    /// Is this thread inside [`with`]? For a handler that forks there.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Calls `f` under the lock. `f` calls nothing that comes back here.
fn with<R>(f: impl FnOnce(&mut Everything) -> R) -> R {
    INSIDE.set(true);
    let result = match HELD.take() {
        // Forking: what other handlers of the fork do may come here.
        Some(mut everything) => {
            let result = f(&mut everything);
            HELD.set(Some(everything));
            result
        }
        None => f(&mut lock()),
    };
    INSIDE.set(false);
    result
}

fn lock() -> MutexGuard<'static, Everything> {
    // What is changed under it is changed in steps that do not unwind half-way.
    EVERYTHING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before a fork: holds the lock, so that the child has it as the parent has it. A fork inside [`with`], in a signal handler,
/// leaves the lock to what was interrupted, on both sides.
extern "C" fn hold() {
    if !INSIDE.get() {
        HELD.set(Some(ManuallyDrop::new(lock())));
    }
}

/// After a fork, on both sides.
extern "C" fn let_go() {
    if !INSIDE.get()
        && let Some(held) = HELD.take()
    {
        drop(ManuallyDrop::into_inner(held));
    }
}

/// Has every fork of the process hold the lock, from the first registry on.
fn heed_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: functions that live as long as this library, with whose unloading the C library forgets them. It fails
        // for lack of memory only; forks then are as safe as a plain mutex makes them.
        unsafe { libc::pthread_atfork(Some(hold), Some(let_go), Some(let_go)) };
    });
}

/// Notes a registry whose table has just been published on `mappings`.
///
/// # Safety
/// `mappings` are the memory behind `table`.
pub(super) unsafe fn add<T: 'static>(table: &Table, mappings: Arc<Mappings>) {
    // SAFETY: (1) they are dropped after it, below; (2) only `enter` is called on it.
    let Some(head) = (unsafe { table.another_head() }) else { return };
    let known = Arc::new(Known { holds: TypeId::of::<T>(), head, _mappings: mappings });
    heed_forks();
    with(|everything| {
        if everything.registries.iter().any(|other| other.head.serial() == known.head.serial()) {
            return; // another thread's first registration
        }
        everything.registries.push(known);
        // Release: pairs with the Acquire in `is_alone`: who counts this registry finds it.
        COUNT.store(everything.registries.len(), Ordering::Release);
    });
}

/// Forgets a registry of `T`s that is being dropped with `left` in it.
pub(super) fn remove<T: 'static>(serial: u64, left: impl Iterator<Item = InterpreterId>) {
    let gone = with(|everything| {
        let retired = everything.retired.entry(TypeId::of::<T>()).or_default();
        left.map(i64::from).for_each(|id| retired.insert(id..=id));
        let at = everything.registries.iter().position(|known| known.head.serial() == serial)?;
        let gone = everything.registries.swap_remove(at);
        // Release: as in `add`.
        COUNT.store(everything.registries.len(), Ordering::Release);
        Some(gone)
    });
    drop(gone); // its memory goes with whoever uses it last, and not under the lock
}

/// Notes that an interpreter of type `T` is about to be taken out of its registry.
pub(crate) fn retire<T: 'static>(id: InterpreterId) {
    let id = i64::from(id);
    with(|everything| everything.retired.entry(TypeId::of::<T>()).or_default().insert(id..=id));
}

/// Is there no registry but one, of whatever type?
pub(crate) fn is_alone() -> bool {
    // Acquire: pairs with the Release in `add`.
    COUNT.load(Ordering::Acquire) <= 1
}

/// What the other registries of a type say of an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// It was never theirs.
    Nowhere,
    /// One of them had it, or the registry that asks.
    Retired,
    /// It is in one of them, live or closing: the serial number of its table.
    In(u64),
    /// It is in more than one of them.
    Ambiguous,
}

/// Looks for `id` in the registries of `T`s other than the one with number `here`.
///
/// O(registries).
pub(crate) fn elsewhere<T: 'static>(here: u64, id: InterpreterId) -> Elsewhere {
    with(|everything| {
        let mut found = Elsewhere::Nowhere;
        let others = everything.registries.iter();
        for known in others.filter(|known| known.holds == TypeId::of::<T>() && known.head.serial() != here) {
            if known.head.find(id).is_some() {
                found = match found {
                    Elsewhere::Nowhere => Elsewhere::In(known.head.serial()),
                    _ => Elsewhere::Ambiguous,
                };
            }
        }
        // Asked after the tables: whoever takes an interpreter out of one notes it here first.
        let retired = everything.retired.get(&TypeId::of::<T>());
        match retired.is_some_and(|retired| retired.contains(&id.into())) {
            true if found == Elsewhere::Nowhere => Elsewhere::Retired,
            _ => found,
        }
    })
}

/// Calls `attach` while the interpreter `id` of the table with this number is kept from being taken out of it.
///
/// # Errors
/// As [`Table::enter`]; `NotFound` also if the registry has been dropped.
pub(crate) fn enter(serial: u64, id: InterpreterId, attach: impl FnOnce()) -> Result<(), LookupError> {
    let find = |everything: &mut Everything| {
        everything.registries.iter().find(|known| known.head.serial() == serial).cloned()
    };
    let known = with(find).ok_or(LookupError::NotFound)?;
    let entry = known.head.enter(id)?;
    attach();
    drop(entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn an_id_is_found_in_the_other_registries_of_its_type() {
        struct Mine;
        let (one, two) = (Registry::new(), Registry::new());
        let id = one.register(Mine).unwrap();
        let here = |registry: &Registry<Mine>| elsewhere::<Mine>(registry.table().serial(), id);
        assert_eq!((here(&one), here(&two)), (Elsewhere::Nowhere, Elsewhere::In(one.table().serial())));
        assert!(!is_alone() || two.layout().is_none());
        assert_eq!(elsewhere::<u8>(0, id), Elsewhere::Nowhere, "another type's");
        assert_eq!(two.register(Mine).unwrap(), id);
        assert_eq!(here(&two), Elsewhere::In(one.table().serial()));
        assert_eq!(elsewhere::<Mine>(0, id), Elsewhere::Ambiguous);
        let moved = Box::new(one);
        assert_eq!(here(&two), Elsewhere::In(moved.table().serial()), "wherever it lies");
        assert!(moved.finalize(id, None).is_ok());
        assert_eq!(here(&two), Elsewhere::Retired);
        let serial = two.table().serial();
        assert_eq!(elsewhere::<Mine>(0, id), Elsewhere::In(serial));
        drop(two);
        assert_eq!(elsewhere::<Mine>(0, id), Elsewhere::Retired);
        assert_eq!(enter(serial, id, || unreachable!()), Err(LookupError::NotFound));
    }

    /// What other fork handlers of the thread do, and a fork in a handler that interrupted the section.
    #[test]
    fn a_thread_that_forks_is_not_kept_out() {
        struct Mine;
        hold();
        let registry = Registry::new();
        let id = registry.register(Mine).unwrap();
        assert!(registry.finalize(id, None).is_ok());
        let_go();
        with(|everything| {
            hold();
            let_go();
            assert!(everything.retired[&TypeId::of::<Mine>()].contains(&id.into()));
        });
        assert_eq!(elsewhere::<Mine>(0, id), Elsewhere::Retired);
    }
}
