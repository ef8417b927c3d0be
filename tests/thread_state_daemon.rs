//! Daemon levels, and the legacy contract that stands on them.

use interp_guard::pending::PendingQueue;
use interp_guard::thread_state::{self, ReleaseError};
use interp_guard::{InterpreterId, LookupError, Registry, gilstate};
use refruntime::{Interpreter, Object, Probe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn one() -> (Registry<Interpreter>, InterpreterId, Probe) {
    let (registry, interpreter) = (Registry::new(), Interpreter::locking());
    let probe = interpreter.probe();
    let id = interpreter.register(&registry).expect("room");
    (registry, id, probe)
}

#[test]
fn set_daemon_gives_up_and_takes_the_levels_guard() {
    let (registry, id, _) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    assert!(!attached.is_daemon());
    for daemon in [true, true, false, false, true] {
        attached.set_daemon(daemon).unwrap();
        assert_eq!((attached.is_daemon(), registry.outstanding(id)), (daemon, Some(u64::from(!daemon))));
        assert_eq!(thread_state::is_daemon(&registry), Some(daemon));
        assert_eq!(attached.guard().is_none(), daemon);
    }
    let _guard = registry.lookup(id).unwrap();
    let _closing = registry.close(id).unwrap();
    assert_eq!(attached.set_daemon(false), Err(LookupError::Finalizing));
    assert!(attached.is_daemon(), "as before");
}

/// Broken twin: an inner level changes the flag of the one around it.
#[test]
fn ensure_and_set_daemon_leave_the_levels_around_alone() {
    let (registry, id, _) = one();
    let outer = thread_state::ensure_id(&registry, id).unwrap();
    let inner = thread_state::ensure_id(&registry, id).unwrap();
    inner.set_daemon(true).unwrap();
    assert_eq!((inner.is_daemon(), outer.is_daemon()), (true, false));
    assert_eq!(registry.outstanding(id), Some(1), "the outer level's guard");
    drop(inner);
    assert_eq!((outer.is_daemon(), registry.outstanding(id)), (false, Some(1)));

    outer.set_daemon(true).unwrap();
    let inner = thread_state::ensure_id(&registry, id).unwrap();
    assert_eq!((inner.is_daemon(), outer.is_daemon(), registry.outstanding(id)), (false, true, Some(1)));
    drop(inner);
    assert_eq!(
        (outer.is_daemon(), registry.outstanding(id)),
        (true, Some(0)),
        "the release restores what was"
    );
}

#[test]
fn a_thread_is_not_a_daemon_while_any_level_holds_a_guard() {
    let (registry, id, _) = one();
    let outer = thread_state::ensure_id(&registry, id).unwrap();
    let inner = thread_state::ensure_id(&registry, id).unwrap();
    inner.set_daemon(true).unwrap();
    let closing = inner.allow_threads(|| registry.close(id).unwrap()).expect("the outer level guards it");
    inner.set_daemon(false).expect("under the outer level's guard, also while closing");
    drop((inner, outer));
    assert!(closing.drain(Some(Duration::ZERO)).is_ok());
}

#[test]
fn the_interpreter_may_finalize_under_a_daemon() {
    let (registry, id, probe) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    attached.set_daemon(true).unwrap();
    let object = Object::new(0);
    let handed_back = registry.finalize(id, None).expect("no guard is out");
    object.add(1); // still attached: the owner has to wait for the lock
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(handed_back);
            ended.store(true, Ordering::SeqCst);
        });
        assert!(!ended.load(Ordering::SeqCst));
        assert!(attached.allow_threads(|| wait_until(|| ended.load(Ordering::SeqCst))).is_err());
    });
    drop(attached);
    assert_eq!(probe.violations(), [""; 0]);
}

/// Without the count at the gate, the drain would hand the interpreter back between the check and the attaching.
#[test]
fn a_drain_waits_for_a_daemon_that_is_attaching() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    let interpreter = Interpreter::locking();
    let (id, probe) = (interpreter.id(), interpreter.probe());
    let (tell, told) = mpsc::channel::<()>();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let armed = std::sync::Arc::new(AtomicBool::new(false));
    let seen = armed.clone();
    interpreter.before_attach(move || {
        if seen.load(Ordering::SeqCst) {
            tell.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
        }
    });
    interpreter.register(&REGISTRY).unwrap();
    let daemon = std::thread::spawn(move || {
        let attached = thread_state::ensure_id(&REGISTRY, id).unwrap();
        attached.set_daemon(true).unwrap();
        let back = attached.allow_threads(|| armed.store(true, Ordering::SeqCst));
        assert!(back.is_ok(), "it was live when this thread came to the gate");
        armed.store(false, Ordering::SeqCst);
    });
    told.recv().unwrap(); // it is inside
    let late = REGISTRY.finalize(id, Some(Duration::ZERO)).unwrap_err();
    let interp_guard::FinalizeError::Drain(interp_guard::DrainError::Timeout(late)) = late else {
        panic!("{late}")
    };
    assert_eq!((late.outstanding(), late.attaching()), (0, 1), "a daemon holds no guard");
    go.send(()).unwrap();
    drop(late.into_closing().drain(None).unwrap());
    daemon.join().unwrap();
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn what_was_left_behind_closing_and_without_a_guard_may_be_gone_at_the_release() {
    let (registry, a, probe) = one();
    let b = Interpreter::locking().register(&registry).unwrap();
    let native = registry.lookup(a).unwrap().enter();
    let closing = registry.close(a).unwrap();
    let attached = thread_state::ensure_id(&registry, b).unwrap();
    drop(closing.drain(None).unwrap());
    assert_eq!(attached.release(), Err(ReleaseError::Gone));
    assert_eq!((refruntime::attached(), thread_state::current_id()), (None, None));
    assert_eq!(registry.outstanding(b), Some(0), "released all the same");
    drop(native);
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn what_was_left_behind_closing_with_another_guard_out_is_restored() {
    let (registry, a, probe) = one();
    let b = Interpreter::locking().register(&registry).unwrap();
    let guard = registry.lookup(a).unwrap();
    let native = guard.enter();
    let closing = registry.close(a).unwrap();
    let attached = thread_state::ensure_id(&registry, b).unwrap();
    assert_eq!(attached.release(), Ok(()));
    assert_eq!(refruntime::attached(), Some(native.state()));
    drop((native, guard));
    drop(closing.drain(None).unwrap());
    assert_eq!(probe.violations(), [""; 0]);
}

// --- gilstate -------------------------------------------------------------------------------------------------------

#[test]
fn gilstate_attaches_to_main_as_a_daemon_and_restores() {
    let (registry, main, probe) = one();
    let sub = Interpreter::locking().register(&registry).unwrap();
    let outer = thread_state::ensure_id(&registry, sub).unwrap();
    let state = gilstate::ensure(&registry);
    assert_eq!((thread_state::current_id(), registry.outstanding(main)), (Some(main), Some(0)));
    let nested = gilstate::ensure(&registry);
    assert_eq!(nested.allow_threads(|| 42), 42);
    gilstate::release(nested);
    assert_eq!(thread_state::current_id(), Some(main));
    gilstate::release(state);
    assert_eq!(thread_state::current_id(), Some(sub));
    drop(outer);
    assert_eq!((probe.thread_states(), probe.violations()), (0, vec![]));
}

/// Parked threads are counted before they park: nothing here waits for a time to pass.
#[test]
fn gilstate_parks_at_shutdown_at_each_of_its_doors() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    let main = Interpreter::locking().register(&REGISTRY).unwrap();
    let (inside, entered) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let parked = thread_state::parked();
    let returned = std::sync::Arc::new(AtomicBool::new(false));
    let note = returned.clone();
    std::thread::spawn(move || {
        let state = gilstate::ensure(&REGISTRY);
        state.allow_threads(move || {
            inside.send(()).unwrap();
            wait.recv().unwrap();
        });
        note.store(true, Ordering::SeqCst);
        gilstate::release(state);
    });
    entered.recv().unwrap();
    let closing = REGISTRY.close(main).unwrap();
    let note = returned.clone();
    std::thread::spawn(move || {
        let _state = gilstate::ensure(&REGISTRY); // drained
        note.store(true, Ordering::SeqCst);
    });
    wait_until(|| thread_state::parked() == parked + 1);
    drop(closing.drain(None).unwrap());
    let note = returned.clone();
    std::thread::spawn(move || {
        let _state = gilstate::ensure(&REGISTRY); // finalized
        note.store(true, Ordering::SeqCst);
    });
    wait_until(|| thread_state::parked() == parked + 2);
    go.send(()).unwrap(); // the re-attach of the first
    wait_until(|| thread_state::parked() == parked + 3);
    assert!(!returned.load(Ordering::SeqCst));
}

#[test]
#[should_panic(expected = "no interpreter was ever registered")]
fn gilstate_on_a_registry_that_was_never_used() {
    let registry: Registry<Interpreter> = Registry::new();
    let _queue = PendingQueue::new(&registry).unwrap(); // sets it up
    let _ = gilstate::ensure(&registry);
}

/// With a deadline that only a failure reaches.
fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}
