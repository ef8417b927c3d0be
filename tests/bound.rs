//! VMs that are bound to their threads, used as their users do: with no `unsafe` at all.
#![allow(missing_docs)]
#![forbid(unsafe_code)]

use interp_guard::bound::{self, Bound, CallError, Loop, Refused, StartError};
use interp_guard::locked::Locked;
use interp_guard::pending::WorkerOptions;
use interp_guard::{
    Counters, DrainError, FinalizeError, Guard, InterpreterId, LookupError, RegisterError, Registry,
    platform, thread_state,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

const NOW: Option<Duration> = Some(Duration::ZERO);

/// A failure deadline: nothing here waits for it.
const LONG: Option<Duration> = Some(Duration::from_secs(60));

/// Neither `Send` nor `Sync`; it notices a thread that is not its own.
struct Vm {
    home: thread::ThreadId,
    runs: Rc<Cell<u64>>,
    dropped: Arc<AtomicUsize>,
}

impl Vm {
    fn new(dropped: &Arc<AtomicUsize>) -> Self {
        Self { home: thread::current().id(), runs: Rc::default(), dropped: dropped.clone() }
    }

    fn run(&mut self) -> u64 {
        assert_eq!(self.home, thread::current().id());
        self.runs.set(self.runs.get() + 1);
        self.runs.get()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        assert_eq!(self.home, thread::current().id());
        self.dropped.fetch_add(1, SeqCst);
    }
}

type Vms = Registry<Bound<Vm>>;

fn registry(capacity: usize, counters: Counters) -> &'static Vms {
    Box::leak(Box::new(Vms::with_capacity(capacity).counters(counters)))
}

fn vms() -> (&'static Vms, Arc<AtomicUsize>) {
    (registry(4, platform::best_counters()), Arc::default())
}

fn modes() -> impl Iterator<Item = Counters> {
    let per_cpu = platform::missing_for_per_cpu().is_none().then_some(Counters::PerCpu);
    per_cpu.into_iter().chain([Counters::Shared])
}

fn readable(vm: &impl AsFd) -> bool {
    let mut events = [PollFd::new(vm.as_fd(), PollFlags::POLLIN)];
    poll(&mut events, PollTimeout::ZERO).unwrap() == 1
}

fn made(registry: &'static Vms, dropped: &Arc<AtomicUsize>) -> Loop<Vm> {
    Loop::new(registry, |_| Vm::new(dropped)).expect("made")
}

fn started(registry: &'static Vms, dropped: &Arc<AtomicUsize>) -> bound::Thread<Vm> {
    let dropped = dropped.clone();
    bound::start(registry, WorkerOptions::new(), move |_| Vm::new(&dropped)).expect("started")
}

/// Has the VM's thread wait inside a job until it is told to go on, and then do that. It is there when this returns.
fn occupied(
    registry: &'static Vms,
    id: InterpreterId,
    then: impl FnOnce(&mut Vm) + Send + 'static,
) -> mpsc::Sender<()> {
    let (began, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let job = move |vm: &mut Vm| {
        began.send(()).expect("somebody waits");
        may_go.recv().expect("somebody says so");
        then(vm);
    };
    registry.post(id, job).expect("there is room");
    has_begun.recv().expect("it runs");
    go
}

fn end<V>(registry: &'static Registry<Bound<V>>, id: InterpreterId) {
    drop(registry.finalize(id, LONG).expect("finalized"));
}

#[test]
fn an_end_under_fire_answers_everybody_and_drops_on_the_vms_own_thread() {
    for counters in modes() {
        let (registry, dropped) = (registry(2, counters), Arc::default());
        for round in 1..=100 {
            let thread = started(registry, &dropped);
            let id = thread.id();
            let (called, posted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            thread::scope(|scope| {
                for number in 0..4 {
                    let (called, posted) = (called.clone(), posted.clone());
                    scope.spawn(move || {
                        loop {
                            let ran = posted.clone();
                            let job = move |vm: &mut Vm| {
                                ran.fetch_add(1, SeqCst);
                                vm.run();
                            };
                            let why = match number % 2 {
                                0 => registry.post(id, job).err().map(|refused| refused.why),
                                _ => match registry.call(id, |vm| vm.run()) {
                                    Ok(_) => {
                                        called.fetch_add(1, SeqCst);
                                        None
                                    }
                                    Err(CallError::Refused(why)) => Some(why),
                                    Err(other) => panic!("{other}"),
                                },
                            };
                            match why {
                                None => {}
                                Some(Refused::Full) => thread::yield_now(),
                                Some(Refused::Lookup(_)) => break,
                                Some(other) => panic!("{other}"),
                            }
                        }
                    });
                }
                while called.load(SeqCst) < round % 20 {
                    thread::yield_now();
                }
                let bound = registry.finalize(id, LONG).expect("its thread runs what waits");
                // Nothing runs any more, and the VM is there until this is dropped.
                let ran = posted.load(SeqCst);
                assert_eq!(dropped.load(SeqCst), round - 1);
                assert_eq!(posted.load(SeqCst), ran);
                drop(bound);
            });
            thread.join().expect("no panic");
            assert_eq!(dropped.load(SeqCst), round);
        }
    }
}

#[test]
fn jobs_and_calls_run_in_the_order_in_which_they_were_sent() {
    let (registry, dropped) = vms();
    let thread = started(registry, &dropped);
    let id = thread.id();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for number in 0..100 {
        let seen = seen.clone();
        registry.post(id, move |_| seen.lock().unwrap().push(number)).expect("there is room");
    }
    assert_eq!(registry.call(id, |vm| vm.run()).expect("live"), 1);
    assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
    let push = |guard: &Guard<'_, Bound<Vm>>, data| {
        assert_eq!(guard.with(|vm| vm.run()), Ok(data as u64));
    };
    thread.queue().push(registry.lookup(id).unwrap(), push, 2).unwrap();
    assert_eq!(registry.call(id, |vm| vm.run()).expect("live"), 3);
    assert_eq!(thread.queue().ran().panics, 0);
    end(registry, id);
    thread.join().expect("no panic");
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_thread_is_as_it_was_asked_for_and_handlers_are_told_what_it_runs() {
    let registry: &'static Registry<Bound<Rc<()>>> = Box::leak(Box::new(Registry::new()));
    let options = WorkerOptions::new().name("a VM").stack_size(32 << 20);
    let thread = bound::start(registry, options, |_| Rc::new(())).expect("started");
    let id = thread.id();
    let seen = registry.call(id, move |_| {
        std::hint::black_box(&[1_u8; 16 << 20]);
        (thread::current().name().map(str::to_owned), thread_state::current_id())
    });
    assert_eq!(seen.expect("live"), (Some("a VM".into()), Some(id)));
    let wrong = bound::start(registry, WorkerOptions::new().name("\0"), |_| Rc::new(()));
    assert!(matches!(wrong, Err(StartError::Thread(why)) if why.kind() == std::io::ErrorKind::InvalidInput));
    assert_eq!(registry.len(), 1);
}

#[test]
fn a_turn_leaves_what_is_attached_as_it_was() {
    let (registry, dropped) = vms();
    let mut vm = made(registry, &dropped);
    let others: Registry<Locked<u32>> = Registry::new();
    let other = others.register(Locked::new(1)).expect("registered");
    let attached = thread_state::ensure_id(&others, other).expect("live");
    let own = vm.id();
    let job = move |_: &mut Vm| assert_eq!(thread_state::current_id(), Some(own));
    registry.post(own, job).expect("there is room");
    registry.post(own, |_| panic!("on purpose")).expect("there is room");
    assert!(vm.turn().is_continue());
    assert_eq!(vm.queue().ran().panics, 1);
    assert_eq!(thread_state::current_of(&others), Some(other));
    // On its own thread, where it is run at once, a job is one too.
    assert_eq!(registry.call(own, |_| thread_state::current_id()).expect("here"), Some(own));
    assert_eq!(thread_state::current_of(&others), Some(other));
    assert_eq!(attached.with(|vm| *vm), 1);
}

#[test]
fn what_waits_for_a_loop_that_ends_is_dropped_and_its_callers_are_told() {
    let (registry, dropped) = vms();
    let vm = made(registry, &dropped);
    let id = vm.id();
    let owned = Arc::new(());
    let theirs = owned.clone();
    registry.post(id, move |_| unreachable!("{theirs:?}")).expect("there is room");
    let callers: Vec<_> = (0..4).map(|_| thread::spawn(move || registry.call(id, |vm| vm.run()))).collect();
    while vm.queue().len() < 5 {
        thread::yield_now();
    }
    assert_eq!((Arc::strong_count(&owned), registry.outstanding(id)), (2, Some(5)));
    drop(vm);
    for caller in callers {
        assert!(matches!(caller.join().expect("no panic"), Err(CallError::Discarded)));
    }
    assert_eq!((Arc::strong_count(&owned), registry.outstanding(id)), (1, Some(0)));
    assert_eq!(dropped.load(SeqCst), 1);
    assert_eq!(registry.post(id, |_| ()).expect_err("ended").why, Refused::Ended);
    let refused = registry.call(id, |_| ()).expect_err("ended");
    assert!(matches!(refused, CallError::Refused(Refused::Ended)), "{refused}");
    assert_eq!(registry.lookup(id).expect("live").with(|_| ()), Err(Refused::Elsewhere));
    end(registry, id);
}

#[test]
fn a_job_that_nobody_can_run_comes_back() {
    let (registry, dropped) = vms();
    let mut vm = made(registry, &dropped);
    let id = vm.id();
    for _ in 0..vm.queue().capacity() {
        registry.post(id, |vm| _ = vm.run()).expect("there is room");
    }
    let refused = registry.post(id, |vm| _ = vm.run()).expect_err("there is none");
    assert_eq!(refused.why, Refused::Full);
    assert_eq!(registry.outstanding(id), Some(vm.queue().capacity() as u64));
    let elsewhere = thread::spawn(move || registry.call(id, |_| ())).join().expect("no panic");
    assert!(matches!(elsewhere, Err(CallError::Refused(Refused::Full))));
    assert!(vm.turn().is_continue());
    vm.with(|vm| (refused.job)(vm));
    assert_eq!(vm.with(|vm| vm.run()), vm.queue().capacity() as u64 + 2);
    end(registry, id);
    let gone = registry.post(id, |_| ()).expect_err("gone");
    assert_eq!(gone.why, Refused::Lookup(LookupError::NotFound));
}

#[test]
fn a_loop_may_end_its_own_interpreter() {
    let (registry, dropped) = vms();
    let mut vm = made(registry, &dropped);
    let id = vm.id();
    assert!(!readable(&vm) && vm.as_raw_fd() == vm.as_fd().as_raw_fd());
    let caller = thread::spawn(move || registry.call(id, |vm| vm.run()));
    while vm.queue().is_empty() {
        thread::yield_now();
    }
    assert!(readable(&vm));
    // With no turn taken: the drain runs it here.
    let bound = registry.finalize(id, LONG).expect("nothing keeps it");
    assert_eq!(caller.join().expect("no panic").expect("it was run"), 1);
    assert!(vm.turn().is_continue() && !readable(&vm));
    drop(bound);
    assert!(readable(&vm), "the descriptor says stop");
    assert!(vm.turn().is_break() && vm.turn().is_break());
    assert_eq!(vm.into_inner().run(), 2);
}

#[test]
fn an_end_from_inside_a_job_is_told_that_it_would_deadlock() {
    let (registry, dropped) = vms();
    let thread = started(registry, &dropped);
    let id = thread.id();
    let refused = registry.call(id, move |_| {
        let refused = registry.finalize(id, LONG).map(drop).expect_err("it is inside");
        matches!(refused, FinalizeError::WouldDeadlock(_))
    });
    assert!(refused.expect("live"));
    // And a thread that would wait for itself does not.
    let inside = registry.call(id, move |_| registry.call(id, |_| ()).map_err(|why| why.to_string()));
    assert!(inside.expect("live").expect_err("it is lent").contains("already"));
    let whole = registry.call(id, move |vm| {
        let guard = registry.lookup(id).expect("live");
        (guard.with(|_| ()), vm.run())
    });
    assert_eq!(whole.expect("live"), (Err(Refused::Lent), 1));
    end(registry, id);
}

#[test]
fn a_drain_waits_for_jobs_and_names_their_queue() {
    let (registry, dropped) = vms();
    let thread = started(registry, &dropped);
    let id = thread.id();
    let go = occupied(registry, id, |vm| _ = vm.run());
    let guard = registry.lookup(id).expect("live");
    guard.post(|vm| _ = vm.run()).expect("there is room");
    let refused = registry.finalize(id, NOW).map(drop).expect_err("two jobs and a guard are out");
    let FinalizeError::Drain(DrainError::Timeout(late)) = refused else { panic!("{refused}") };
    assert_eq!(late.outstanding(), 3);
    let report = late.to_string();
    assert!(report.contains("a bound interpreter's") && !report.contains("nobody serves"), "{report}");
    // Closing: whoever has a guard goes on.
    assert_eq!(registry.post(id, |_| ()).expect_err("closing").why, Refused::Lookup(LookupError::Finalizing));
    go.send(()).expect("it waits");
    assert_eq!(guard.call(|vm| vm.run()).expect("guarded"), 3);
    drop(guard);
    drop(late.into_closing().drain(LONG).expect("all have run"));
    thread.join().expect("no panic");
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_panic_is_the_callers() {
    let (registry, dropped) = vms();
    let thread = started(registry, &dropped);
    let id = thread.id();
    let panicked = registry.call(id, |_| -> () { panic!("on purpose") }).expect_err("it panicked");
    let CallError::Panicked(with) = panicked else { panic!("{panicked}") };
    assert_eq!(with.downcast_ref(), Some(&"on purpose"));
    registry.post(id, |_| panic!("on purpose")).expect("there is room");
    assert_eq!(registry.call(id, |vm| vm.run()).expect("it goes on"), 1);
    assert_eq!(thread.queue().ran().panics, 1);
    end(registry, id);
    // On its own thread too.
    let vm = made(registry, &dropped);
    let panicked = registry.call(vm.id(), |_| -> () { panic!("on purpose") });
    assert!(matches!(panicked, Err(CallError::Panicked(_))));
    assert_eq!(registry.call(vm.id(), |vm| vm.run()).expect("it goes on"), 1);
}

#[test]
fn a_vm_that_is_not_made_leaves_nothing_behind() {
    let registry = registry(1, platform::best_counters());
    for _ in 0..10 {
        let panicked = bound::start(registry, WorkerOptions::new(), |_| panic!("on purpose"));
        assert!(matches!(panicked, Err(StartError::Panicked(_))));
        let panicked = catch_unwind(|| Loop::new(registry, |_| panic!("on purpose")).map(drop));
        assert!(panicked.is_err() && registry.is_empty());
    }
    let dropped = Arc::default();
    let vm = made(registry, &dropped);
    let full = Loop::new(registry, |_| unreachable!()).expect_err("there is no place");
    assert!(matches!(full, StartError::Register(RegisterError::RegistryFull(()))), "{full:?}");
    let full = bound::start(registry, WorkerOptions::new(), |_| unreachable!()).expect_err("nor here");
    assert!(matches!(full, StartError::Register(RegisterError::RegistryFull(()))), "{full}");
    end(registry, vm.id());
}

#[test]
fn whoever_meddles_with_the_queue_loses_jobs_and_no_more() {
    let (registry, dropped) = vms();
    let thread = started(registry, &dropped);
    let (id, queue) = (thread.id(), thread.queue().clone());
    let go = occupied(registry, id, |_| ());
    let call = move || thread::spawn(move || registry.call(id, |vm| vm.run()));
    // Run on a thread that is not its own.
    let caller = call();
    while queue.run_pending().calls == 0 {
        thread::yield_now();
    }
    assert!(matches!(caller.join().expect("no panic"), Err(CallError::Discarded)));
    // Thrown away.
    let caller = call();
    while queue.is_empty() {
        thread::yield_now();
    }
    queue.discard();
    go.send(()).expect("it waits");
    assert!(matches!(caller.join().expect("no panic"), Err(CallError::Discarded)));
    assert_eq!(registry.call(id, |vm| vm.run()).expect("it goes on"), 1);
    end(registry, id);
    thread.join().expect("no panic");
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn two_vms_on_one_thread_are_told_apart() {
    let (registry, dropped) = vms();
    let [mut one, mut two] = [made(registry, &dropped), made(registry, &dropped)];
    one.with(|vm| _ = vm.run());
    let (a, b) = (one.id(), two.id());
    let sum = registry.call(a, move |vm| vm.run() + registry.call(b, |vm| vm.run()).expect("not lent"));
    assert_eq!(sum.expect("here"), 3);
    let caller = thread::spawn(move || registry.call(b, |vm| vm.run()));
    while !readable(&two) {
        thread::yield_now();
    }
    assert!(!readable(&one) && one.turn().is_continue() && two.turn().is_continue());
    assert_eq!(caller.join().expect("no panic").expect("it was run"), 2);
    end(registry, a);
    assert!(one.turn().is_break() && two.turn().is_continue());
    drop(one);
    assert_eq!(two.with(|vm| vm.run()), 3);
    end(registry, b);
}

#[test]
fn a_loop_may_go_from_inside_its_own_vm() {
    let (registry, dropped) = vms();
    let vm = made(registry, &dropped);
    let guard = registry.lookup(vm.id()).expect("live");
    guard
        .with(|inside| {
            let panicked = catch_unwind(AssertUnwindSafe(|| drop(vm.into_inner()))).is_err();
            assert!(panicked && dropped.load(SeqCst) == 0, "it is lent");
            assert_eq!(inside.run(), 1);
        })
        .expect("here");
    assert_eq!(dropped.load(SeqCst), 1);
    assert_eq!(guard.with(|_| ()), Err(Refused::Elsewhere));
    // A thread's handle may be where it waits for nobody.
    let thread = started(registry, &dropped);
    let id = thread.id();
    assert!(registry.call(id, move |_| thread.join().is_ok()).expect("live"));
    end(registry, id);
}

#[test]
fn a_call_that_comes_after_the_loop_has_ended_keeps_nobody_waiting() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let (registry, dropped) = vms();
    let vm = made(registry, &dropped);
    let (id, queue) = (vm.id(), vm.queue().clone());
    drop(vm);
    let call = |guard: &Guard<'_, Bound<Vm>>, _| {
        assert_eq!(guard.with(|_| ()), Err(Refused::Elsewhere));
        TOLD.fetch_add(1, SeqCst);
    };
    queue.push(registry.lookup(id).expect("live"), call, 0).expect("there is room");
    // This thread, which ran the queue's calls last, goes on, and does not come back to it.
    let ended = thread::spawn(move || registry.finalize(id, LONG).map(drop).map_err(|late| late.to_string()));
    assert_eq!(ended.join().expect("no panic"), Ok(()));
    assert_eq!((TOLD.load(SeqCst), queue.ran().panics), (1, 0));
}

/// Throws when it is dropped.
struct Throws;

impl Drop for Throws {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

fn post_throwing(registry: &'static Vms, id: InterpreterId) {
    for throws in [Throws, Throws] {
        registry.post(id, move |_| unreachable!("{:p}", &throws)).expect("there is room");
    }
}

#[test]
fn what_a_job_throws_that_is_dropped_goes_no_further() {
    let (registry, dropped) = vms();
    let thread = started(registry, &dropped);
    let id = thread.id();
    let go = occupied(registry, id, |_| ());
    post_throwing(registry, id);
    thread.queue().discard();
    go.send(()).expect("it waits");
    // The first is of the turn at whose end the two are dropped, or comes after it.
    for run in 1..=2 {
        assert_eq!(registry.call(id, |vm| vm.run()).expect("the loop goes on"), run);
    }
    end(registry, id);
    thread.join().expect("no panic");
    // At the end of a loop neither, and all of them are dropped.
    let vm = made(registry, &dropped);
    let id = vm.id();
    post_throwing(registry, id);
    assert_eq!(vm.into_inner().run(), 1);
    end(registry, id);
}

#[test]
fn handlers_are_told_what_a_job_leaves_attached_and_nothing_when_it_is_gone() {
    static OTHERS: Registry<Locked<u32>> = Registry::with_capacity(2);
    type Keeps = Option<thread_state::Attached<'static, Locked<u32>>>;
    static VMS: Registry<Bound<Keeps>> = Registry::with_capacity(2);
    let other = OTHERS.register(Locked::new(1)).expect("registered");
    let mut vm = Loop::new(&VMS, |_| None).expect("made");
    let id = vm.id();
    let attach = move |vm: &mut Keeps| *vm = Some(thread_state::ensure_id(&OTHERS, other).expect("live"));
    let detach = move |vm: &mut Keeps| {
        drop(vm.take());
        assert_eq!(thread_state::current_of(&OTHERS), None);
    };
    let mut turn = |job: Box<dyn FnOnce(&mut Keeps) + Send>| {
        VMS.post(id, job).expect("there is room");
        assert!(vm.turn().is_continue());
        (thread_state::current_id(), thread_state::current_of(&OTHERS))
    };
    assert_eq!(turn(Box::new(attach)), (Some(other), Some(other)), "it stayed attached");
    assert_eq!(turn(Box::new(|_| ())), (Some(other), Some(other)));
    assert_eq!(turn(Box::new(detach)), (None, None), "what was attached before is not any more");
    assert_eq!(turn(Box::new(attach)), (Some(other), Some(other)));
    // Released when the job is long over, and its interpreter too.
    end(&VMS, id);
    drop(vm);
    assert_eq!(thread_state::current_id(), None);
    // A level around the turn, and one inside of it that outlives it.
    let mut vm = Loop::new(&VMS, |_| None).expect("made");
    let id = vm.id();
    let around = thread_state::ensure_id(&OTHERS, other).expect("live");
    VMS.post(id, attach).expect("there is room");
    assert!(vm.turn().is_continue());
    assert_eq!(thread_state::current_of(&OTHERS), Some(other));
    vm.with(|vm| drop(vm.take()));
    assert_eq!(thread_state::current_of(&OTHERS), Some(other));
    drop(around);
    assert_eq!(thread_state::current_id(), None);
    // One that was made before the job, and is released in it.
    vm.with(attach);
    VMS.post(id, detach).expect("there is room");
    assert!(vm.turn().is_continue());
    assert_eq!((vm.queue().ran().panics, thread_state::current_id()), (0, None));
    end(&VMS, id);
}

#[test]
fn a_destructor_of_a_thread_local_may_come_late() {
    static VMS: Registry<Bound<u32>> = Registry::with_capacity(2);
    static RAN: AtomicUsize = AtomicUsize::new(0);
    struct Late(RefCell<Option<Loop<u32>>>);
    impl Drop for Late {
        fn drop(&mut self) {
            let mut vm = self.0.borrow_mut().take().expect("made");
            for ran in 1..=2 {
                let id = vm.id();
                VMS.post(id, |vm| _ = RAN.fetch_add(*vm as usize, SeqCst)).expect("there is room");
                assert!(vm.turn().is_continue());
                assert_eq!(RAN.load(SeqCst), ran);
                assert_eq!(VMS.call(id, |vm| *vm).expect("here"), 1);
                end(&VMS, id);
                assert!(vm.turn().is_break());
                vm = Loop::new(&VMS, |_| 1).expect("made");
            }
            end(&VMS, vm.id());
            RAN.fetch_add(10, SeqCst);
        }
    }
    thread_local! {
        // Made before anything of the library's is, and so dropped after it.
        static LATE: Late = const { Late(RefCell::new(None)) };
    }
    let thread = thread::spawn(|| {
        LATE.with(|late| *late.0.borrow_mut() = Some(Loop::new(&VMS, |_| 1).expect("made")));
    });
    thread.join().expect("no panic");
    assert_eq!((RAN.load(SeqCst), VMS.len()), (12, 0));
}
