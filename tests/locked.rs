//! VMs with a lock each, used as their users do: with no `unsafe` at all. What the library promises must hold whatever
//! is done here.
#![allow(missing_docs)]
#![forbid(unsafe_code)]

mod again;

use again::{again, in_child};
use interp_guard::locked::{Locked, WithError};
use interp_guard::thread_state::{self, Attached, EnsureError, Runtime};
use interp_guard::{Counters, DrainError, FinalizeError, InterpreterId, LookupError, Registry, platform};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

const NOW: Option<Duration> = Some(Duration::ZERO);

/// A failure deadline: nothing here waits for it.
const LONG: Option<Duration> = Some(Duration::from_secs(60));

/// Not `Sync`. Counts in two steps, which two threads at a time would be seen to do.
struct Vm {
    runs: Cell<u64>,
    within: Cell<bool>,
    dropped: Option<Arc<AtomicUsize>>,
    at_drop: Option<Box<dyn FnOnce() + Send>>,
}

impl Vm {
    fn new() -> Self {
        Self { runs: Cell::new(0), within: Cell::new(false), dropped: None, at_drop: None }
    }

    fn counted(dropped: &Arc<AtomicUsize>) -> Self {
        let mut vm = Self::new();
        vm.dropped = Some(dropped.clone());
        vm
    }

    fn at_drop(f: impl FnOnce() + Send + 'static) -> Self {
        let mut vm = Self::new();
        vm.at_drop = Some(Box::new(f));
        vm
    }

    fn run(&mut self) -> u64 {
        assert!(!self.within.replace(true), "two at a time");
        let runs = self.runs.get() + 1;
        std::hint::spin_loop();
        self.runs.set(runs);
        self.within.set(false);
        runs
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        assert!(!self.within.get() || thread::panicking(), "dropped under somebody");
        if let Some(dropped) = &self.dropped {
            dropped.fetch_add(1, SeqCst);
        }
        if let Some(at_drop) = self.at_drop.take() {
            at_drop();
        }
    }
}

type Vms = Registry<Locked<Vm>>;

fn registered(registry: &Vms) -> InterpreterId {
    registry.register(Locked::new(Vm::new())).expect("registered")
}

fn runs(registry: &Vms, id: InterpreterId) -> u64 {
    registry.with(id, |vm| vm.runs.get()).expect("live")
}

fn message(panicked: Box<dyn std::any::Any + Send>) -> String {
    let literal = panicked.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.or_else(|| panicked.downcast::<String>().ok().map(|text| *text)).expect("a text")
}

fn modes() -> impl Iterator<Item = Counters> {
    let per_cpu = platform::missing_for_per_cpu().is_none().then_some(Counters::PerCpu);
    per_cpu.into_iter().chain([Counters::Shared])
}

#[test]
fn an_end_under_fire_takes_nothing_from_those_inside_and_drops_once() {
    for counters in modes() {
        let registry = Vms::with_capacity(4).counters(counters);
        let dropped = Arc::new(AtomicUsize::new(0));
        for round in 1..=150 {
            let id = registry.register(Locked::new(Vm::counted(&dropped))).expect("registered");
            let (ran, began) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|scope| {
                for number in 0..6 {
                    let (registry, ran, began) = (&registry, &ran, &began);
                    scope.spawn(move || {
                        began.fetch_add(1, SeqCst);
                        loop {
                            let one = || match number % 3 {
                                0 => registry.with(id, Vm::run),
                                1 => registry.lookup(id).map_err(EnsureError::from)?.with(Vm::run),
                                _ => {
                                    let attached = thread_state::ensure_id(registry, id)?;
                                    attached.allow_threads(|| ()).expect("guarded");
                                    Ok(attached.with(Vm::run))
                                }
                            };
                            match one() {
                                Ok(_) => ran.fetch_add(1, SeqCst),
                                Err(WithError::Ensure(EnsureError::Finalizing | EnsureError::NotFound)) => {
                                    break;
                                }
                                Err(other) => panic!("{other}"),
                            };
                        }
                    });
                }
                while began.load(SeqCst) < 6 || ran.load(SeqCst) < round % 50 {
                    thread::yield_now();
                }
                let vm = registry.finalize(id, LONG).expect("all leave");
                let vm = vm.into_inner().expect("nobody has it");
                assert_eq!(dropped.load(SeqCst), round - 1);
                drop(vm);
            });
            assert_eq!(dropped.load(SeqCst), round);
        }
    }
}

#[test]
fn nothing_is_lost_between_threads() {
    let registry = Vms::new();
    let id = registered(&registry);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..2_000).for_each(|_| _ = registry.with(id, Vm::run).expect("live")));
        }
    });
    assert_eq!(runs(&registry, id), 16_000);
}

#[test]
fn what_is_lent_is_not_lent_again() {
    let registry = Vms::new();
    let id = registered(&registry);
    let guard = registry.lookup(id).expect("live");
    let attached = thread_state::ensure_id(&registry, id).expect("live");
    attached.with(|vm| {
        vm.run();
        assert_eq!(attached.try_with(|_| unreachable!()), Err::<(), _>(WithError::Lent));
        assert_eq!(registry.with(id, |_| unreachable!()), Err::<(), _>(WithError::Lent));
        assert_eq!(guard.with(|_| unreachable!()), Err::<(), _>(WithError::Lent));
        let inner = thread_state::ensure_id(&registry, id).expect("attached already");
        assert_eq!(inner.try_with(|_| unreachable!()), Err::<(), _>(WithError::Lent));
        let panicked = catch_unwind(AssertUnwindSafe(|| inner.with(|_| ()))).expect_err("it is lent");
        assert!(message(panicked).contains("has it already"));
        drop(inner);
        vm.run();
    });
    assert_eq!(attached.with(|vm| vm.run()), 3);
}

#[test]
fn what_is_lent_stays_attached() {
    let registry = Vms::new();
    let [id, other] = [registered(&registry), registered(&registry)];
    let attached = thread_state::ensure_id(&registry, id).expect("live");
    attached.with(|vm| {
        let panicked = catch_unwind(AssertUnwindSafe(|| attached.allow_threads(|| ()))).expect_err("in use");
        assert!(message(panicked).contains("in use"));
        let refused = registry.with(other, Vm::run).expect_err("the first one would be left");
        assert!(matches!(refused, WithError::Ensure(EnsureError::Create(_))), "{refused}");
        assert!(refused.to_string().contains("in use"), "{refused}");
        let refused = registry.finalize(id, LONG).expect_err("this thread is inside");
        assert!(matches!(refused, FinalizeError::WouldDeadlock(_)), "{refused}");
        assert_eq!(vm.run(), 1);
    });
    attached.allow_threads(|| ()).expect("guarded");
    assert_eq!(registry.with(other, Vm::run), Ok(1));
    assert_eq!(attached.with(Vm::run), 2);
    // The outer one, while another is attached.
    let inner = thread_state::ensure_id(&registry, other).expect("live");
    assert_eq!(attached.try_with(Vm::run), Err(WithError::Detached));
    assert_eq!(inner.with(Vm::run), 2);
    let again = thread_state::ensure_id(&registry, id).expect("live");
    assert_eq!((again.with(Vm::run), attached.with(Vm::run)), (3, 4));
    drop((again, inner));
    assert_eq!(attached.with(Vm::run), 5);
}

#[test]
fn a_panic_leaves_the_vm_as_it_was_left_and_the_thread_attached() {
    let registry = Vms::new();
    let id = registered(&registry);
    let attached = thread_state::ensure_id(&registry, id).expect("live");
    for round in 0..3 {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            attached.with(|vm| {
                vm.run();
                panic!("on purpose")
            })
        }));
        assert!(panicked.is_err() && attached.is_attached());
        assert_eq!(attached.with(|vm| vm.runs.get()), round + 1);
    }
    drop(attached);
    let panicked = catch_unwind(AssertUnwindSafe(|| registry.with(id, |_| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(thread_state::current_id(), None);
    let elsewhere = thread::scope(|scope| scope.spawn(|| registry.with(id, Vm::run)).join());
    assert_eq!(elsewhere.expect("no panic"), Ok(4));
    let vm = registry.finalize(id, NOW).expect("nobody is inside").into_inner().expect("nobody has it");
    assert_eq!(vm.runs.get(), 4);
}

/// Runs `f` on a thread that is attached to `id` as a daemon, while the calling thread runs `meanwhile`. `f` tells the
/// one end that it is there, and hears from the other when it may go on.
fn beside_a_daemon<R: Send>(
    registry: &Vms,
    id: InterpreterId,
    f: impl FnOnce(&Attached<'_, Locked<Vm>>, &dyn Fn()) -> R + Send,
    meanwhile: impl FnOnce(),
) -> R {
    let (here, is_here) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    thread::scope(|scope| {
        let daemon = scope.spawn(move || {
            let attached = thread_state::ensure_id(registry, id).expect("live");
            attached.set_daemon(true).expect("a daemon from here on");
            let wait = || {
                here.send(()).expect("somebody waits");
                may_go.recv().expect("somebody says so");
            };
            let result = f(&attached, &wait);
            attached.release().expect("released, whatever became of the interpreter");
            assert_eq!(thread_state::current_id(), None);
            result
        });
        is_here.recv().expect("the daemon is there");
        meanwhile();
        go.send(()).expect("the daemon waits");
        daemon.join().expect("no panic")
    })
}

#[test]
fn a_daemon_keeps_what_it_has_lent_and_drops_it() {
    let registry = Vms::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    let id = registry.register(Locked::new(Vm::counted(&dropped))).expect("registered");
    let inside = |attached: &Attached<'_, _>, wait: &dyn Fn()| {
        attached.with(|vm: &mut Vm| {
            wait();
            assert_eq!((vm.run(), dropped.load(SeqCst)), (1, 0));
        });
        assert_eq!(dropped.load(SeqCst), 1, "as soon as it was given back");
        assert_eq!(attached.try_with(Vm::run), Err(WithError::Ended));
    };
    beside_a_daemon(&registry, id, inside, || {
        let locked = registry.finalize(id, LONG).expect("a daemon has no guard");
        let locked = locked.into_inner().map(drop).expect_err("it is lent");
        drop(locked); // does not wait
        assert_eq!(dropped.load(SeqCst), 0);
    });
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_daemon_that_has_nothing_lent_keeps_nothing() {
    let registry = Vms::new();
    for by_drop in [false, true] {
        let dropped = Arc::new(AtomicUsize::new(0));
        let id = registry.register(Locked::new(Vm::counted(&dropped))).expect("registered");
        let attached_only = |attached: &Attached<'_, _>, wait: &dyn Fn()| {
            wait();
            assert_eq!(attached.try_with(Vm::run), Err(WithError::Ended));
        };
        beside_a_daemon(&registry, id, attached_only, || {
            let locked = registry.finalize(id, LONG).expect("a daemon has no guard");
            match by_drop {
                true => drop(locked),
                false => drop(locked.into_inner().expect("nobody has it")),
            }
            assert_eq!(dropped.load(SeqCst), 1);
        });
    }
}

#[test]
fn a_daemon_that_was_away_does_not_come_back() {
    let registry = Vms::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    // More than once, so that what such a thread keeps would be seen to pile up by a checker of memory.
    for round in 1..=20 {
        let id = registry.register(Locked::new(Vm::counted(&dropped))).expect("registered");
        let away = |attached: &Attached<'_, _>, wait: &dyn Fn()| {
            let (tell, told) = (AtomicBool::new(false), &registry);
            thread::scope(|scope| {
                let back = attached.allow_threads(|| {
                    scope.spawn(|| {
                        drop(told.finalize(id, LONG).expect("nobody has a guard"));
                        tell.store(true, SeqCst);
                    });
                    while !tell.load(SeqCst) {
                        thread::yield_now();
                    }
                });
                assert!(back.is_err(), "its interpreter has ended");
            });
            assert_eq!(dropped.load(SeqCst), round);
            assert_eq!(attached.try_with(Vm::run), Err(WithError::Ended));
            wait();
        };
        beside_a_daemon(&registry, id, away, || ());
    }
}

#[test]
fn a_thread_may_end_its_own_daemon_from_inside() {
    let registry = Vms::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    let id = registry.register(Locked::new(Vm::counted(&dropped))).expect("registered");
    let attached = thread_state::ensure_id(&registry, id).expect("live");
    attached.set_daemon(true).expect("a daemon");
    attached.with(|vm| {
        drop(registry.finalize(id, LONG).expect("no guard is out"));
        assert_eq!((vm.run(), dropped.load(SeqCst)), (1, 0), "it is lent");
    });
    assert_eq!(dropped.load(SeqCst), 1);
    assert_eq!(attached.try_with(Vm::run), Err(WithError::Ended));
    attached.release().expect("released");
    let next = registered(&registry);
    assert_eq!(registry.with(next, Vm::run), Ok(1));
}

#[test]
fn a_leaked_handle_keeps_its_guard_and_not_the_lock() {
    let registry = Vms::new();
    let id = registered(&registry);
    thread::scope(|scope| {
        scope.spawn(|| {
            let attached = thread_state::ensure_id(&registry, id).expect("live");
            attached.with(Vm::run);
            std::mem::forget(attached);
        });
    });
    assert_eq!(registry.with(id, Vm::run), Ok(2), "the lock was given back when the thread ended");
    let refused = registry.finalize(id, NOW).expect_err("its guard is out");
    let FinalizeError::Drain(DrainError::Timeout(late)) = refused else { panic!("{refused}") };
    assert_eq!(late.outstanding(), 1);
    // A daemon's handle had none.
    let id = registered(&registry);
    thread::scope(|scope| {
        scope.spawn(|| {
            let attached = thread_state::ensure_id(&registry, id).expect("live");
            attached.set_daemon(true).expect("a daemon");
            std::mem::forget(attached);
        });
    });
    let vm = registry.finalize(id, LONG).expect("no guard is out").into_inner();
    assert!(vm.is_ok());
    // Leaked on a thread that goes on: it is attached, and finds itself so.
    let id = registered(&registry);
    std::mem::forget(thread_state::ensure_id(&registry, id).expect("live"));
    assert_eq!(registry.with(id, Vm::run), Ok(1));
}

#[test]
fn a_vm_may_use_its_registry_when_it_is_dropped() {
    static VMS: Vms = Vms::with_capacity(4);
    let other = registered(&VMS);
    let uses = move || {
        let new = registered(&VMS);
        assert_eq!(VMS.with(new, Vm::run), Ok(1));
        VMS.with(other, Vm::run).expect("live");
        drop(VMS.finalize(new, LONG).expect("finalized"));
    };
    let with_use = || Vm::at_drop(uses);
    // By its owner.
    let id = VMS.register(Locked::new(with_use())).expect("registered");
    drop(VMS.finalize(id, LONG).expect("finalized"));
    assert_eq!(runs(&VMS, other), 1);
    // By a daemon, at the end of `with`, attached.
    let id = VMS.register(Locked::new(with_use())).expect("registered");
    let inside = |attached: &Attached<'_, _>, wait: &dyn Fn()| attached.with(|_: &mut Vm| wait());
    beside_a_daemon(&VMS, id, inside, || drop(VMS.finalize(id, LONG).expect("no guard")));
    assert_eq!(runs(&VMS, other), 2);
    // And where its drop throws, there: the daemon is not disturbed.
    let throws = Vm::at_drop(|| panic!("on purpose"));
    let id = VMS.register(Locked::new(throws)).expect("registered");
    beside_a_daemon(&VMS, id, inside, || drop(VMS.finalize(id, LONG).expect("no guard")));
}

#[test]
fn ids_of_two_registries_are_not_mixed_up() {
    let (one, two) = (Vms::new(), Vms::new());
    let (a, b) = (registered(&one), registered(&two));
    assert_eq!(a, b);
    let in_one = thread_state::ensure_id(&one, a).expect("live");
    in_one.with(Vm::run);
    let in_two = thread_state::ensure_id(&two, b).expect("live");
    assert_eq!((in_two.with(Vm::run), in_one.try_with(Vm::run)), (1, Err(WithError::Detached)));
    assert_eq!(thread_state::current_of(&two), Some(b));
    let (owned, other) = (two.lookup(b).expect("live"), one.lookup(a).expect("live"));
    assert_eq!(owned.owns(in_two.thread_state()), Some(true));
    assert_eq!(other.owns(in_two.thread_state()), Some(false));
    assert_eq!(Locked::<Vm>::interpreter_of(in_two.thread_state()), b);
    drop((in_two, owned, other));
    assert_eq!(in_one.with(Vm::run), 2);
}

#[test]
fn what_was_handed_back_may_be_registered_again() {
    let (one, two) = (Vms::new(), Vms::new());
    registered(&two);
    let id = registered(&one);
    one.with(id, Vm::run).expect("live");
    let locked = one.finalize(id, LONG).expect("finalized");
    let anew = two.register(locked).expect("registered");
    assert_ne!(anew, id);
    let attached = thread_state::ensure_id(&two, anew).expect("live");
    assert_eq!(Locked::<Vm>::attached().map(Locked::<Vm>::interpreter_of), Some(anew));
    assert_eq!(thread_state::hold(&two).expect("attached").id(), anew);
    assert_eq!(attached.with(Vm::run), 2);
}

#[test]
fn a_vm_knows_its_id_where_it_wants_to() {
    let registry: Registry<Locked<InterpreterId>> = Registry::new();
    let id = registry.register_with(Locked::new).expect("registered");
    assert_eq!(registry.with(id, |own| *own), Ok(id));
}

#[test]
fn what_safe_code_can_ask_a_runtime_is_answered() {
    let registry = Vms::new();
    let id = registered(&registry);
    let guard = registry.lookup(id).expect("live");
    assert!(guard.create().expect_err("not by hand").to_string().contains("ensure"));
    assert!(guard.remembered().is_none() && Locked::<Vm>::attached().is_none() && guard.is_exclusive());
    let state = thread_state::ensure(&guard).expect("live").thread_state();
    // Out of date by now, here and on another thread.
    for _ in 0..2 {
        assert_eq!((guard.owns(state), Locked::<Vm>::in_use(state)), (None, false));
        assert_eq!(Locked::<Vm>::interpreter_of(state), id);
    }
    let attached = thread_state::ensure(&guard).expect("live");
    assert!(guard.create().is_err(), "inside an ensure neither");
    assert_ne!(attached.thread_state(), state);
    let elsewhere = thread::scope(|scope| {
        let state = attached.thread_state();
        let (guard, asked) =
            (&guard, move |guard: &Locked<Vm>| (guard.owns(state), Locked::<Vm>::in_use(state)));
        scope.spawn(move || asked(guard)).join().expect("no panic")
    });
    assert_eq!(elsewhere, (None, false), "another thread's");
}

#[test]
fn vms_of_two_types_are_two_runtimes() {
    let (vms, texts): (Vms, Registry<Locked<String>>) = (Vms::new(), Registry::new());
    let (vm, text) = (registered(&vms), texts.register(Locked::new("a".into())).expect("registered"));
    let outer = thread_state::ensure_id(&vms, vm).expect("live");
    let long = outer.with(|vm| {
        vm.run();
        texts.with(text, |text| {
            text.push('b');
            text.clone()
        })
    });
    assert_eq!(long.as_deref(), Ok("ab"));
    assert_eq!(thread_state::current_of(&vms), Some(vm));
    assert_eq!(outer.with(Vm::run), 2);
}

#[test]
fn a_destructor_of_a_thread_local_may_come_late() {
    static VMS: Vms = Vms::with_capacity(2);
    static IDS: RunsAtEnd = RunsAtEnd(AtomicUsize::new(0));
    struct RunsAtEnd(AtomicUsize);
    struct Late(RefCell<Vec<InterpreterId>>);
    impl Drop for Late {
        fn drop(&mut self) {
            for &id in &*self.0.borrow() {
                VMS.with(id, Vm::run).expect("live");
                let attached = thread_state::ensure_id(&VMS, id).expect("live");
                attached.with(Vm::run);
                IDS.0.fetch_add(1, SeqCst);
            }
        }
    }
    thread_local! {
        static LATE: Late = const { Late(RefCell::new(Vec::new())) };
    }
    let id = registered(&VMS);
    for leaks in [false, true] {
        let thread = thread::spawn(move || {
            // Made before anything of the library's is, and so dropped after it.
            LATE.with(|late| late.0.borrow_mut().push(id));
            let attached = thread_state::ensure_id(&VMS, id).expect("live");
            attached.with(Vm::run);
            if leaks {
                std::mem::forget(attached);
            }
        });
        thread.join().expect("no panic");
    }
    assert_eq!(IDS.0.load(SeqCst), 2);
    assert_eq!(VMS.with(id, Vm::run), Ok(7), "nobody has kept the lock");
}

#[test]
fn a_process_may_exit_from_inside() {
    static VMS: Vms = Vms::with_capacity(2);
    if !in_child() {
        // `again` expects the test to pass, and an exit inside of it does not say so: the line is written here.
        return again("a_process_may_exit_from_inside", &[]);
    }
    let id = registered(&VMS);
    let began = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let began = began.clone();
        thread::spawn(move || {
            loop {
                began.fetch_add(1, SeqCst);
                VMS.with(id, Vm::run).expect("live");
            }
        });
    }
    while began.load(SeqCst) < 100 {
        thread::yield_now();
    }
    let _ = VMS.with(id, |vm| {
        vm.run();
        println!("test result: ok. 1 passed");
        std::process::exit(0)
    });
}

#[test]
fn lookups_see_it_as_any_other() {
    let registry = Vms::new();
    let id = registered(&registry);
    assert_eq!(registry.main(), Some(id));
    assert!(format!("{:?}", *registry.lookup(id).expect("live")).contains("Locked"));
    drop(registry.finalize(id, NOW).expect("finalized"));
    assert_eq!(registry.lookup(id).map(drop), Err(LookupError::NotFound));
    let gone = registry.with(id, |_| ()).expect_err("gone");
    assert_eq!(gone, WithError::Ensure(EnsureError::NotFound));
    assert!(std::error::Error::source(&gone).is_some());
}
