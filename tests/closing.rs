//! Close, drain, finalize: who may, what comes back, and what a deadline does.
#![allow(missing_docs)]

use interp_guard::thread_state::Finalized;
use interp_guard::{CloseError, Closing, DrainError, FinalizeError, Guard, Undrained};
use interp_guard::{InterpreterId, LookupError, RegisterError, Registry};
use std::error::Error;
use std::panic::UnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const NOW: Option<Duration> = Some(Duration::ZERO);

fn unknown() -> InterpreterId {
    InterpreterId::try_from(4_711).expect("an ID")
}

/// An interpreter that cannot be printed, and counts its drops.
struct Interpreter(Arc<AtomicUsize>);

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn an_unknown_id_is_not_found() {
    let registry: Registry<u8> = Registry::new();
    for _ in 0..2 {
        assert_eq!(registry.close(unknown()).map(drop), Err(CloseError::NotFound));
        assert!(matches!(registry.finalize(unknown(), None), Err(FinalizeError::NotFound)));
        registry.register(0).expect("registered"); // the second time round, with a table
    }
}

#[test]
fn a_second_closer_is_told() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let closing = registry.close(id).expect("live");
    assert_eq!(registry.close(id).map(drop), Err(CloseError::AlreadyClosing));
    assert!(matches!(registry.finalize(id, None), Err(FinalizeError::AlreadyClosing)));
    assert_eq!(closing.drain(None).ok(), Some(7));
    assert_eq!(registry.close(id).map(drop), Err(CloseError::NotFound));
}

#[test]
fn an_abandoned_closing_leaves_it_closed_for_the_next() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    drop(registry.close(id).expect("live"));
    assert_eq!(registry.lookup(id).unwrap_err(), LookupError::Finalizing);
    drop(registry.close(id).expect("free to be taken up"));
    assert_eq!(registry.finalize(id, None).ok(), Some(7));
}

#[test]
fn a_timeout_gives_the_closing_back_and_the_interpreter_stays_closed() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let clone = guard.clone();
    let Err(FinalizeError::Drain(DrainError::Timeout(late))) = registry.finalize(id, NOW) else {
        panic!("two guards are out");
    };
    assert_eq!(late.outstanding(), 2);
    assert!(late.to_string().contains("2 guards are out"), "{late}");
    assert_eq!(registry.lookup(id).unwrap_err(), LookupError::Finalizing);
    assert_eq!(registry.close(id).map(drop), Err(CloseError::AlreadyClosing));
    drop(clone);
    let again = late.into_closing().drain(NOW).expect_err("one guard is out");
    assert_eq!(again.undrained().outstanding(), 1);
    assert_eq!(*guard, 7, "the guard still protects");
    drop(guard);
    assert_eq!(again.into_closing().drain(NOW).ok(), Some(7));
}

#[test]
fn a_dropped_timeout_leaves_it_to_the_next_finalizer() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    drop(registry.finalize(id, NOW));
    drop(guard);
    assert_eq!(registry.finalize(id, NOW).ok(), Some(7));
}

#[test]
fn a_retry_takes_up_what_the_error_of_the_first_try_holds() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let first = registry.finalize(id, NOW).expect_err("a guard is out");
    let second = registry.finalize(id, NOW).expect_err("still");
    assert!(matches!(second, FinalizeError::Drain(DrainError::Timeout(_))), "{second}");
    drop(guard);
    assert_eq!(registry.finalize(id, None).ok(), Some(7));
    // What the errors had in them owns nothing any more, and says so.
    for error in [first, second] {
        let FinalizeError::Drain(error) = error else { panic!("{error}") };
        assert!(matches!(error.into_closing().drain(None), Err(DrainError::Superseded(_))));
    }
}

#[test]
fn a_retry_by_finalize_all_takes_it_up_too() {
    let registry = Registry::new();
    let ids = [7, 8].map(|value| registry.register(value).expect("registered"));
    let guard = registry.lookup(ids[1]).expect("live");
    let first = registry.finalize(ids[1], NOW).expect_err("a guard is out");
    let second = registry.finalize_all(NOW);
    let outcomes: Vec<_> = second.iter().map(|(id, outcome)| (*id, outcome.is_ok())).collect();
    assert_eq!(outcomes, [(ids[1], false), (ids[0], true)]);
    assert!(matches!(second[0].1, Err(FinalizeError::Drain(DrainError::Timeout(_)))), "not AlreadyClosing");
    drop(guard);
    assert_eq!(
        registry.finalize_all(NOW).pop().map(|(id, outcome)| (id, outcome.ok())),
        Some((ids[1], Some(8)))
    );
    drop((first, second));
}

#[test]
fn an_error_takes_up_what_a_later_try_has_left() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let Err(FinalizeError::Drain(first)) = registry.finalize(id, NOW) else { panic!("a guard is out") };
    drop(registry.finalize(id, NOW).expect_err("still"));
    let closing = first.into_closing();
    assert!(matches!(registry.finalize(id, NOW), Err(FinalizeError::AlreadyClosing)), "a Closing is in hand");
    drop(guard);
    assert_eq!(closing.drain(NOW).ok(), Some(7));
}

#[test]
fn another_threads_retry_is_refused_while_the_error_is_alive() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let error = registry.finalize(id, NOW).expect_err("a guard is out");
    drop(guard);
    let elsewhere = || {
        std::thread::scope(|scope| {
            scope.spawn(|| registry.finalize(id, NOW).map_err(|e| e.to_string())).join()
        })
    };
    let told = elsewhere().expect("no panic").expect_err("held");
    assert!(told.contains("somebody else") && told.contains("drains it or drops it"), "{told}");
    drop(error);
    assert_eq!(elsewhere().expect("no panic"), Ok(7));
}

#[test]
fn a_drain_honours_its_deadline() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let timeout = Duration::from_millis(50);
    let began = Instant::now();
    assert!(registry.finalize(id, Some(timeout)).is_err());
    assert!(began.elapsed() >= timeout, "not before the deadline");
    drop(guard);
    assert_eq!(registry.finalize(id, Some(Duration::MAX)).ok(), Some(7), "beyond the clock: without limit");
}

#[test]
fn the_last_drop_wakes_the_finalizer() {
    let registry = Registry::new();
    for round in 0..1_000 {
        let id = registry.register(round).expect("registered");
        let guard = registry.lookup(id).expect("live");
        std::thread::scope(|scope| {
            let finalizer = scope.spawn(|| registry.finalize(id, None).ok());
            while !guard.is_closing() {
                std::thread::yield_now();
            }
            drop(guard);
            assert_eq!(finalizer.join().expect("woken"), Some(round));
        });
    }
}

#[test]
fn a_drain_holds_no_lock_while_it_waits() {
    let registry = Registry::new();
    let id = registry.register(1).expect("registered");
    let guard = registry.lookup(id).expect("live");
    std::thread::scope(|scope| {
        let finalizer = scope.spawn(|| registry.finalize(id, None).ok());
        while !guard.is_closing() {
            std::thread::yield_now();
        }
        // The holder registers, closes and finalizes others meanwhile.
        let other = registry.register(2).expect("registered while another drains");
        assert_eq!(registry.finalize(other, None).ok(), Some(2));
        assert_eq!(registry.ids(), [id]);
        drop(guard);
        assert_eq!(finalizer.join().expect("woken"), Some(1));
    });
}

#[test]
fn the_interpreter_comes_back_by_value_and_is_dropped_where_its_owner_says() {
    let drops = Arc::new(AtomicUsize::new(0));
    let registry = Registry::new();
    let id = registry.register(Interpreter(drops.clone())).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let late = registry.finalize(id, NOW).err().expect("a guard is out");
    drop(guard);
    let FinalizeError::Drain(late) = late else { panic!("{late}") };
    let interpreter = late.into_closing().drain(None).expect("drained");
    assert_eq!(drops.load(SeqCst), 0, "not by the last guard, not by the drain");
    drop(interpreter);
    assert_eq!(drops.load(SeqCst), 1);
}

#[test]
fn a_dropped_registry_drops_what_is_left_in_it_unless_a_guard_was_leaked() {
    let drops = Arc::new(AtomicUsize::new(0));
    let registry = Registry::new();
    let leaked = registry.register(Interpreter(drops.clone())).expect("registered");
    let closed = registry.register(Interpreter(drops.clone())).expect("registered");
    registry.register(Interpreter(drops.clone())).expect("registered");
    drop(registry.close(closed).expect("live"));
    std::mem::forget(registry.lookup(leaked).expect("live"));
    drop(registry);
    assert_eq!(drops.load(SeqCst), 2, "the live one and the closed one");
}

#[test]
fn every_error_says_what_was_wrong() {
    let registry = Registry::new();
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let timeout = registry.finalize(id, NOW).expect_err("a guard is out");
    assert!(timeout.to_string().contains("interpreter 0: 1 guard is out"), "{timeout}");
    assert!(format!("{timeout:?}").starts_with("Drain(Timeout(Undrained"), "{timeout:?}");
    let told = registry.close(id).expect_err("held").to_string();
    assert!(told.contains("somebody else") && told.contains("drains it or drops it"), "{told}");
    assert!(registry.finalize(unknown(), NOW).expect_err("unknown").to_string().contains("no interpreter"));
    drop(timeout);
    drop(guard);
}

/// Neither `Debug` nor `Clone`.
struct Opaque;

static_assertions::assert_impl_all!(Undrained<'static, Opaque>: Error);
static_assertions::assert_impl_all!(DrainError<'static, Opaque>: Error);
static_assertions::assert_impl_all!(FinalizeError<'static, Opaque>: Error);
static_assertions::assert_impl_all!(RegisterError<Opaque>: Error);
static_assertions::assert_impl_all!(Finalized<Opaque>: Error);
// What a caller may take through `catch_unwind`.
static_assertions::assert_impl_all!(&'static Registry<u32>: UnwindSafe);
static_assertions::assert_impl_all!(Guard<'static, u32>: UnwindSafe);
static_assertions::assert_impl_all!(Closing<'static, u32>: UnwindSafe);

#[test]
fn errors_are_displayed_whatever_the_interpreter_is() {
    let registry = Registry::new();
    let id = registry.register(Opaque).expect("room");
    let guard = registry.lookup(id).expect("live");
    let late = registry.finalize(id, NOW).map(drop).expect_err("a guard is out");
    let FinalizeError::Drain(late) = late else { panic!("{late:?}") };
    let late: Box<dyn Error + '_> = Box::new(late.into_undrained());
    assert!(late.to_string().contains("1 guard is out"), "{late}");
    drop(guard);
}
