//! A finalizer that would wait for its own thread is told so, at once.

use interp_guard::thread_state;
use interp_guard::{DrainError, FinalizeError, InterpreterId, LookupError, Registry};
use refruntime::Interpreter;
use std::time::Duration;

fn two() -> (Registry<Interpreter>, InterpreterId, InterpreterId) {
    let registry = Registry::new();
    let [a, b] = [0, 1].map(|_| Interpreter::locking().register(&registry).expect("room"));
    (registry, a, b)
}

fn would_deadlock<T: Send + Sync>(refused: &FinalizeError<'_, T>) -> bool {
    matches!(refused, FinalizeError::Drain(DrainError::WouldDeadlock(_)))
}

#[test]
fn finalize_inside_an_ensure_leaves_the_interpreter_live() {
    let (registry, id, _) = two();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let refused = registry.finalize(id, None).unwrap_err(); // no deadline: it would wait for ever
    assert!(would_deadlock(&refused), "{refused}");
    assert!(registry.lookup(id).is_ok(), "live");
    drop(refused);
    assert!(registry.lookup(id).is_ok(), "and live it stays");
    drop(attached);
    assert!(registry.finalize(id, None).is_ok());
}

#[test]
fn the_answer_gives_the_closing_on_request() {
    let (registry, id, _) = two();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let FinalizeError::Drain(refused) = registry.finalize(id, None).unwrap_err() else { panic!() };
    let closing = refused.into_closing();
    assert_eq!(registry.lookup(id).unwrap_err(), LookupError::Finalizing, "closed now");
    drop(attached);
    assert!(closing.drain(Some(Duration::ZERO)).is_ok());
}

#[test]
fn drain_inside_an_ensure_leaves_it_closing() {
    let (registry, id, _) = two();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let refused = registry.close(id).unwrap().drain(None).unwrap_err();
    assert!(matches!(refused, DrainError::WouldDeadlock(_)));
    assert_eq!(registry.lookup(id).unwrap_err(), LookupError::Finalizing);
    drop(attached);
    assert!(refused.into_closing().drain(Some(Duration::ZERO)).is_ok());
}

#[test]
fn detached_inside_the_ensure_is_inside_it() {
    let (registry, id, _) = two();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let refused = attached.allow_threads(|| would_deadlock(&registry.finalize(id, None).unwrap_err()));
    assert_eq!(refused, Ok(true));
}

#[test]
fn an_ensure_that_was_left_for_another_interpreter_blocks_too() {
    let (registry, a, b) = two();
    let outer = thread_state::ensure_id(&registry, a).unwrap();
    let inner = thread_state::ensure_id(&registry, b).unwrap();
    assert!(would_deadlock(&registry.finalize(a, None).unwrap_err()));
    drop((inner, outer));
    let native = registry.lookup(a).unwrap().enter();
    let inner = thread_state::ensure_id(&registry, b).unwrap(); // guards what it left behind
    assert!(would_deadlock(&registry.finalize(a, None).unwrap_err()));
    drop((inner, native));
}

#[test]
fn a_daemon_level_does_not_block() {
    let (registry, id, _) = two();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    attached.set_daemon(true).unwrap();
    let handed_back = registry.finalize(id, None).expect("no guard is out");
    drop(attached);
    drop(handed_back);
}

#[test]
fn a_raw_guard_of_the_same_thread_is_waited_for() {
    let (registry, id, _) = two();
    let guard = registry.lookup(id).unwrap();
    let late = registry.finalize(id, Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(late, FinalizeError::Drain(DrainError::Timeout(_))), "any thread may drop it");
    drop(guard);
}

#[test]
fn another_threads_ensure_is_waited_for() {
    let (registry, id, _) = two();
    let (inside, entered) = std::sync::mpsc::channel();
    let registry = &registry;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let attached = thread_state::ensure_id(registry, id).unwrap();
            let guard = attached.guard().unwrap();
            inside.send(()).unwrap();
            attached.allow_threads(|| while !guard.is_closing() {}).unwrap();
        });
        entered.recv().unwrap();
        assert!(registry.finalize(id, None).is_ok());
    });
}

#[test]
fn finalize_all_inside_an_ensure_closes_everything_and_says_who_blocks() {
    let (registry, main, sub) = two();
    let attached = thread_state::ensure_id(&registry, sub).unwrap();
    let mut outcomes = registry.finalize_all(None).into_iter();
    let (id, blocked) = outcomes.next().unwrap();
    assert!(id == sub && would_deadlock(&blocked.unwrap_err()));
    let (id, done) = outcomes.next().unwrap();
    assert!(id == main && done.is_ok());
    assert_eq!(registry.lookup(sub).unwrap_err(), LookupError::Finalizing);
    drop(attached);
}
