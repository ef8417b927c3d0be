//! What a thread left behind, or was attached to as a daemon, has been finalized: it is not attached again, the release says
//! so, and nothing around it is stuck.

use interp_guard::thread_state::{self, Attached, ReleaseError};
use interp_guard::{InterpreterId, LookupError, Registry, gilstate};
use refruntime::{Interpreter, Native, Probe};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

type Interpreters = Registry<Interpreter>;

fn register(registry: &Interpreters) -> (InterpreterId, Probe) {
    let interpreter = Interpreter::locking();
    let probe = interpreter.probe();
    (interpreter.register(registry).expect("room"), probe)
}

/// Ends it for good when the result is dropped, on a thread that is not attached to it.
fn finalize(registry: &Interpreters, id: InterpreterId) -> Interpreter {
    registry.finalize(id, AT_ONCE).expect("no guard is out")
}

fn nothing_is_attached() {
    assert_eq!((refruntime::attached(), thread_state::current_id()), (None, None));
}

fn daemon(registry: &Interpreters, id: InterpreterId) -> Attached<'_, Interpreter> {
    let attached = thread_state::ensure_id(registry, id).unwrap();
    attached.set_daemon(true).unwrap();
    attached
}

fn native(registry: &Interpreters, id: InterpreterId) -> Native {
    registry.lookup(id).unwrap().enter()
}

#[test]
fn a_daemon_whose_interpreter_has_ended_under_it_is_not_attached_again() {
    static REGISTRY: Interpreters = Registry::new();
    let (a, probe) = register(&REGISTRY);
    let (b, _) = register(&REGISTRY);
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let daemon = gilstate::ensure(&REGISTRY);
        tell.send(()).unwrap();
        while refruntime::checkpoint().is_ok() {
            std::thread::yield_now();
        }
        // Some destructor needs interpreter b.
        let inner = thread_state::ensure_id(&REGISTRY, b).unwrap();
        assert_eq!(inner.release(), Err(ReleaseError::Gone));
        nothing_is_attached();
        gilstate::release(daemon); // what was attached before it, nothing, is restored
        nothing_is_attached();
    });
    told.recv().unwrap();
    drop(REGISTRY.finalize(a, None).unwrap());
    thread.join().unwrap();
    assert_eq!((probe.violations(), REGISTRY.outstanding(b)), (vec![], Some(0)));
}

#[test]
fn a_native_state_of_a_retired_interpreter_is_not_attached_again() {
    for retired_first in [true, false] {
        let registry = Registry::new();
        let (a, probe) = register(&registry);
        let (b, _) = register(&registry);
        let native = native(&registry, a);
        let inner = match retired_first {
            true => {
                let ended = finalize(&registry, a);
                let inner = thread_state::ensure_id(&registry, b).unwrap();
                drop(ended);
                inner
            }
            false => {
                let closing = registry.close(a).unwrap();
                let inner = thread_state::ensure_id(&registry, b).unwrap();
                drop(closing.drain(AT_ONCE).unwrap());
                inner
            }
        };
        assert_eq!(inner.release(), Err(ReleaseError::Gone), "retired first: {retired_first}");
        nothing_is_attached();
        drop(native);
        assert_eq!(probe.violations(), [""; 0]);
    }
}

/// What becomes of the first registry's interpreter while a thread that is natively attached to it is in the second one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    FinalizedBefore,
    Finalized,
    FinalizedWhereItMoved,
    DroppedWithItsRegistry,
    Moved,
    Stays,
}

#[test]
fn a_native_state_of_another_registry_is_attached_again_only_if_it_is_there() {
    use Fate::*;
    for fate in [FinalizedBefore, Finalized, FinalizedWhereItMoved, DroppedWithItsRegistry, Moved, Stays] {
        let (one, two) = (Registry::new(), Registry::new());
        let (a, probe) = register(&one);
        let (b, _) = register(&two);
        let native = native(&one, a);
        let ended = (fate == FinalizedBefore).then(|| finalize(&one, a));
        let inner = thread_state::ensure_id(&two, b).unwrap();
        drop(ended);
        let mut moved = None;
        match fate {
            FinalizedBefore | Stays => {}
            Finalized => drop(finalize(&one, a)),
            FinalizedWhereItMoved => drop(finalize(moved.insert(Box::new(one)), a)),
            DroppedWithItsRegistry => drop(one),
            Moved => _ = moved.insert(Box::new(one)),
        }
        match fate {
            Moved | Stays => {
                assert_eq!(inner.release(), Ok(()), "{fate:?}");
                assert_eq!(refruntime::attached(), Some(native.state()), "{fate:?}");
            }
            _ => {
                assert_eq!(inner.release(), Err(ReleaseError::Gone), "{fate:?}");
                nothing_is_attached();
            }
        }
        drop(native);
        assert_eq!((probe.violations(), two.outstanding(b)), (vec![], Some(0)), "{fate:?}");
    }
}

/// While a thread is on its way back, the other registry does not hand its interpreter out.
#[test]
fn a_drain_waits_for_a_thread_that_comes_back_from_another_registry() {
    static ONE: Interpreters = Registry::new();
    let two = Registry::new();
    let (tell, told) = mpsc::channel();
    let interpreter = Interpreter::locking();
    let probe = interpreter.probe();
    let first = std::sync::atomic::AtomicBool::new(true);
    interpreter.before_attach(move || {
        use std::sync::atomic::Ordering::SeqCst;
        if !first.swap(false, SeqCst) {
            let late = ONE.finalize(probe.id(), AT_ONCE).map(drop).unwrap_err();
            tell.send(late.to_string()).unwrap();
        }
    });
    let a = interpreter.register(&ONE).unwrap();
    let (b, _) = register(&two);
    let native = native(&ONE, a);
    drop(thread_state::ensure_id(&two, b).unwrap());
    assert_eq!(refruntime::attached(), Some(native.state()));
    assert!(told.recv().unwrap().contains("timed out"));
    drop(native);
    drop(ONE.finalize(a, AT_ONCE).unwrap());
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn an_interpreter_that_is_registered_and_ended_while_a_thread_is_away_is_not_attached_again() {
    for elsewhere in [false, true] {
        let (one, two) = (Registry::new(), Registry::new());
        let (b, _) = register(&two);
        let unregistered = Interpreter::locking();
        let (a, probe) = (unregistered.id(), unregistered.probe());
        let native = unregistered.enter();
        let inner = thread_state::ensure_id(&two, b).unwrap();
        let registry = if elsewhere { &one } else { &two };
        unregistered.register(registry).unwrap();
        drop(finalize(registry, a));
        assert_eq!(inner.release(), Err(ReleaseError::Gone));
        drop(native);
        assert_eq!(probe.violations(), [""; 0]);
    }
}

#[test]
fn the_daemon_level_around_a_release_that_said_gone_knows_it() {
    let registry = Registry::new();
    let (a, probe) = register(&registry);
    let (b, _) = register(&registry);
    let (c, _) = register(&registry);
    let outermost = thread_state::ensure_id(&registry, c).unwrap();
    let outer = daemon(&registry, a);
    let nested = daemon(&registry, a);
    let closing = registry.close(a).unwrap();
    let inner = thread_state::ensure_id(&registry, b).unwrap();
    drop(closing.drain(AT_ONCE).unwrap());
    assert_eq!(inner.release(), Err(ReleaseError::Gone));
    assert!(!outer.is_attached() && !nested.is_attached());
    assert_eq!(nested.allow_threads(|| 1).unwrap_err().result, 1, "nothing is attached, and it says so");
    assert_eq!(nested.set_daemon(false), Err(LookupError::NotFound));
    assert!(nested.guard().is_none());
    // Other interpreters can be used from here, and what they leave is nothing.
    drop(thread_state::ensure_id(&registry, b).unwrap());
    nothing_is_attached();
    assert_eq!(nested.release(), Err(ReleaseError::Gone), "what it found attached is gone");
    assert_eq!(outer.release(), Ok(()), "what was attached before it is restored");
    assert_eq!(thread_state::current_id(), Some(c));
    drop(outermost);
    nothing_is_attached();
    drop(finalize(&registry, c));
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn a_daemon_that_is_dropped_after_a_release_said_gone_does_not_panic() {
    let registry = Registry::new();
    let (a, probe) = register(&registry);
    let (b, _) = register(&registry);
    let outer = daemon(&registry, a);
    let closing = registry.close(a).unwrap();
    let inner = thread_state::ensure_id(&registry, b).unwrap();
    drop(closing.drain(AT_ONCE).unwrap());
    drop(inner);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(outer))).is_ok());
    drop(thread_state::ensure_id(&registry, b).unwrap());
    assert_eq!(probe.violations(), [""; 0]);
}

/// The legacy contract: no way back to code whose interpreter is gone.
#[test]
fn gilstate_parks_after_a_release_that_said_gone() {
    static REGISTRY: Interpreters = Registry::new();
    let (a, probe) = register(&REGISTRY);
    let (b, _) = register(&REGISTRY);
    let (tell, told) = mpsc::channel();
    let parked = thread_state::parked();
    std::thread::spawn(move || {
        let outer = gilstate::ensure(&REGISTRY);
        let closing = REGISTRY.close(a).unwrap();
        let inner = thread_state::ensure_id(&REGISTRY, b).unwrap();
        drop(closing.drain(AT_ONCE).unwrap());
        assert_eq!(inner.release(), Err(ReleaseError::Gone));
        outer.allow_threads(|| tell.send(()).unwrap());
        unreachable!("parked");
    });
    told.recv().unwrap(); // the function runs; what comes after it does not
    while thread_state::parked() == parked {
        std::thread::yield_now();
    }
    assert_eq!(probe.violations(), [""; 0]);
}
