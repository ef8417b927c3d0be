//! The registries of this process, by the type of what they hold: for threads that meet an interpreter of another one.
//!
//! A thread may come to one registry while it is attached to an interpreter of another. What a runtime says of a thread state
//! is an ID, and IDs are unique within one registry only. So each published registry is known here, with another head of its
//! table (a registry may be moved; its memory stays); and so are the IDs that have been retired, for those say that
//! whatever is still attached under them is not to be attached again.
//!
//! # The lock
//!
//! One of the process, held for a few steps at a time. Nobody takes it with a registry's mutex held, but for the thread that
//! forks: it takes it before the first such mutex (`forking`) and gives it back after the last, so that a child has what
//! is kept here whole. A child whose parent forked without telling any registry may find it held by a thread that it does not
//! have. It goes by its own number ([`process`]) and begins anew there, knowing less, rather than wait for ever.

use super::entering;
use super::setup::Mappings;
use crate::processes;
use crate::signal_safe::LookupError;
use crate::signal_safe::process;
use crate::signal_safe::table::{Blocks, Table};
use crate::signal_safe::word::InterpreterId;
use rangemap::RangeInclusiveSet;
use std::any::TypeId;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One published registry.
struct Known {
    holds: TypeId,
    head: Table,
    _mappings: Arc<Mappings>,
}

#[derive(Default)]
struct Everything {
    /// By the serial number of the table.
    registries: BTreeMap<u64, Arc<Known>>,
    /// IDs whose interpreters have been handed back, or dropped with their registry.
    retired: BTreeMap<TypeId, RangeInclusiveSet<i64>>,
}

/// What one process knows.
struct OfProcess {
    /// Of that process; 0 before the first use.
    number: AtomicU64,
    everything: Mutex<Everything>,
}

impl OfProcess {
    const fn new() -> Self {
        let everything = Everything { registries: BTreeMap::new(), retired: BTreeMap::new() };
        Self { number: AtomicU64::new(0), everything: Mutex::new(everything) }
    }
}

static FIRST: OfProcess = OfProcess::new();

/// Null for the first. Another one is leaked by a child that begins anew.
static LATER: AtomicPtr<OfProcess> = AtomicPtr::new(null_mut());

/// How many registries are known, for who need not ask further where there is one.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The lock, held by a thread that forks.
type Held = ManuallyDrop<MutexGuard<'static, Everything>>;

thread_local! {
    /// Not dropped when the thread ends: a destructor that a thread has yet to run would keep a library that was loaded at run
    /// time from being unloaded.
    static HELD: Cell<Option<Held>> = const { Cell::new(None) };
}

fn of_process() -> &'static OfProcess {
    loop {
        // Acquire: pairs with the Release below.
        let later = LATER.load(Ordering::Acquire);
        // SAFETY: null, or leaked below.
        let known = unsafe { later.as_ref() }.unwrap_or(&FIRST);
        // Relaxed, and so below: a number that is compared. What it says of this process, this process has stored.
        let number = known.number.load(Ordering::Relaxed);
        if number != 0 && number == process::number() {
            return known;
        }
        // Without that the number would be the parent's, and this would be what the parent knows.
        let _ = processes::tell_apart();
        // The first use, or a child's. Of its parent's threads it has none but a copy of the one that forked: if the lock is
        // free, nobody was in the middle of a change.
        if number == 0 || known.everything.try_lock().is_ok() {
            known.number.store(process::number(), Ordering::Relaxed);
            continue;
        }
        let new = Box::into_raw(Box::new(OfProcess::new()));
        // Release: pairs with the Acquire above. Another thread may have been first.
        if LATER.compare_exchange(later, new, Ordering::Release, Ordering::Relaxed).is_err() {
            // SAFETY: from the box above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(new) });
        }
    }
}

/// Where this library is unloaded, what is known goes with it. At the end of a process that runs too, and then a thread that
/// goes on finds nothing known.
extern "C" fn forget() {
    // Relaxed: as in `of_process`.
    if FIRST.number.load(Ordering::Relaxed) == 0 {
        return;
    }
    if let Ok(mut everything) = of_process().everything.try_lock() {
        *everything = Everything::default();
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_UNLOAD: extern "C" fn() = forget;

fn lock() -> MutexGuard<'static, Everything> {
    // What is changed under it is changed in steps that do not unwind half-way.
    of_process().everything.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `f` under the lock. `f` calls nothing that comes back here.
fn with<R>(f: impl FnOnce(&mut Everything) -> R) -> R {
    match HELD.take() {
        // Forking: what is called around the fork may come here.
        Some(mut everything) => {
            let result = f(&mut everything);
            HELD.set(Some(everything));
            result
        }
        None => f(&mut lock()),
    }
}

/// Holds the lock for the calling thread, which is about to fork, until [`let_go`]. Not twice.
pub(crate) fn hold() {
    HELD.set(Some(ManuallyDrop::new(lock())));
}

/// After the fork, on both sides.
pub(crate) fn let_go() {
    if let Some(held) = HELD.take() {
        drop(ManuallyDrop::into_inner(held));
    }
}

/// Notes a registry whose table has just been published on `mappings`.
///
/// # Safety
/// `mappings` are the memory behind `table`.
pub(super) unsafe fn add<T: 'static>(table: &Table, mappings: Arc<Mappings>) {
    // SAFETY: (1) they are dropped after it, below; (2) only `enter` is called on it.
    let Some(head) = (unsafe { table.another_head() }) else { return };
    let known = Arc::new(Known { holds: TypeId::of::<T>(), head, _mappings: mappings });
    with(|everything| {
        everything.registries.insert(table.serial(), known); // the same again, if another thread's first registration was here
        // Release: pairs with the Acquire in `is_alone`: who counts this registry finds it.
        COUNT.store(everything.registries.len(), Ordering::Release);
    });
}

/// Forgets a registry of `T`s that is being dropped with `left` in it.
pub(super) fn remove<T: 'static>(serial: u64, left: impl Iterator<Item = InterpreterId>) {
    let gone = with(|everything| {
        let retired = everything.retired.entry(TypeId::of::<T>()).or_default();
        left.map(i64::from).for_each(|id| retired.insert(id..=id));
        let gone = everything.registries.remove(&serial);
        // Release: as in `add`.
        COUNT.store(everything.registries.len(), Ordering::Release);
        gone
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

/// Looks for `id` in the registries of `T`s other than the one with number `here`. `is_its` is asked of each interpreter that has
/// it, which stays meanwhile: whether it is the one that is looked for, if that can be said.
///
/// O(registries).
pub(crate) fn elsewhere<T: 'static>(
    here: u64,
    id: InterpreterId,
    is_its: impl Fn(&T) -> Option<bool>,
) -> Elsewhere {
    with(|everything| {
        let mut found = Elsewhere::Nowhere;
        for (&serial, known) in &everything.registries {
            if known.holds != TypeId::of::<T>() || serial == here || known.head.find(id).is_none() {
                continue;
            }
            let entry = known.head.enter(id).ok();
            // SAFETY: the payloads of a registry of `T`s are `T`s, and this one stays until `entry` is dropped.
            match entry.as_ref().and_then(|entry| is_its(unsafe { &*entry.payload().cast::<T>() })) {
                Some(true) => return Elsewhere::In(serial),
                Some(false) => {}
                None if found == Elsewhere::Nowhere => found = Elsewhere::In(serial),
                None => found = Elsewhere::Ambiguous,
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

/// Calls `attach` while the interpreter `id` of the table with this number is kept from being taken out of it. `blocks` is as for
/// [`Entry::attaches`](crate::signal_safe::table::daemons::Entry::attaches).
///
/// # Errors
/// As [`Table::enter`]; `NotFound` also if the registry has been dropped.
pub(crate) fn enter(
    serial: u64,
    id: InterpreterId,
    blocks: Blocks,
    attach: impl FnOnce(),
) -> Result<(), LookupError> {
    let known =
        with(|everything| everything.registries.get(&serial).cloned()).ok_or(LookupError::NotFound)?;
    entering::enter(&known.head, id, blocks, |_| attach())
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
        let here = |registry: &Registry<Mine>| elsewhere::<Mine>(registry.table().serial(), id, |_| None);
        assert_eq!((here(&one), here(&two)), (Elsewhere::Nowhere, Elsewhere::In(one.table().serial())));
        assert!(!is_alone() || two.layout().is_none());
        assert_eq!(elsewhere::<u8>(0, id, |_| None), Elsewhere::Nowhere, "another type's");
        assert_eq!(two.register(Mine).unwrap(), id);
        assert_eq!(here(&two), Elsewhere::In(one.table().serial()));
        assert_eq!(elsewhere::<Mine>(0, id, |_| None), Elsewhere::Ambiguous);
        let moved = Box::new(one);
        assert_eq!(here(&two), Elsewhere::In(moved.table().serial()), "wherever it lies");
        assert!(moved.finalize(id, None).is_ok());
        assert_eq!(here(&two), Elsewhere::Retired);
        let serial = two.table().serial();
        assert_eq!(elsewhere::<Mine>(0, id, |_| None), Elsewhere::In(serial));
        drop(two);
        assert_eq!(elsewhere::<Mine>(0, id, |_| None), Elsewhere::Retired);
        assert_eq!(enter(serial, id, |_, _, _| false, || unreachable!()), Err(LookupError::NotFound));
    }

    #[test]
    fn a_thread_that_forks_is_not_kept_out() {
        struct Mine;
        hold();
        let registry = Registry::new();
        let id = registry.register(Mine).unwrap();
        assert!(registry.finalize(id, None).is_ok());
        let_go();
        assert_eq!(elsewhere::<Mine>(0, id, |_| None), Elsewhere::Retired);
    }
}
