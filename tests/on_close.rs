//! `Registry::on_close`: once, on the closing thread, with no lock held, when no lookup succeeds any more.

use interp_guard::{CloseError, InterpreterId, LookupError, Registry};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

static REGISTRY: Registry<String> = Registry::new();

fn registered(name: &str) -> InterpreterId {
    REGISTRY.register(name.into()).unwrap()
}

#[test]
fn runs_once_on_the_closing_thread_however_the_interpreter_is_closed() {
    let by: [fn(InterpreterId); 3] = [
        |id| drop(REGISTRY.close(id).unwrap().drain(None).unwrap()),
        |id| drop(REGISTRY.finalize(id, None).unwrap()),
        |id| {
            // Dropped and taken up again: closed once all the same.
            drop(REGISTRY.close(id).unwrap());
            drop(REGISTRY.finalize(id, None).unwrap());
        },
    ];
    for close in by {
        let id = registered("some");
        let (tell, told) = mpsc::channel();
        REGISTRY.on_close(id, move |id| tell.send((id, thread::current().id())).unwrap()).unwrap();
        assert!(told.try_recv().is_err(), "not before it closes");
        let closer = thread::spawn(move || {
            close(id);
            thread::current().id()
        });
        let closer = closer.join().unwrap();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(id, closer)]);
    }
}

#[test]
fn finalize_all_runs_it_too() {
    let registry = Registry::new();
    let ids = [1, 2, 3].map(|n| registry.register(n).unwrap());
    let order = Arc::new(Mutex::new(Vec::new()));
    for id in ids {
        let order = order.clone();
        registry.on_close(id, move |id| order.lock().unwrap().push(id)).unwrap();
    }
    assert!(registry.finalize_all(None).iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(*order.lock().unwrap(), [ids[2], ids[1], ids[0]]);
}

#[test]
fn sees_no_lookup_succeed_and_may_use_the_registry() {
    let id = registered("some");
    let other = registered("other");
    let seen = Arc::new(Mutex::new(None));
    let tell = seen.clone();
    let found = move |id| {
        let lookup = REGISTRY.lookup(id).map(drop);
        let again = REGISTRY.close(id).map(drop);
        let late = REGISTRY.on_close(id, |_| ());
        // No lock is held: every operation of normal context works.
        let third = REGISTRY.register("third".into()).unwrap();
        REGISTRY.on_close(other, |_| ()).unwrap();
        assert_eq!(REGISTRY.finalize(third, None).unwrap(), "third");
        *tell.lock().unwrap() = Some((lookup, again, late));
    };
    REGISTRY.on_close(id, found).unwrap();
    REGISTRY.finalize(id, None).unwrap();
    let expected =
        (Err(LookupError::Finalizing), Err(CloseError::AlreadyClosing), Err(LookupError::Finalizing));
    assert_eq!(*seen.lock().unwrap(), Some(expected));
    REGISTRY.finalize(other, None).unwrap();
}

/// What it is for: a pool that holds guards for long winds its workers down when it is asked to.
#[test]
fn lets_a_pool_give_its_guards_up_so_that_the_drain_ends() {
    let id = registered("pool");
    let (stop, stopped) = mpsc::channel::<()>();
    let guard = REGISTRY.lookup(id).unwrap();
    let worker = thread::spawn(move || {
        stopped.recv().unwrap_err(); // the sender is dropped
        drop(guard);
    });
    REGISTRY.on_close(id, move |_| drop(stop)).unwrap();
    assert_eq!(REGISTRY.finalize(id, Some(Duration::from_secs(30))).unwrap(), "pool");
    worker.join().unwrap();
}

#[test]
fn answers_finalizing_while_closing_and_not_found_after() {
    let id = registered("some");
    let closing = REGISTRY.close(id).unwrap();
    assert_eq!(REGISTRY.on_close(id, |_| unreachable!()), Err(LookupError::Finalizing));
    closing.drain(None).unwrap();
    assert_eq!(REGISTRY.on_close(id, |_| unreachable!()), Err(LookupError::NotFound));
}

/// What a refused callback owns is dropped with no lock held: its drop may use the registry.
#[test]
fn drops_a_refused_callback_with_no_lock_held() {
    struct UsesTheRegistry;
    impl Drop for UsesTheRegistry {
        fn drop(&mut self) {
            REGISTRY.ids();
        }
    }
    let id = registered("some");
    REGISTRY.finalize(id, None).unwrap();
    let captured = UsesTheRegistry;
    REGISTRY.on_close(id, move |_| drop(captured)).unwrap_err();
}

#[test]
fn a_panic_goes_on_after_the_others_have_run_and_leaves_the_interpreter_free_to_be_taken_up() {
    let id = registered("some");
    let ran = Arc::new(AtomicU32::new(0));
    for panics in [false, true, true] {
        let ran = ran.clone();
        let callback = move |_| {
            ran.fetch_add(1, Ordering::Relaxed);
            assert!(!panics, "asked to");
        };
        REGISTRY.on_close(id, callback).unwrap();
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| drop(REGISTRY.close(id)))).unwrap_err();
    assert_eq!(panicked.downcast_ref::<&str>(), Some(&"asked to"));
    assert_eq!(ran.load(Ordering::Relaxed), 3);
    assert_eq!(REGISTRY.lookup(id).unwrap_err(), LookupError::Finalizing);
    assert_eq!(REGISTRY.finalize(id, None).unwrap(), "some");
    assert_eq!(ran.load(Ordering::Relaxed), 3, "not again");
}
