//! A finalizer that would wait for its own thread is told so, at once.

use interp_guard::{DrainError, DrainOptions, FinalizeError, InterpreterId, LookupError, Registry};
use interp_guard::{gilstate, thread_state};
use refruntime::Interpreter;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A failure deadline: nothing here waits for it.
const LONG: Option<Duration> = Some(Duration::from_secs(60));

fn two() -> (Registry<Interpreter>, InterpreterId, InterpreterId) {
    let registry = Registry::new();
    let [a, b] = [0, 1].map(|_| Interpreter::locking().register(&registry).expect("room"));
    (registry, a, b)
}

fn would_deadlock<T: Send + Sync>(refused: &FinalizeError<'_, T>) -> bool {
    matches!(refused, FinalizeError::WouldDeadlock(_))
}

/// The same of an interpreter that was closed first.
fn drain_would_deadlock<T: Send + Sync>(refused: &FinalizeError<'_, T>) -> bool {
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
fn the_answer_owns_nothing_and_says_what_is_in_the_way() {
    let (registry, id, _) = two();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let FinalizeError::WouldDeadlock(report) = registry.finalize(id, None).unwrap_err() else { panic!() };
    assert_eq!((report.outstanding(), report.attaching()), (1, 0));
    assert!(report.to_string().contains(&format!("interpreter {id}: 1 guard is out")), "{report}");
    let closing = registry.close(id).unwrap(); // with the report at hand
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
    assert!(id == sub && drain_would_deadlock(&blocked.unwrap_err()));
    let (id, done) = outcomes.next().unwrap();
    assert!(id == main && done.is_ok());
    assert_eq!(registry.lookup(sub).unwrap_err(), LookupError::Finalizing);
    drop(attached);
}

// --- the finalizer is attached, and a daemon waits at the gate ---------------------------------------------------------

type Reg = Registry<Interpreter>;

/// A registry with a ledger, `interpreter` in it as the main one, and what says that a thread begins to attach to it, once armed.
fn told_of_attaching(
    interpreter: Interpreter,
) -> (&'static Reg, InterpreterId, Arc<AtomicBool>, mpsc::Receiver<()>) {
    let registry: &'static Reg = Box::leak(Box::new(Registry::new().ledger(true)));
    let (tell, told) = mpsc::channel();
    let armed = Arc::new(AtomicBool::new(false));
    let seen = armed.clone();
    interpreter.before_attach(move || {
        if seen.swap(false, SeqCst) {
            tell.send(()).unwrap();
        }
    });
    (registry, interpreter.register(registry).unwrap(), armed, told)
}

/// A daemon that has begun to attach.
fn daemon(registry: &'static Reg, armed: &AtomicBool, told: &mpsc::Receiver<()>) -> JoinHandle<()> {
    armed.store(true, SeqCst);
    let daemon = thread::spawn(|| gilstate::release(gilstate::ensure(registry)));
    told.recv().unwrap();
    daemon
}

#[test]
fn finalize_attached_with_a_daemon_attaching_leaves_the_interpreter_live() {
    let (registry, id, armed, told) = told_of_attaching(Interpreter::locking());
    let native = registry.lookup(id).unwrap().enter(); // as whoever finalizes from the interpreter's own code
    let daemon = daemon(registry, &armed, &told);
    let refused = registry.finalize(id, LONG).unwrap_err();
    assert!(would_deadlock(&refused), "{refused}");
    let report = refused.to_string();
    println!("{report}");
    assert!(
        report.contains("0 guards are out") && report.contains("1 thread is attaching as a daemon"),
        "{report}"
    );
    assert!(!report.contains("not recorded"), "{report}");
    assert!(registry.lookup(id).is_ok(), "live");
    let holders = registry.holders(id).unwrap();
    assert_eq!((holders.outstanding(), holders.unrecorded(), holders.attaching()), (0, 0, 1), "{holders}");
    assert_eq!(registry.outstanding(id), Some(0));
    native.detached(|| daemon.join().unwrap());
    assert_eq!(registry.holders(id).unwrap().attaching(), 0);
    assert!(registry.finalize(id, LONG).is_ok(), "attached, with nobody else there");
}

#[test]
fn drain_and_finalize_all_attached_with_a_daemon_attaching_leave_it_closing() {
    let (registry, id, armed, told) = told_of_attaching(Interpreter::locking());
    let native = registry.lookup(id).unwrap().enter();
    let daemon = daemon(registry, &armed, &told);
    let closing = registry.close(id).unwrap();
    assert_eq!(closing.outstanding(), 0, "a daemon holds no guard");
    let refused = closing.drain(LONG).unwrap_err();
    assert!(matches!(refused, DrainError::WouldDeadlock(_)), "{refused}");
    assert_eq!((refused.undrained().outstanding(), refused.undrained().attaching()), (0, 1));
    drop(refused);
    for (_, outcome) in registry.finalize_all(LONG) {
        assert!(drain_would_deadlock(&outcome.unwrap_err()));
    }
    native.detached(|| daemon.join().unwrap());
    assert!(registry.finalize(id, LONG).is_ok());
}

/// With a guard out, too: its holder may give it up, but the daemon stays where it is.
#[test]
fn a_guard_that_is_out_besides_changes_nothing() {
    let (registry, id, armed, told) = told_of_attaching(Interpreter::locking());
    let guard = registry.lookup(id).unwrap();
    let native = guard.enter();
    let daemon = daemon(registry, &armed, &told);
    let refused = registry.close(id).unwrap().drain(LONG).unwrap_err();
    assert!(matches!(refused, DrainError::WouldDeadlock(_)), "{refused}");
    assert_eq!((refused.undrained().outstanding(), refused.undrained().attaching()), (1, 1));
    drop(guard);
    native.detached(|| daemon.join().unwrap());
    assert!(refused.into_closing().drain(LONG).is_ok());
}

#[test]
fn a_finalizer_that_is_not_attached_waits_for_the_daemon() {
    let (registry, id, armed, told) = told_of_attaching(Interpreter::locking());
    let (go, wait) = mpsc::channel::<()>();
    let (inside, entered) = mpsc::channel();
    let holder = thread::spawn(move || {
        let native = registry.lookup(id).unwrap().enter();
        inside.send(()).unwrap();
        wait.recv().unwrap();
        drop(native);
    });
    entered.recv().unwrap();
    let daemon = daemon(registry, &armed, &told);
    let late = registry.finalize(id, Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(late, FinalizeError::Drain(DrainError::Timeout(_))), "{late}");
    go.send(()).unwrap();
    assert!(registry.finalize(id, LONG).is_ok());
    holder.join().unwrap();
    daemon.join().unwrap();
}

#[test]
fn an_attached_finalizer_of_a_runtime_without_a_lock_waits_for_the_daemon() {
    let registry: &'static Reg = Box::leak(Box::new(Registry::new()));
    let interpreter = Interpreter::lockless();
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let (armed, wait) = (Arc::new(AtomicBool::new(false)), std::sync::Mutex::new(wait));
    let seen = armed.clone();
    interpreter.before_attach(move || {
        if seen.swap(false, SeqCst) {
            tell.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
        }
    });
    let id = interpreter.register(registry).unwrap();
    let native = registry.lookup(id).unwrap().enter();
    let daemon = daemon(registry, &armed, &told);
    let late = registry.finalize(id, Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(late, FinalizeError::Drain(DrainError::Timeout(_))), "{late}");
    go.send(()).unwrap();
    let handed_back = registry.finalize(id, LONG);
    assert!(handed_back.is_ok());
    daemon.join().unwrap();
    drop(native);
}

#[test]
fn an_interrupt_check_may_let_the_daemon_in() {
    let (registry, id, armed, told) = told_of_attaching(Interpreter::locking());
    let native = registry.lookup(id).unwrap().enter();
    let mut daemon = Some(daemon(registry, &armed, &told));
    let lets_it_in = || {
        native.detached(|| daemon.take().map(|daemon| daemon.join().unwrap()));
        ControlFlow::Continue(())
    };
    assert!(registry.finalize_with(id, DrainOptions::new().timeout(LONG).interrupt(lets_it_in)).is_ok());
}

/// The daemon may begin to attach at any moment of the drain, which has looked already or not.
#[test]
fn a_drain_is_told_of_a_daemon_that_begins_to_attach_while_it_waits() {
    for round in 0..500 {
        let registry: &'static Reg = Box::leak(Box::new(Registry::new()));
        let id = Interpreter::locking().register(registry).unwrap();
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let daemon = thread::spawn(move || {
            let attached = thread_state::ensure_id(registry, id).unwrap();
            attached.set_daemon(true).unwrap();
            let back = attached.allow_threads(move || {
                tell.send(()).unwrap();
                wait.recv().unwrap();
                (0..round * 50).for_each(|_| std::hint::spin_loop());
            });
            assert!(back.is_ok(), "a guard is out");
        });
        told.recv().unwrap();
        let guard = registry.lookup(id).unwrap(); // by which the gate lets the daemon in, though it closes
        let native = guard.enter();
        let closing = registry.close(id).unwrap();
        go.send(()).unwrap();
        let began = Instant::now();
        let refused = closing.drain(LONG).unwrap_err();
        assert!(matches!(refused, DrainError::WouldDeadlock(_)), "round {round}: {refused}");
        assert!(Some(began.elapsed()) < LONG, "round {round}: told by the deadline only");
        native.detached(|| daemon.join().unwrap());
        drop(guard);
        assert!(refused.into_closing().drain(LONG).is_ok());
    }
}
