//! A registry that has moved since a thread ensured in it, and its old place, which is nobody's or another registry's by then.
#![forbid(unsafe_code)]

use interp_guard::thread_state::{self, raw};
use interp_guard::{InterpreterId, LookupError, Registry, Site};
use refruntime::Interpreter;
use std::time::Duration;

/// With one interpreter, in which this thread is, by a number or by a handle that it has forgotten.
fn entered(by_number: bool) -> (Box<Registry<Interpreter>>, InterpreterId, Option<raw::RawLevel>) {
    let registry = Box::new(Registry::new());
    let id = Interpreter::locking().register(&registry).expect("room");
    let level = match by_number {
        true => Some(raw::ensure_id(&registry, id, Site::caller()).expect("live")),
        false => {
            std::mem::forget(thread_state::ensure_id(&registry, id).expect("live"));
            None
        }
    };
    (registry, id, level)
}

/// The registry, somewhere else. Its old place is freed, and written over.
#[expect(clippy::boxed_local, reason = "what is freed here is the old place")]
fn moved<T>(place: Box<T>) -> T {
    let registry = *place;
    drop(vec![0xAA_u8; size_of::<T>()]);
    registry
}

#[test]
fn a_number_is_released_where_the_registry_is() {
    let (place, id, level) = entered(true);
    let registry = moved(place);
    assert_eq!(registry.outstanding(id), Some(1));
    assert_eq!(raw::release(&registry, level.unwrap()), Ok(()));
    assert_eq!(registry.outstanding(id), Some(0));
}

#[test]
fn a_number_gives_up_no_guard_of_the_registry_that_is_in_the_old_place() {
    let mut places = [Some(Registry::with_capacity(4)), None];
    let first = places[0].as_ref().unwrap();
    let id = Interpreter::locking().register(first).unwrap();
    let level = raw::ensure_id(first, id, Site::caller()).unwrap();
    places.swap(0, 1);
    places[0] = Some(Registry::with_capacity(4));
    let [other, moved] = places.each_ref().map(|place| place.as_ref().unwrap());
    let interpreter = Interpreter::locking();
    let probe = interpreter.probe();
    other.register_with_id(id, interpreter).unwrap();
    let guard = other.lookup(id).unwrap();
    assert_eq!(raw::release(other, level), Err(thread_state::ReleaseError::OutOfOrder));
    assert_eq!(raw::release(moved, level), Ok(()));
    assert_eq!((moved.outstanding(id), other.outstanding(id)), (Some(0), Some(1)));
    assert!(other.finalize(id, Some(Duration::ZERO)).is_err() && !probe.has_ended());
    drop(guard);
}

/// What would be counted in the level that knows the old place has a level of its own.
#[test]
fn an_ensure_after_the_move_knows_the_new_place() {
    let (place, id, _) = entered(false);
    let registry = moved(place);
    let inner = thread_state::ensure_id(&registry, id).expect("live");
    let counted = thread_state::ensure_id(&registry, id).expect("live");
    assert_eq!(registry.outstanding(id), Some(1), "under the guard of the level that is there");
    counted.set_daemon(true).expect("no guard is needed for that");
    counted.set_daemon(false).expect("the outermost one guards it");
    counted.allow_threads(|| ()).expect("guarded");
    drop(counted);
    drop(inner.guard().expect("guarded"));
    let interpreter = thread_state::ensure_id(&registry, id).expect("live");
    drop(interpreter);
    drop(inner);
    let left = raw::innermost(&registry).expect("the one whose handle was forgotten");
    assert_eq!(raw::release(&registry, left), Ok(()));
    assert_eq!((registry.outstanding(id), thread_state::current_id()), (Some(0), None));
}

#[test]
fn a_daemon_finds_its_guard_where_the_registry_is() {
    let (place, id, level) = entered(true);
    let registry = moved(place);
    raw::set_innermost_daemon(&registry, true, Site::caller()).expect("innermost").expect("always can");
    assert_eq!(registry.outstanding(id), Some(0));
    let closing = registry.close(id).expect("live");
    let again = raw::set_innermost_daemon(&registry, false, Site::caller()).expect("innermost");
    assert_eq!(again, Err(LookupError::Finalizing));
    assert_eq!(raw::release(&registry, level.unwrap()), Ok(()));
    drop(closing.drain(Some(Duration::ZERO)).expect("nothing is out"));
}

#[test]
fn what_was_left_behind_is_found_where_the_registry_is() {
    let (place, outer, level) = entered(true);
    let inner = Interpreter::locking().register(&place).expect("room");
    let inside = raw::ensure_id(&place, inner, Site::caller()).expect("live");
    let registry = moved(place);
    assert_eq!(thread_state::current_id(), Some(inner));
    assert_eq!(raw::release(&registry, inside), Ok(()));
    assert_eq!((thread_state::current_id(), registry.outstanding(outer)), (Some(outer), Some(1)));
    assert_eq!(raw::release(&registry, level.unwrap()), Ok(()));
    assert_eq!([registry.outstanding(outer), registry.outstanding(inner)], [Some(0); 2]);
}
