//! The phases of one interpreter: what each call answers in each of them, one test per row of the table.
//!
//! The rows that have to do with attaching are in `thread_state_phases.rs`.
#![allow(missing_docs)]

use interp_guard::{CloseError, Closing, FinalizeError, Guard, InterpreterId, LookupError, Registry, View};
use std::thread;
use std::time::Duration;

type Interpreters = Registry<&'static str>;

fn live(registry: &Interpreters) -> InterpreterId {
    registry.register("an interpreter").unwrap()
}

/// Closed, with a guard out.
fn closing(registry: &Interpreters) -> (InterpreterId, Guard<'_, &'static str>, Closing<'_, &'static str>) {
    let id = live(registry);
    let guard = registry.lookup(id).unwrap();
    (id, guard, registry.close(id).unwrap())
}

/// Closed, with no guard out, and not yet taken out.
fn drained(registry: &Interpreters) -> (InterpreterId, Closing<'_, &'static str>) {
    let (id, guard, closing) = closing(registry);
    drop(guard);
    assert_eq!(closing.outstanding(), 0);
    (id, closing)
}

/// One that was finalized, and one that nobody ever registered.
fn gone(registry: &Interpreters) -> [InterpreterId; 2] {
    let id = live(registry);
    registry.finalize(id, None).unwrap();
    [id, InterpreterId::try_from(i64::from(id) + 1).unwrap()]
}

#[test]
fn lookup() {
    // By ID and by view.
    let both = |registry: &Interpreters, id, expected: Result<InterpreterId, LookupError>| {
        assert_eq!(registry.lookup(id).map(|guard| guard.id()), expected);
        assert_eq!(registry.view(id).guard().map(|guard| guard.id()), expected);
    };
    let registry = Registry::new();
    both(&registry, InterpreterId::try_from(7).unwrap(), Err(LookupError::NotFound));
    let id = live(&registry);
    both(&registry, id, Ok(id));
    let (id, _guard, _closing) = closing(&registry);
    both(&registry, id, Err(LookupError::Finalizing));
    let (id, _closing) = drained(&registry);
    both(&registry, id, Err(LookupError::Finalizing));
    for id in gone(&registry) {
        both(&registry, id, Err(LookupError::NotFound));
    }
}

/// Where no guard exists, there is none to clone.
#[test]
fn guard_clone() {
    let registry = Registry::new();
    let id = live(&registry);
    let guard = registry.lookup(id).unwrap();
    let clone = guard.clone();
    assert_eq!((clone.id(), *clone, registry.outstanding(id)), (id, "an interpreter", Some(2)));

    let (id, guard, closing) = closing(&registry);
    let clone = guard.clone();
    drop(guard);
    assert_eq!((clone.id(), *clone, registry.outstanding(id)), (id, "an interpreter", Some(1)));
    let late = closing.drain(Some(Duration::ZERO)).unwrap_err();
    drop(clone);
    assert_eq!(late.into_closing().drain(Some(Duration::ZERO)).unwrap(), "an interpreter");
}

/// Where no guard exists, there is none to drop.
#[test]
fn guard_drop() {
    let registry = &Registry::new();
    let id = live(registry);
    drop(registry.lookup(id).unwrap());
    assert_eq!(registry.outstanding(id), Some(0));
    drop(registry.lookup(id).expect("dropping a guard of a live interpreter leaves it live"));

    // The last one of a closing interpreter wakes its finalizer; one that is not the last does not let it go.
    let (_, guard, closing) = closing(registry);
    let last = guard.clone();
    drop(guard);
    let closing = closing.drain(Some(Duration::ZERO)).unwrap_err().into_closing();
    thread::scope(|scope| {
        let finalizer = scope.spawn(|| closing.drain(None).unwrap());
        drop(last);
        assert_eq!(finalizer.join().unwrap(), "an interpreter");
    });
}

#[test]
fn close_and_finalize() {
    let registry = Registry::new();
    let already = |id| {
        assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing);
        assert!(matches!(registry.finalize(id, None), Err(FinalizeError::AlreadyClosing)));
    };
    assert_eq!(registry.close(live(&registry)).unwrap().drain(None).unwrap(), "an interpreter");
    assert_eq!(registry.finalize(live(&registry), None).unwrap(), "an interpreter");
    let (id, _guard, _closing) = closing(&registry);
    already(id);
    let (id, closing) = drained(&registry);
    already(id);
    drop(closing);
    assert_eq!(registry.finalize(id, None).unwrap(), "an interpreter", "nobody held the closing any more");
    for id in gone(&registry) {
        assert_eq!(registry.close(id).unwrap_err(), CloseError::NotFound);
        assert!(matches!(registry.finalize(id, None), Err(FinalizeError::NotFound)));
    }
}

/// What a guard says of its interpreter's phase.
#[test]
fn guard_is_closing() {
    let registry = Registry::new();
    let guard = registry.lookup(live(&registry)).unwrap();
    assert!(!guard.is_closing());
    let (_, guard, closing) = closing(&registry);
    assert!(guard.is_closing());
    drop(closing);
    assert!(guard.is_closing(), "closing is never undone");
}

/// A view guards nothing, in any phase.
#[test]
fn views_outlive_their_interpreter() {
    let registry = Registry::new();
    let id = live(&registry);
    let view: View<'_, _> = registry.lookup(id).unwrap().view();
    assert_eq!(registry.finalize(id, Some(Duration::ZERO)).unwrap(), "an interpreter");
    assert_eq!((view.id(), view.guard().unwrap_err()), (id, LookupError::NotFound));
}
