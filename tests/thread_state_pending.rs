//! Pending calls, run attached.

use interp_guard::pending::{self, PendingQueue, QueueOptions};
use interp_guard::{FinalizeError, Guard, Registry, thread_state};
use refruntime::{Interpreter, Object};
use std::sync::Mutex;

static SEEN: Mutex<Vec<(usize, bool)>> = Mutex::new(Vec::new());

fn look(guard: &Guard<'_, Interpreter>, data: usize) {
    Object::new(1).add(1);
    SEEN.lock().unwrap().push((data, thread_state::current_id() == Some(guard.id())));
    assert!(data != 2, "this call panics");
}

#[test]
fn each_call_runs_in_its_interpreter_and_a_panic_stays_in_its_call() {
    let registry = Registry::new();
    let (a, b) = (Interpreter::locking(), Interpreter::lockless());
    let probes = [a.probe(), b.probe()];
    let [a, b] = [a, b].map(|interpreter| interpreter.register(&registry).unwrap());
    let queue = PendingQueue::with(&registry, QueueOptions::new().runner(pending::attached)).unwrap();
    for (data, id) in [a, b, a, b].into_iter().enumerate() {
        queue.push(registry.lookup(id).unwrap(), look, data).unwrap();
    }
    // On a thread that is attached elsewhere itself.
    let attached = thread_state::ensure_id(&registry, b).unwrap();
    let ran = queue.run_pending();
    assert_eq!((ran.calls, ran.panics), (4, 1));
    assert_eq!(*SEEN.lock().unwrap(), [(0, true), (1, true), (2, true), (3, true)]);
    assert_eq!(refruntime::attached(), Some(attached.thread_state()), "restored, of the panic too");
    drop(attached);
    for probe in probes {
        assert_eq!((registry.outstanding(probe.id()), probe.thread_states()), (Some(0), 0));
        assert_eq!(probe.violations(), [""; 0]);
    }
}

#[test]
fn finalize_from_inside_a_call_of_that_interpreter_would_deadlock() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    fn finalize(guard: &Guard<'_, Interpreter>, _: usize) {
        let refused = REGISTRY.finalize(guard.id(), None).unwrap_err();
        assert!(matches!(refused, FinalizeError::WouldDeadlock(_)), "{refused}");
    }
    let id = Interpreter::locking().register(&REGISTRY).unwrap();
    let queue = PendingQueue::with(&REGISTRY, QueueOptions::new().runner(pending::attached)).unwrap();
    queue.push(REGISTRY.lookup(id).unwrap(), finalize, 0).unwrap();
    assert_eq!(queue.run_pending().panics, 0);
    assert!(REGISTRY.finalize(id, None).is_ok());
}
