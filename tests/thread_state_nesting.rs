//! Ensure and release: what is attached, created, reused, destroyed and restored, to any depth and across interpreters.

use interp_guard::thread_state::{self, EnsureError, ReleaseError, Runtime, Token};
use interp_guard::{InterpreterId, Registry};
use refruntime::{Interpreter, Object, Probe};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn register(registry: &Registry<Interpreter>, interpreter: Interpreter) -> (InterpreterId, Probe) {
    let probe = interpreter.probe();
    (interpreter.register(registry).expect("room"), probe)
}

/// With a lock and without.
fn each_kind(test: impl Fn(fn() -> Interpreter)) {
    test(Interpreter::locking);
    test(Interpreter::lockless);
}

#[test]
fn from_a_thread_with_nothing_attached_a_state_is_created_and_destroyed() {
    each_kind(|new| {
        let registry = Registry::new();
        let (id, probe) = register(&registry, new());
        let attached = thread_state::ensure_id(&registry, id).unwrap();
        assert_eq!((attached.id(), thread_state::current_id()), (id, Some(id)));
        assert_eq!(refruntime::attached(), Some(attached.thread_state()));
        assert_eq!(registry.outstanding(id), Some(1));
        assert_eq!(Object::new(1).add(1), 2);
        drop(attached);
        assert_eq!((refruntime::attached(), thread_state::current_id()), (None, None));
        assert_eq!(registry.outstanding(id), Some(0));
        assert_eq!((probe.created(), probe.thread_states()), (1, 0));
        drop(registry.finalize(id, None).unwrap());
        assert_eq!(probe.violations(), [""; 0]);
    });
}

#[test]
fn an_attached_thread_stays_attached_with_its_own_state() {
    each_kind(|new| {
        let registry = Registry::new();
        let (id, probe) = register(&registry, new());
        let guard = registry.lookup(id).unwrap();
        let native = guard.enter();
        let attached = thread_state::ensure(&guard).unwrap();
        assert_eq!(attached.thread_state(), native.state());
        drop(attached);
        assert_eq!(refruntime::attached(), Some(native.state()));
        drop(native);
        assert_eq!((probe.created(), probe.thread_states()), (1, 0));
        assert_eq!(probe.violations(), [""; 0]);
    });
}

#[test]
fn the_threads_own_detached_state_is_found_again() {
    let registry = Registry::new();
    let (id, probe) = register(&registry, Interpreter::locking());
    let guard = registry.lookup(id).unwrap();
    let native = guard.enter();
    native.state().remember();
    native.detached(|| {
        let attached = thread_state::ensure(&guard).unwrap();
        assert_eq!(attached.thread_state(), native.state());
        drop(attached);
        assert_eq!(refruntime::attached(), None);
    });
    assert_eq!(refruntime::attached(), Some(native.state()), "borrowed, not destroyed");
    drop(native);
    assert_eq!((probe.created(), probe.thread_states()), (1, 0));
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn levels_nest_across_interpreters_and_each_restores_what_was() {
    each_kind(|new| {
        let registry = Registry::new();
        let (a, probe_a) = register(&registry, new());
        let (b, probe_b) = register(&registry, new());
        let outer = thread_state::ensure_id(&registry, a).unwrap();
        let middle = thread_state::ensure_id(&registry, b).unwrap();
        let inner = thread_state::ensure_id(&registry, a).unwrap();
        assert_eq!(inner.thread_state(), outer.thread_state(), "looked for in the thread's own levels");
        assert_eq!(thread_state::current_id(), Some(a));
        drop(inner);
        assert_eq!(refruntime::attached(), Some(middle.thread_state()));
        assert_eq!(thread_state::current_id(), Some(b));
        drop(middle);
        assert_eq!(refruntime::attached(), Some(outer.thread_state()));
        drop(outer);
        assert_eq!(refruntime::attached(), None);
        for (id, probe) in [(a, probe_a), (b, probe_b)] {
            assert_eq!(registry.outstanding(id), Some(0));
            assert_eq!((probe.created(), probe.thread_states()), (1, 0));
            assert_eq!(probe.violations(), [""; 0]);
        }
    });
}

#[test]
fn levels_nest_to_any_depth() {
    let registry = Registry::new();
    let ids = [0; 3].map(|_| register(&registry, Interpreter::locking()).0);
    let levels: Vec<_> =
        (0..1000).map(|at| thread_state::ensure_id(&registry, ids[at % 3]).unwrap()).collect();
    for (at, level) in levels.into_iter().enumerate().rev() {
        assert_eq!(thread_state::current_id(), Some(ids[at % 3]));
        drop(level);
    }
    assert_eq!(ids.map(|id| registry.outstanding(id)), [Some(0); 3]);
}

#[test]
fn ensure_inside_allow_threads_attaches_the_levels_own_state_again() {
    let registry = Registry::new();
    let (id, probe) = register(&registry, Interpreter::locking());
    let outer = thread_state::ensure_id(&registry, id).unwrap();
    let state = outer.thread_state();
    outer
        .allow_threads(|| {
            assert_eq!((refruntime::attached(), thread_state::current_id()), (None, None));
            let inner = thread_state::ensure_id(&registry, id).unwrap();
            assert_eq!(inner.thread_state(), state);
            drop(inner);
            assert_eq!(refruntime::attached(), None);
        })
        .unwrap();
    assert_eq!(refruntime::attached(), Some(outer.thread_state()));
    drop(outer);
    assert_eq!((probe.created(), probe.thread_states()), (1, 0));
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn allow_threads_lets_others_in_and_attaches_again_where_it_unwinds() {
    let registry = Registry::new();
    let (id, probe) = register(&registry, Interpreter::locking());
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let object = Object::new(0);
    attached
        .allow_threads(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _other = thread_state::ensure_id(&registry, id).unwrap();
                    object.add(1);
                });
            });
        })
        .unwrap();
    assert_eq!(object.get(), 1);
    let unwound = catch_unwind(AssertUnwindSafe(|| attached.allow_threads(|| panic!("within")))).is_err();
    assert!(unwound);
    assert_eq!(refruntime::attached(), Some(attached.thread_state()));
    assert_eq!(thread_state::current_id(), Some(id));
    drop(attached);
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn a_level_gives_its_guard_back_at_its_own_release() {
    let registry = Registry::new();
    let (a, _) = register(&registry, Interpreter::locking());
    let (b, _) = register(&registry, Interpreter::locking());
    let out = || (registry.outstanding(a).unwrap(), registry.outstanding(b).unwrap());
    let outer = thread_state::ensure_id(&registry, a).unwrap();
    let nested = thread_state::ensure_id(&registry, a).unwrap();
    assert_eq!(out(), (1, 0), "the nested level counts under the outer one's guard");
    let crossed = thread_state::ensure_id(&registry, b).unwrap();
    assert_eq!(out(), (1, 1));
    drop(crossed);
    assert_eq!(out(), (1, 0), "at its own release, not at the outermost one");
    drop(nested);
    assert_eq!(out(), (1, 0));
    drop(outer);
    assert_eq!(out(), (0, 0));
}

#[test]
fn ensure_leaves_the_guard_to_its_owner_and_the_consuming_form_takes_it() {
    let registry = Registry::new();
    let (id, _) = register(&registry, Interpreter::locking());
    let guard = registry.lookup(id).unwrap();
    for _ in 0..3 {
        drop(thread_state::ensure(&guard).unwrap()); // multi-use
        assert_eq!(registry.outstanding(id), Some(1));
    }
    let attached = thread_state::ensure_owned(guard).unwrap();
    assert_eq!(registry.outstanding(id), Some(1), "moved into the level");
    let another = attached.guard().expect("not a daemon");
    assert_eq!(registry.outstanding(id), Some(2));
    drop((another, attached));
    assert_eq!(registry.outstanding(id), Some(0));
}

#[test]
fn the_interpreter_left_behind_is_guarded_until_it_is_restored() {
    let registry = Registry::new();
    let (a, probe) = register(&registry, Interpreter::locking());
    let (b, _) = register(&registry, Interpreter::locking());
    let native = registry.lookup(a).unwrap().enter(); // the guard is gone at once
    assert_eq!(registry.outstanding(a), Some(0));
    let attached = thread_state::ensure_id(&registry, b).unwrap();
    assert_eq!(registry.outstanding(a), Some(1));
    drop(attached);
    assert_eq!(registry.outstanding(a), Some(0));
    assert_eq!(refruntime::attached(), Some(native.state()));
    drop(native);
    assert_eq!(probe.violations(), [""; 0]);
}

/// Broken twin: the guard is dropped before the state is restored.
#[test]
fn guards_are_given_up_after_restoring() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    let left = Interpreter::locking();
    let (a, probe_a) = (left.id(), left.probe());
    let attaching = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = attaching.clone();
    left.before_attach(move || seen.lock().unwrap().push(REGISTRY.outstanding(a)));
    left.register(&REGISTRY).unwrap();
    let entered = Interpreter::locking();
    let b = entered.id();
    let destroying = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = destroying.clone();
    entered.in_destroy(move || seen.lock().unwrap().push(REGISTRY.outstanding(b)));
    entered.register(&REGISTRY).unwrap();

    let native = REGISTRY.lookup(a).unwrap().enter();
    attaching.lock().unwrap().clear();
    drop(thread_state::ensure_id(&REGISTRY, b).unwrap());
    assert_eq!(*attaching.lock().unwrap(), [Some(1)], "guarded when its state was attached again");
    assert_eq!(*destroying.lock().unwrap(), [Some(1)], "guarded when the thread state was destroyed");
    drop(native);
    assert_eq!(probe_a.violations(), [""; 0]);
}

#[test]
fn releases_out_of_order_are_caught_and_nothing_is_corrupted() {
    let registry = Registry::new();
    let (a, probe_a) = register(&registry, Interpreter::locking());
    let (b, probe_b) = register(&registry, Interpreter::locking());
    let outer = thread_state::ensure_id(&registry, a).unwrap().into_token();
    let inner = thread_state::ensure_id(&registry, b).unwrap().into_token();
    // SAFETY: the registry lives, here and below.
    assert_eq!(unsafe { outer.release() }, Err(ReleaseError::OutOfOrder));
    assert_eq!(thread_state::current_id(), Some(b));
    assert_eq!((registry.outstanding(a), registry.outstanding(b)), (Some(1), Some(1)));
    // SAFETY: as above.
    assert_eq!(unsafe { inner.release() }, Ok(()));
    // SAFETY: as above.
    assert_eq!(unsafe { inner.release() }, Err(ReleaseError::Unknown));
    let elsewhere = std::thread::scope(|scope| {
        // SAFETY: as above.
        scope.spawn(|| unsafe { outer.release() }).join().unwrap()
    });
    assert_eq!(elsewhere, Err(ReleaseError::Unknown), "another thread's");
    // SAFETY: as above.
    assert_eq!(unsafe { outer.release() }, Ok(()));
    assert_eq!((probe_a.thread_states(), probe_b.thread_states()), (0, 0));
    assert_eq!((probe_a.violations(), probe_b.violations()), (vec![], vec![]));
}

#[test]
fn a_handle_released_out_of_order_panics_and_its_level_stays() {
    let registry = Registry::new();
    let (a, probe) = register(&registry, Interpreter::locking());
    let (b, _) = register(&registry, Interpreter::locking());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let outer = thread_state::ensure_id(&registry, a).unwrap();
            let inner = thread_state::ensure_id(&registry, b).unwrap();
            assert!(catch_unwind(AssertUnwindSafe(|| outer.set_daemon(true))).is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| outer.allow_threads(|| ()))).is_err());
            let message =
                *catch_unwind(AssertUnwindSafe(|| drop(outer))).unwrap_err().downcast::<String>().unwrap();
            assert!(message.contains("out of order"), "{message}");
            assert_eq!(registry.outstanding(a), Some(1), "its guard stays out");
            drop(inner);
            assert_eq!(thread_state::current_id(), Some(a), "and what it attached stays attached");
            let left = Token::innermost(&registry).expect("the outer level");
            // SAFETY: the registry lives.
            assert_eq!(unsafe { left.release() }, Ok(()));
        });
    });
    assert_eq!(registry.outstanding(a), Some(0));
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn a_release_while_detached_is_caught() {
    let registry = Registry::new();
    let (id, probe) = register(&registry, Interpreter::locking());
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let token = Token::innermost(&registry).unwrap();
    attached
        .allow_threads(|| {
            // SAFETY: the registry lives.
            assert_eq!(unsafe { token.release() }, Err(ReleaseError::Detached));
        })
        .unwrap();
    drop(attached);
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn code_that_destruction_runs_may_ensure_again() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    let interpreter = Interpreter::locking();
    let (id, probe) = (interpreter.id(), interpreter.probe());
    interpreter.in_destroy(move || {
        let nested = thread_state::ensure_id(&REGISTRY, id).unwrap();
        assert_eq!(Object::new(20).add(22), 42);
        drop(nested);
    });
    interpreter.register(&REGISTRY).unwrap();
    drop(thread_state::ensure_id(&REGISTRY, id).unwrap());
    assert_eq!((probe.thread_states(), REGISTRY.outstanding(id)), (0, Some(0)));
    assert_eq!(probe.violations(), [""; 0]);
}

/// A level whose guard an ensure or a release counts on is not made a daemon by what the runtime runs meanwhile.
#[test]
fn code_that_attaching_and_destruction_run_changes_no_level() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    let (inner, outer) = (Interpreter::locking(), Interpreter::locking());
    let (a, b, probes) = (outer.id(), inner.id(), [outer.probe(), inner.probe()]);
    let tried = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let try_it = |tried: &std::sync::Arc<std::sync::atomic::AtomicUsize>| {
        let tried = tried.clone();
        move || {
            // SAFETY: it is refused.
            let detached = unsafe { thread_state::allow_threads_begin::<Interpreter>() };
            let changed = thread_state::set_innermost_daemon(&REGISTRY, true);
            assert!(changed.is_none() && detached.is_none() && Token::innermost(&REGISTRY).is_none());
            tried.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    };
    inner.before_attach(try_it(&tried));
    inner.in_destroy(try_it(&tried));
    outer.before_attach({
        let (first, tried) = (std::sync::Mutex::new(true), try_it(&tried));
        move || {
            if !std::mem::replace(&mut *first.lock().unwrap(), false) {
                tried();
            }
        }
    });
    outer.register(&REGISTRY).unwrap();
    inner.register(&REGISTRY).unwrap();
    let attached = thread_state::ensure_id(&REGISTRY, a).unwrap();
    let kept = REGISTRY.lookup(b).unwrap();
    let nested = thread_state::ensure_id(&REGISTRY, b).unwrap();
    nested.allow_threads(|| ()).unwrap();
    drop(nested);
    assert_eq!(tried.load(std::sync::atomic::Ordering::SeqCst), 4, "attached twice, destroyed, and back");
    assert_eq!((REGISTRY.outstanding(a), REGISTRY.outstanding(b)), (Some(1), Some(1)));
    drop((attached, kept));
    assert_eq!((REGISTRY.outstanding(a), REGISTRY.outstanding(b)), (Some(0), Some(0)));
    assert_eq!(probes.map(Probe::violations), [[""; 0]; 2]);
}

#[test]
fn an_ensure_leaked_in_destruction_goes_with_the_level_that_covered_it() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    let interpreter = Interpreter::locking();
    let (id, probe) = (interpreter.id(), interpreter.probe());
    interpreter.in_destroy(move || std::mem::forget(thread_state::ensure_id(&REGISTRY, id).unwrap()));
    interpreter.register(&REGISTRY).unwrap();
    drop(thread_state::ensure_id(&REGISTRY, id).unwrap());
    assert_eq!(Token::innermost(&REGISTRY), None);
    assert_eq!(REGISTRY.outstanding(id), Some(0));
    let again = thread_state::ensure_id(&REGISTRY, id).unwrap();
    assert_eq!((probe.created(), REGISTRY.outstanding(id)), (2, Some(1)), "a state and a guard of its own");
    drop(again);
    drop(REGISTRY.finalize(id, Some(std::time::Duration::ZERO)).unwrap());
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn what_is_left_attached_inside_allow_threads_is_noticed() {
    let registry = Registry::new();
    let (a, probe_a) = register(&registry, Interpreter::locking());
    let (b, probe_b) = register(&registry, Interpreter::locking());
    let attached = thread_state::ensure_id(&registry, a).unwrap();
    for unwinding in [false, true] {
        let mut native = None;
        let section = catch_unwind(AssertUnwindSafe(|| {
            attached.allow_threads(|| {
                native = Some(registry.lookup(b).unwrap().enter());
                assert!(!unwinding, "unwinds with it");
            })
        }));
        let message = section.unwrap_err();
        let message = message.downcast_ref::<&str>().expect("a message");
        assert!(
            message.contains(if unwinding { "unwinds with it" } else { "has not been detached" }),
            "{message}"
        );
        // It can be put right.
        drop(native);
        let token = Token::innermost(&registry).unwrap();
        // SAFETY: the registry lives.
        unsafe { token.allow_threads_end::<Interpreter>() }.expect("nothing is attached").expect("guarded");
    }
    drop(attached);
    assert_eq!((probe_a.violations(), probe_b.violations()), (vec![], vec![]));
}

#[test]
fn a_daemon_of_another_registry_is_not_left_behind() {
    let (first, second) = (Registry::new(), Registry::new());
    let (a, probe_a) = register(&first, Interpreter::locking());
    let (b, probe_b) = register(&second, Interpreter::locking());
    let daemon = thread_state::ensure_id(&first, a).unwrap();
    daemon.set_daemon(true).unwrap();
    let refused = thread_state::ensure_id(&second, b).unwrap_err();
    assert!(refused.to_string().contains("a daemon of another registry"), "{refused}");
    assert_eq!((thread_state::current_id(), second.outstanding(b)), (Some(a), Some(0)), "nothing changed");
    assert_eq!((probe_b.created(), Token::innermost(&second)), (0, None));
    daemon.allow_threads(|| drop(thread_state::ensure_id(&second, b).unwrap())).unwrap();
    daemon.set_daemon(false).unwrap();
    drop(thread_state::ensure_id(&second, b).unwrap());
    // A daemon inside a level that guards the interpreter.
    let inner = thread_state::ensure_id(&first, a).unwrap();
    inner.set_daemon(true).unwrap();
    drop(thread_state::ensure_id(&second, b).unwrap());
    drop((inner, daemon));
    assert_eq!((probe_a.violations(), probe_b.violations()), (vec![], vec![]));
}

#[test]
fn a_thread_that_ends_may_ensure_in_its_destructors() {
    static REGISTRY: Registry<Interpreter> = Registry::new();
    struct Late(InterpreterId);
    impl Drop for Late {
        fn drop(&mut self) {
            let attached = thread_state::ensure_id(&REGISTRY, self.0).unwrap();
            assert_eq!(thread_state::current_id(), Some(self.0));
            drop(attached);
        }
    }
    thread_local!(static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) });
    let (id, probe) = register(&REGISTRY, Interpreter::locking());
    let end = std::thread::spawn(move || {
        LATE.set(Some(Late(id))); // registered first, so destroyed after what the ensure registers
        drop(thread_state::ensure_id(&REGISTRY, id).unwrap());
    });
    end.join().unwrap();
    assert_eq!((probe.created(), probe.thread_states()), (2, 0));
    assert_eq!(REGISTRY.outstanding(id), Some(0));
}

#[test]
fn registries_of_one_thread_do_not_mix() {
    let first = Registry::new();
    let second = Registry::new();
    let (a, probe_a) = register(&first, Interpreter::locking());
    let (b, probe_b) = register(&second, Interpreter::locking());
    let outer = thread_state::ensure_id(&first, a).unwrap();
    let inner = thread_state::ensure_id(&second, b).unwrap();
    assert!(Token::innermost(&first).is_none() && Token::innermost(&second).is_some());
    assert_eq!((first.outstanding(a), second.outstanding(b)), (Some(1), Some(1)));
    assert_eq!(second.outstanding(a), None);
    drop(inner);
    assert_eq!(thread_state::current_id(), Some(a));
    drop(outer);
    assert_eq!((probe_a.violations(), probe_b.violations()), (vec![], vec![]));
}

#[test]
fn a_leaked_level_does_not_pass_for_one_of_a_later_registry() {
    let mut registry = Box::new(Registry::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (id, _) = register(&registry, Interpreter::lockless());
            std::mem::forget(thread_state::ensure_id(&registry, id).unwrap());
            // At the same address now lies another registry. Detach by hand: nothing of the old level is to be used.
            let state = refruntime::attached().unwrap();
            // SAFETY: it is attached.
            unsafe { Interpreter::detach(state) };
            *registry = Registry::new();
            assert_eq!(thread_state::ensure_id(&registry, id).unwrap_err(), EnsureError::NotFound);
            let (id, probe) = register(&registry, Interpreter::lockless());
            assert!(Token::innermost(&registry).is_none());
            let attached = thread_state::ensure_id(&registry, id).unwrap();
            assert_eq!(registry.outstanding(id), Some(1), "not counted under the leaked level's guard");
            drop(attached);
            assert_eq!(probe.violations(), [""; 0]);
        });
    });
}
