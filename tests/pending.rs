//! Pending calls in normal context: each run exactly once or handed back, in order; what a drain makes of them.

mod again;
mod refuse;

use again::{again, in_child};
use interp_guard::bindings::RegistryExt as _;
use interp_guard::bound::{Bound, CallError, Loop, Refused};
use interp_guard::pending::{
    PendingCall, PendingQueue, PushError, QueueError, QueueOptions, Ran, WorkerOptions,
};
use interp_guard::{
    DrainError, FinalizeError, Guard, InterpreterId, LookupError, Registry, Report, Undrained,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use refuse::refuse;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// A failure deadline: nothing here waits for it.
const LONG: Option<Duration> = Some(Duration::from_secs(60));

/// An interpreter that remembers what was called on it.
#[derive(Debug, Default)]
struct Interpreter {
    calls: Mutex<Vec<usize>>,
    gate: Mutex<()>,
    within: Mutex<Option<mpsc::Sender<()>>>,
}

type Reg = Registry<Interpreter>;

fn leaked() -> &'static Reg {
    Box::leak(Box::new(Registry::new()))
}

fn registered(registry: &Reg) -> InterpreterId {
    registry.register(Interpreter::default()).unwrap()
}

fn note(guard: &Guard<'_, Interpreter>, data: usize) {
    guard.calls.lock().unwrap().push(data);
}

fn readable(queue: &impl AsFd) -> bool {
    let mut events = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
    poll(&mut events, PollTimeout::ZERO).unwrap() == 1
}

fn ran(calls: u64, panics: u64) -> Ran {
    let mut ran = Ran::default();
    (ran.calls, ran.panics) = (calls, panics);
    ran
}

fn timeout<T: Send + Sync>(error: FinalizeError<'_, T>) -> Undrained<'_, T> {
    match error {
        FinalizeError::Drain(DrainError::Timeout(timeout)) => timeout,
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_run_once_in_the_order_of_their_pushes_and_give_their_guards_up() {
    let registry = Reg::new();
    let [a, b] = [registered(&registry), registered(&registry)];
    let queue = PendingQueue::new(&registry).unwrap();
    for data in 0..10 {
        queue.push(registry.lookup([a, b][data % 2]).unwrap(), note, data).unwrap();
    }
    assert_eq!((queue.len(), registry.outstanding(a)), (10, Some(5)));
    assert_eq!(queue.run_pending(), ran(10, 0));
    assert_eq!((queue.len(), registry.outstanding(a)), (0, Some(0)));
    assert_eq!(queue.run_pending(), ran(0, 0));
    assert_eq!(*registry.lookup(a).unwrap().calls.lock().unwrap(), [0, 2, 4, 6, 8]);
    assert_eq!(*registry.lookup(b).unwrap().calls.lock().unwrap(), [1, 3, 5, 7, 9]);
    assert_eq!(queue.ran(), ran(10, 0));
}

#[test]
fn a_full_queue_hands_the_guard_back_and_takes_more_once_it_was_run() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::with(&registry, QueueOptions::new().capacity(3)).unwrap();
    for lap in 0..5 {
        for data in 0..3 {
            queue.push(registry.lookup(id).unwrap(), note, lap * 3 + data).unwrap();
        }
        let refused = queue.push(registry.lookup(id).unwrap(), note, 99).unwrap_err();
        assert!(matches!(refused, PushError::Full(_)));
        assert_eq!(registry.outstanding(id), Some(4), "the queue's three and the one handed back");
        drop(refused.into_guard());
        assert_eq!(queue.run_pending(), ran(3, 0));
    }
    assert_eq!(*registry.lookup(id).unwrap().calls.lock().unwrap(), (0..15).collect::<Vec<_>>());
}

#[test]
fn the_descriptor_is_readable_exactly_while_calls_wait() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::new(&registry).unwrap();
    assert!(!readable(&queue));
    for _ in 0..3 {
        queue.push(registry.lookup(id).unwrap(), note, 0).unwrap();
        assert!(readable(&queue), "a push makes it readable");
    }
    queue.run_pending();
    assert!(!readable(&queue), "a run resets it");
    drop(registry.close(id).unwrap());
    assert!(readable(&queue), "a close wakes whoever serves it");
}

#[test]
fn a_guard_of_another_registry_is_refused() {
    let (registry, other) = (Reg::new(), Reg::new());
    let id = registered(&other);
    let queue = PendingQueue::new(&registry).unwrap();
    let refused = queue.push(other.lookup(id).unwrap(), note, 0).unwrap_err();
    assert!(matches!(&refused, PushError::OtherRegistry(guard) if guard.id() == id));
    drop(refused);
    assert_eq!(other.outstanding(id), Some(0));
}

#[test]
fn capacities_out_of_range_are_refused() {
    let registry = Reg::new();
    for capacity in [0, (1 << 20) + 1, usize::MAX] {
        let refused = PendingQueue::with(&registry, QueueOptions::new().capacity(capacity)).unwrap_err();
        assert!(matches!(refused, QueueError::Capacity(asked) if asked == capacity));
    }
}

#[test]
fn a_dropped_queue_gives_its_guards_up_and_runs_nothing() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::new(&registry).unwrap();
    queue.push(registry.lookup(id).unwrap(), |_, _| unreachable!(), 0).unwrap();
    drop(queue.clone());
    assert_eq!(registry.outstanding(id), Some(1), "a clone is the same queue");
    drop(queue);
    assert_eq!(registry.outstanding(id), Some(0));
    registry.finalize(id, LONG).unwrap();
}

/// What a panic carries, and its drop.
struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        panic!("once more");
    }
}

#[test]
fn a_panic_is_contained_and_counted() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    queue.push(registry.lookup(id).unwrap(), |_, _| panic!("asked to"), 0).unwrap();
    queue.push(registry.lookup(id).unwrap(), note, 1).unwrap();
    assert_eq!(queue.run_pending(), ran(2, 1));
    // On a worker just so.
    let worker = queue.start_worker().unwrap();
    queue.push(registry.lookup(id).unwrap(), |_, _| std::panic::panic_any(PanicsAgain), 0).unwrap();
    queue.push(registry.lookup(id).unwrap(), note, 2).unwrap();
    let interpreter = registry.finalize(id, LONG).unwrap();
    assert_eq!(interpreter.calls.into_inner().unwrap(), [1, 2]);
    assert_eq!(worker.stop(), ran(2, 1));
    assert_eq!(queue.ran(), ran(4, 2));
}

#[test]
fn a_runner_is_around_every_call_and_may_refuse_it() {
    let registry = Reg::new();
    let id = registered(&registry);
    let attached = |call: PendingCall<'_, Interpreter>| {
        call.guard().calls.lock().unwrap().push(100 + call.data());
        if call.data() != 1 {
            call.run();
        }
    };
    let queue = PendingQueue::with(&registry, QueueOptions::new().runner(attached)).unwrap();
    for data in 0..3 {
        queue.push(registry.lookup(id).unwrap(), note, data).unwrap();
    }
    queue.run_pending();
    assert_eq!(registry.finalize(id, LONG).unwrap().calls.into_inner().unwrap(), [100, 0, 101, 102, 2]);
}

#[test]
fn a_push_wakes_the_worker() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let worker = queue.start_worker().unwrap();
    let patience = Duration::from_secs(60);
    for data in 0..1_000 {
        let (tell, told) = mpsc::channel();
        *registry.lookup(id).unwrap().within.lock().unwrap() = Some(tell);
        // The call drops the sender, which wakes this thread.
        let call = |guard: &Guard<'_, Interpreter>, data| {
            note(guard, data);
            guard.within.lock().unwrap().take();
        };
        queue.push(registry.lookup(id).unwrap(), call, data).unwrap();
        let heard = told.recv_timeout(patience);
        assert_eq!(heard, Err(mpsc::RecvTimeoutError::Disconnected), "call {data} was never run");
    }
    assert_eq!(worker.stop(), ran(1_000, 0));
}

#[test]
fn a_stopped_worker_has_run_what_was_queued() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    for round in 0..200 {
        let worker = queue.start_worker().unwrap();
        for data in 0..5 {
            queue.push(registry.lookup(id).unwrap(), note, round * 5 + data).unwrap();
        }
        assert_eq!(worker.stop(), ran(5, 0));
    }
    let calls = registry.finalize(id, LONG).unwrap().calls.into_inner().unwrap();
    assert_eq!(calls, (0..1_000).collect::<Vec<_>>());
}

/// Which signals are blocked on the calling thread, as the kernel writes it.
fn blocked() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("SigBlk:")).unwrap().to_owned()
}

#[test]
fn a_workers_thread_is_as_it_was_asked_for() {
    static HEARD: AtomicU64 = AtomicU64::new(0);
    extern "C" fn hear(_: libc::c_int) {
        HEARD.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the handler adds to an atomic.
    unsafe { libc::signal(libc::SIGPROF, hear as *const () as libc::sighandler_t) };
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let (mine, look) = (blocked(), |guard: &Guard<'_, Interpreter>, expected| {
        // SAFETY: no requirements.
        assert_eq!(unsafe { libc::raise(libc::SIGPROF) }, 0);
        // One that is let in has been delivered when this is reached.
        assert_eq!(HEARD.swap(0, Ordering::SeqCst), expected as u64);
        guard.calls.lock().unwrap().push(match thread::current().name() {
            Some("interp-guard pending") => 1,
            Some("scripts") => 2,
            _ => 3,
        });
    });
    let worker = queue.start_worker().unwrap();
    queue.push(registry.lookup(id).unwrap(), look, 0).unwrap();
    assert_eq!(worker.stop(), ran(1, 0));
    let options = WorkerOptions::new().name("scripts").stack_size(64 << 20).unblocked(&[libc::SIGPROF]);
    let worker = queue.start_worker_with(options).unwrap();
    queue.push(registry.lookup(id).unwrap(), look, 1).unwrap();
    let deep = |_: &Guard<'_, Interpreter>, _| _ = std::hint::black_box(&[1_u8; 16 << 20]);
    queue.push(registry.lookup(id).unwrap(), deep, 0).unwrap();
    let all_but_one = |_: &Guard<'_, Interpreter>, _| {
        let one = 1_u64 << (libc::SIGPROF - 1);
        let set = u64::from_str_radix(blocked().trim_start_matches("SigBlk:").trim(), 16).unwrap();
        let (kill, stop) = (1 << (libc::SIGKILL - 1), 1 << (libc::SIGSTOP - 1)); // nobody blocks these
        let c_library = 1 << 31 | 1 << 32; // its own two
        assert_eq!(set | one | kill | stop | c_library, u64::MAX);
        assert_eq!(set & one, 0);
    };
    queue.push(registry.lookup(id).unwrap(), all_but_one, 0).unwrap();
    assert_eq!(worker.stop(), ran(3, 0));
    assert_eq!(blocked(), mine, "this thread's mask is as it was");
    let calls = registry.finalize(id, LONG).unwrap().calls.into_inner().unwrap();
    assert_eq!(calls, [1, 2]);
}

#[test]
fn what_no_thread_can_have_is_refused_and_changes_nothing() {
    let registry = leaked();
    let queue = PendingQueue::new(registry).unwrap();
    let mine = blocked();
    for wrong in [
        WorkerOptions::new().name("one\0two"),
        WorkerOptions::new().stack_size(usize::MAX),
        WorkerOptions::new().unblocked(&[libc::SIGPROF, 0]),
        WorkerOptions::new().unblocked(&[-1]),
        WorkerOptions::new().unblocked(&[65]),
    ] {
        let refused = queue.start_worker_with(wrong).expect_err("impossible");
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "{refused}");
        assert_eq!(blocked(), mine);
    }
    for odd in [0, 1, 4097, 1 << 47] {
        // More than asked for, or an error of the system's.
        drop(queue.start_worker_with(WorkerOptions::new().stack_size(odd)));
        assert_eq!(blocked(), mine);
    }
    let worker = queue.start_worker_with(WorkerOptions::new().name("")).expect("no name is one");
    assert_eq!(worker.stop(), ran(0, 0));
}

#[test]
fn a_worker_can_be_stopped_by_its_own_call() {
    static WORKER: Mutex<Option<interp_guard::pending::Worker>> = Mutex::new(None);
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    *WORKER.lock().unwrap() = Some(queue.start_worker().unwrap());
    queue.push(registry.lookup(id).unwrap(), |_, _| drop(WORKER.lock().unwrap().take()), 0).unwrap();
    registry.finalize(id, LONG).unwrap();
}

/// Pushes from many threads, runs by many threads, a small queue: each run exactly once, or handed back.
#[test]
fn each_call_is_run_exactly_once_or_handed_back() {
    const PUSHERS: usize = 4;
    const EACH: usize = 20_000;
    static TIMES: [AtomicU64; PUSHERS * EACH] = [const { AtomicU64::new(0) }; PUSHERS * EACH];
    fn once(_: &Guard<'_, Interpreter>, data: usize) {
        TIMES[data].fetch_add(1, Ordering::Relaxed);
    }
    let registry = &Reg::new();
    let id = registered(registry);
    let queue = &PendingQueue::with(registry, QueueOptions::new().capacity(16)).unwrap();
    let (done, full) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let (back, total) = thread::scope(|scope| {
        let push = |pusher: usize| {
            move || {
                let mine = pusher * EACH..(pusher + 1) * EACH;
                mine.filter(|&data| match queue.push(registry.lookup(id).unwrap(), once, data) {
                    Ok(()) => false,
                    Err(refused) => {
                        assert!(matches!(refused, PushError::Full(_)));
                        full.store(true, Ordering::Relaxed);
                        true
                    }
                })
                .collect::<Vec<_>>()
            }
        };
        let pushers: Vec<_> = (0..PUSHERS).map(|pusher| scope.spawn(push(pusher))).collect();
        let runners = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut total = 0;
                // Some are handed back for certain, and some run while others push.
                while !full.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                while !done.load(Ordering::Acquire) {
                    total += queue.run_pending().calls;
                }
                total + queue.run_pending().calls
            })
        });
        let back: Vec<_> = pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect();
        done.store(true, Ordering::Release);
        (back, runners.map(|runner| runner.join().unwrap()).iter().sum::<u64>())
    });
    for data in back.iter() {
        assert_eq!(TIMES[*data].fetch_add(1, Ordering::Relaxed), 0, "handed back and run");
    }
    assert!(TIMES.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    assert_eq!(total as usize + back.len(), PUSHERS * EACH);
    assert_eq!(registry.outstanding(id), Some(0));
}

// --- item 14: a queue does not block its own drain -------------------------------------------------------------------

#[test]
fn a_served_queue_does_not_keep_its_interpreter_from_finalizing() {
    let registry = leaked();
    for _ in 0..200 {
        let id = registered(registry);
        let queue = PendingQueue::new(registry).unwrap();
        for data in 0..3 {
            queue.push(registry.lookup(id).unwrap(), note, data).unwrap();
        }
        let _worker = queue.start_worker().unwrap();
        assert_eq!(registry.finalize(id, LONG).unwrap().calls.into_inner().unwrap(), [0, 1, 2]);
    }
}

#[test]
fn a_queue_that_nobody_serves_is_named_by_the_drains_report() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::with(&registry, QueueOptions::new().name("SIGUSR1")).unwrap();
    let idle = PendingQueue::with(&registry, QueueOptions::new().name("idle")).unwrap();
    let other = registered(&registry);
    queue.push(registry.lookup(id).unwrap(), note, 0).unwrap();
    queue.push(registry.lookup(id).unwrap(), note, 1).unwrap();
    idle.push(registry.lookup(other).unwrap(), note, 2).unwrap();
    let late = timeout(registry.finalize(id, Some(Duration::from_millis(10))).unwrap_err());
    let [waiting] = late.pending() else { panic!("{:?}", late.pending()) };
    assert_eq!((waiting.queue.as_str(), waiting.calls, waiting.served), ("SIGUSR1", 2, false));
    let report = late.to_string();
    println!("{report}");
    assert!(report.contains("\"SIGUSR1\", which nobody serves"), "{report}");
    queue.run_pending();
    assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [0, 1]);
}

/// The drain's own interrupt check is a place from which a user's thread can serve its queue.
#[test]
fn an_interrupt_check_may_run_the_queue() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::new(&registry).unwrap();
    queue.push(registry.lookup(id).unwrap(), note, 0).unwrap();
    let serve = || {
        queue.run_pending();
        std::ops::ControlFlow::Continue(())
    };
    let options = interp_guard::DrainOptions::new().timeout(LONG).interrupt(serve);
    assert_eq!(registry.finalize_with(id, options).unwrap().calls.into_inner().unwrap(), [0]);
}

static REGISTRY: Reg = Registry::new();

#[test]
fn finalize_inside_a_pending_call_of_that_interpreter_would_deadlock_and_leaves_it_live() {
    fn call(guard: &Guard<'_, Interpreter>, _: usize) {
        let id = guard.id();
        let refused = REGISTRY.finalize(id, None).unwrap_err();
        let FinalizeError::WouldDeadlock(report) = refused else { panic!("{refused:?}") };
        assert_eq!(report.outstanding(), 1);
        assert!(!guard.is_closing());
        drop(report);
        assert!(REGISTRY.lookup(id).is_ok(), "it is as it was");
        // On another thread it can be closed, and then waited for.
        let outcome =
            thread::spawn(move || timeout(REGISTRY.finalize(id, Some(Duration::ZERO)).unwrap_err()));
        let late = outcome.join().unwrap();
        assert!(guard.is_closing());
        // A drain, here, is told so too, and keeps its Closing.
        let again = late.into_closing().drain(None).unwrap_err();
        assert!(matches!(again, DrainError::WouldDeadlock(_)), "{again:?}");
        assert!(matches!(REGISTRY.finalize(id, None), Err(FinalizeError::AlreadyClosing)));
        drop(again);
        assert!(matches!(REGISTRY.finalize(id, None), Err(FinalizeError::WouldDeadlock(_))));
        guard.calls.lock().unwrap().push(1);
    }
    let id = registered(&REGISTRY);
    let queue = PendingQueue::new(&REGISTRY).unwrap();
    queue.push(REGISTRY.lookup(id).unwrap(), call, 0).unwrap();
    assert_eq!(queue.run_pending(), ran(1, 0));
    assert_eq!(REGISTRY.finalize(id, LONG).unwrap().calls.into_inner().unwrap(), [1]);
}

#[test]
fn a_finalize_that_would_deadlock_owns_nothing_and_closes_nothing() {
    static KEPT: Mutex<Vec<Report>> = Mutex::new(Vec::new());
    fn call(guard: &Guard<'_, Interpreter>, _: usize) {
        let refused = REGISTRY.finalize(guard.id(), None).unwrap_err();
        let FinalizeError::WouldDeadlock(report) = refused else { panic!("{refused:?}") };
        KEPT.lock().unwrap().push(report);
    }
    let id = registered(&REGISTRY);
    let queue = PendingQueue::new(&REGISTRY).unwrap();
    for _ in 0..2 {
        queue.push(REGISTRY.lookup(id).unwrap(), call, 0).unwrap();
    }
    assert_eq!(queue.run_pending(), ran(2, 0));
    let guard = REGISTRY.lookup(id).expect("it is as it was");
    let kept = KEPT.lock().unwrap();
    assert_eq!(kept.iter().map(|report| report.outstanding()).collect::<Vec<_>>(), [2, 1]);
    // Neither is in the way of whoever closes it now, nor of who tries again.
    let [first, second] = [(); 2].map(|()| timeout(REGISTRY.finalize(id, Some(Duration::ZERO)).unwrap_err()));
    assert_eq!(REGISTRY.lookup(id).unwrap_err(), LookupError::Finalizing);
    // The second took up what the first had. What that gives owns nothing, and says so instead of waiting.
    assert!(matches!(first.into_closing().drain(None), Err(DrainError::Superseded(_))));
    drop(guard);
    second.into_closing().drain(LONG).unwrap();
}

/// The worker that would run B's calls is the thread that waits for them.
#[test]
fn a_drain_inside_a_call_runs_what_only_its_own_thread_could_run() {
    fn finalize(_: &Guard<'_, Interpreter>, data: usize) {
        let id = InterpreterId::try_from(data as i64).unwrap();
        let finalized = REGISTRY.finalize(id, LONG).unwrap();
        assert_eq!(finalized.calls.into_inner().unwrap(), [1, 2]);
    }
    let [a, b] = [registered(&REGISTRY), registered(&REGISTRY)];
    let queue = PendingQueue::new(&REGISTRY).unwrap();
    let data = i64::from(b) as usize;
    queue.push(REGISTRY.lookup(a).unwrap(), finalize, data).unwrap();
    for data in [1, 2] {
        queue.push(REGISTRY.lookup(b).unwrap(), note, data).unwrap();
    }
    queue.push(REGISTRY.lookup(a).unwrap(), note, 3).unwrap();
    assert_eq!(queue.run_pending(), ran(2, 0), "the nested ones are counted by the queue");
    assert_eq!(queue.ran(), ran(4, 0));
    assert_eq!(REGISTRY.finalize(a, LONG).unwrap().calls.into_inner().unwrap(), [3]);
}

/// As above, and B's call is pushed only while the drain waits already, through a guard taken before.
#[test]
fn a_drain_inside_a_call_sees_a_push_that_comes_while_it_waits() {
    static GATE: Mutex<Option<mpsc::Sender<()>>> = Mutex::new(None);
    fn finalize(_: &Guard<'_, Interpreter>, data: usize) {
        GATE.lock().unwrap().take(); // lets the pusher go
        let id = InterpreterId::try_from(data as i64).unwrap();
        assert_eq!(REGISTRY.finalize(id, LONG).unwrap().calls.into_inner().unwrap(), [7]);
    }
    for _ in 0..200 {
        let [a, b] = [registered(&REGISTRY), registered(&REGISTRY)];
        let queue = PendingQueue::new(&REGISTRY).unwrap();
        let (gate, opened) = mpsc::channel::<()>();
        *GATE.lock().unwrap() = Some(gate);
        let (late, pushed) = (REGISTRY.lookup(b).unwrap(), queue.clone());
        let pusher = thread::spawn(move || {
            opened.recv().unwrap_err();
            while !late.is_closing() {
                thread::yield_now();
            }
            pushed.push(late, note, 7).unwrap();
        });
        queue.push(REGISTRY.lookup(a).unwrap(), finalize, i64::from(b) as usize).unwrap();
        assert_eq!(queue.run_pending(), ran(1, 0));
        pusher.join().unwrap();
        REGISTRY.finalize(a, LONG).unwrap();
    }
}

/// A slow call keeps the interpreter, and nothing else does: the drain waits for it and then ends.
#[test]
fn a_call_in_progress_is_waited_for() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let _worker = queue.start_worker().unwrap();
    let held = registry.lookup(id).unwrap();
    let gate = held.gate.lock().unwrap();
    let (tell, told) = mpsc::channel();
    *held.within.lock().unwrap() = Some(tell);
    let call = |guard: &Guard<'_, Interpreter>, data| {
        guard.within.lock().unwrap().take();
        drop(guard.gate.lock().unwrap());
        note(guard, data);
    };
    queue.push(registry.lookup(id).unwrap(), call, 5).unwrap();
    told.recv().unwrap_err(); // it is in progress
    let late = timeout(registry.finalize(id, Some(Duration::from_millis(10))).unwrap_err());
    assert_eq!((late.pending(), late.outstanding()), (&[][..], 2));
    drop(gate);
    drop(held);
    assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [5]);
}

#[test]
fn finalize_all_inside_a_call_finalizes_the_others_and_says_which_one_would_deadlock() {
    let registry: &'static Reg = Box::leak(Box::new(Registry::new()));
    static REG: std::sync::OnceLock<&'static Reg> = std::sync::OnceLock::new();
    REG.set(registry).ok().unwrap();
    fn call(guard: &Guard<'_, Interpreter>, _: usize) {
        for (id, outcome) in REG.get().unwrap().finalize_all(None) {
            let here = matches!(outcome, Err(FinalizeError::Drain(DrainError::WouldDeadlock(_))));
            assert_eq!((here, outcome.is_ok()), (id == guard.id(), id != guard.id()));
        }
    }
    let ids = [(); 3].map(|()| registered(registry));
    let queue = PendingQueue::new(registry).unwrap();
    queue.push(registry.lookup(ids[1]).unwrap(), call, 0).unwrap();
    assert_eq!(queue.run_pending(), ran(1, 0));
    assert_eq!(registry.ids(), [ids[1]]);
    assert!(registry.finalize(ids[1], LONG).is_ok());
}

// --- a system that refuses -------------------------------------------------------------------------------------------

/// Waits for what another thread is about to bring about.
fn until(so: impl Fn() -> bool) {
    while !so() {
        thread::yield_now();
    }
}

/// What this thread's process has used of the processors.
fn processor_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn a_worker_waits_and_stops_whatever_the_limit_of_descriptors() {
    // In a process of its own, whose alarm ends it where the worker cannot be stopped.
    if !in_child() {
        return again("a_worker_waits_and_stops_whatever_the_limit_of_descriptors", &[]);
    }
    nix::unistd::alarm::set(60);
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    for limit in [1, 0] {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let worker = queue.start_worker().unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        for data in [1, 2] {
            queue.push(registry.lookup(id).unwrap(), note, data).unwrap();
            until(|| registry.outstanding(id) == Some(0));
        }
        // A second in which there is nothing to do: a worker that spins takes most of it.
        let before = processor_time();
        thread::sleep(Duration::from_secs(1));
        let used = processor_time() - before;
        assert!(
            used < Duration::from_millis(250),
            "limit {limit}: {used:?} of one second, with nothing to do"
        );
        assert_eq!((worker.error(), worker.stop()), (None, ran(2, 0)), "limit {limit}");
    }
    assert_eq!(registry.finalize(id, LONG).unwrap().calls.into_inner().unwrap(), [1, 2, 1, 2]);
}

#[test]
fn a_worker_that_may_not_wait_runs_what_there_is_and_ends() {
    if !in_child() {
        return again("a_worker_that_may_not_wait_runs_what_there_is_and_ends", &[]);
    }
    nix::unistd::alarm::set(60);
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::with(registry, QueueOptions::new().name("SIGUSR1")).unwrap();
    let worker = queue.start_worker().unwrap();
    refuse(
        &[
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll,
            #[cfg(not(target_arch = "x86_64"))]
            libc::SYS_ppoll,
        ],
        libc::EPERM,
    );
    // It is told to wait no more when it comes back from the wait in which it is.
    queue.push(registry.lookup(id).unwrap(), note, 1).unwrap();
    until(|| worker.error().is_some());
    assert_eq!(worker.error(), Some(libc::EPERM));
    // Nobody serves the queue from here on, and the report says so.
    queue.push(registry.lookup(id).unwrap(), note, 2).unwrap();
    until(|| registry.waiting(id).iter().all(|waiting| !waiting.served));
    let late = timeout(registry.finalize(id, Some(Duration::ZERO)).unwrap_err());
    assert!(late.to_string().contains("\"SIGUSR1\", which nobody serves"), "{late}");
    assert_eq!(worker.stop(), ran(1, 0));
    queue.run_pending();
    assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [1, 2]);
}

/// Somebody closes the queue's eventfd, and in a second round gives its number to an eventfd of their own.
#[test]
fn a_worker_whose_queue_has_lost_its_descriptor_runs_what_there_is_and_ends() {
    // In a process of its own: the number may become another thread's.
    if !in_child() {
        return again("a_worker_whose_queue_has_lost_its_descriptor_runs_what_there_is_and_ends", &[]);
    }
    nix::unistd::alarm::set(60);
    let theirs = EventFd::from_value_and_flags(5, EfdFlags::EFD_NONBLOCK).unwrap();
    for (reused, error) in [(false, libc::EBADF), (true, libc::ENOENT)] {
        let registry = leaked();
        let id = registered(registry);
        // Never dropped: the descriptor is not its own any more.
        let queue: &PendingQueue<'_, _> = Box::leak(Box::new(PendingQueue::new(registry).unwrap()));
        let worker = queue.start_worker().unwrap();
        queue.push(registry.lookup(id).unwrap(), note, 1).unwrap();
        until(|| queue.ran() == ran(1, 0));
        let number = queue.as_fd().as_raw_fd();
        match reused {
            // SAFETY: the number is the queue's, which does without.
            false => assert_eq!(unsafe { libc::close(number) }, 0),
            // SAFETY: as above.
            true => assert_eq!(unsafe { libc::dup2(theirs.as_fd().as_raw_fd(), number) }, number),
        }
        if !reused {
            queue.push(registry.lookup(id).unwrap(), note, 2).unwrap(); // wakes nobody
        }
        until(|| worker.error().is_some());
        assert_eq!(worker.error(), Some(error));
        assert_eq!(worker.stop(), ran(if reused { 1 } else { 2 }, 0));
        queue.push(registry.lookup(id).unwrap(), note, 3).unwrap();
        let calls = registry.finalize(id, LONG).unwrap().calls.into_inner().unwrap();
        assert_eq!(calls, if reused { vec![1, 3] } else { vec![1, 2, 3] });
    }
    assert!(theirs.read().unwrap() >= 5, "the worker has not read what is theirs");
}

#[test]
fn a_worker_that_cannot_be_told_to_end_is_not_waited_for() {
    // In a process of its own, which could not say how the test went.
    // SAFETY: the child calls what the C library makes usable after a fork, the allocator included, and `_exit`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            nix::unistd::alarm::set(60);
            let queue = PendingQueue::new(leaked()).unwrap();
            let worker = queue.start_worker().unwrap();
            refuse(&[libc::SYS_write, libc::SYS_writev], libc::EPERM);
            let told = worker.stop();
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(told != Ran::default())) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
}

// --- the thread that would run the calls is the one that waits -------------------------------------------------------

/// A failure deadline for what would wait for ever.
fn within<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(f()));
    told.recv_timeout(Duration::from_secs(60)).expect("it ends")
}

#[test]
fn a_drain_runs_what_its_own_thread_served_last() {
    let registry = Reg::new();
    let [id, other] = [registered(&registry), registered(&registry)];
    let queue = PendingQueue::new(&registry).unwrap();
    assert_eq!(queue.run_pending(), ran(0, 0)); // the loop's last turn
    for data in 0..3 {
        queue.push(registry.lookup(id).unwrap(), note, data).unwrap();
        queue.push(registry.lookup(other).unwrap(), note, data).unwrap();
    }
    assert_eq!(registry.finalize(id, LONG).unwrap().calls.into_inner().unwrap(), [0, 1, 2]);
    assert_eq!((queue.len(), queue.ran()), (3, ran(3, 0)), "the other interpreter's wait for another turn");
    let mut all = registry.finalize_all(LONG);
    let (_, outcome) = all.pop().unwrap();
    assert_eq!(outcome.unwrap().calls.into_inner().unwrap(), [0, 1, 2]);
}

#[test]
fn one_that_only_looks_runs_nothing() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::new(&registry).unwrap();
    queue.run_pending();
    queue.push(registry.lookup(id).unwrap(), note, 7).unwrap();
    let late = timeout(registry.finalize(id, Some(Duration::ZERO)).unwrap_err());
    assert_eq!((late.pending()[0].calls, queue.ran()), (1, ran(0, 0)));
    assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [7]);
}

/// Until the deadline, it is left to whoever will serve it: see `a_queue_that_nobody_serves_is_named_by_the_drains_report`.
#[test]
fn without_a_limit_a_drain_runs_what_nobody_has_ever_served_if_its_own_thread_made_the_queue() {
    let calls = within(|| {
        let registry = leaked();
        let id = registered(registry);
        let queue = PendingQueue::new(registry).unwrap();
        queue.push(registry.lookup(id).unwrap(), note, 7).unwrap();
        registry.finalize(id, None).unwrap().calls.into_inner().unwrap()
    });
    assert_eq!(calls, [7]);
}

/// A call comes only while the drain waits, through a guard taken before.
#[test]
fn a_drain_sees_and_runs_what_is_pushed_while_it_waits() {
    static RAN_ON: Mutex<Option<thread::ThreadId>> = Mutex::new(None);
    let registry = leaked();
    for _ in 0..200 {
        let id = registered(registry);
        let queue = PendingQueue::new(registry).unwrap();
        queue.run_pending();
        let (late, pushed) = (registry.lookup(id).unwrap(), queue.clone());
        let pusher = thread::spawn(move || {
            while !late.is_closing() {
                thread::yield_now();
            }
            let call = |_: &Guard<'_, Interpreter>, _| *RAN_ON.lock().unwrap() = Some(thread::current().id());
            pushed.push(late, call, 0).unwrap();
        });
        registry.finalize(id, LONG).unwrap();
        pusher.join().unwrap();
        assert_eq!(RAN_ON.lock().unwrap().take(), Some(thread::current().id()));
    }
}

#[test]
fn what_another_living_thread_served_last_is_left_to_it() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let (turn, turns) = mpsc::channel::<()>();
    let (done, served) = mpsc::channel();
    let its = queue.clone();
    let event_loop = thread::spawn(move || turns.iter().for_each(|()| done.send(its.run_pending()).unwrap()));
    turn.send(()).unwrap();
    assert_eq!(served.recv().unwrap(), ran(0, 0));
    queue.push(registry.lookup(id).unwrap(), note, 7).unwrap();
    let late = timeout(registry.finalize(id, Some(Duration::from_millis(50))).unwrap_err());
    assert_eq!((late.pending()[0].calls, queue.ran()), (1, ran(0, 0)));
    turn.send(()).unwrap();
    assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [7]);
    assert_eq!(served.recv().unwrap(), ran(1, 0));
    drop(turn);
    event_loop.join().unwrap();
}

/// The drain waits already when the queue's thread ends, which wakes nobody.
#[test]
fn what_an_ended_thread_served_last_is_anybodys() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let (late, its) = (registry.lookup(id).unwrap(), queue.clone());
    let event_loop = thread::spawn(move || {
        its.run_pending();
        its.push(late.clone(), note, 7).unwrap();
        while !late.is_closing() {
            thread::yield_now();
        }
    });
    let calls = within(move || registry.finalize(id, None).unwrap().calls.into_inner().unwrap());
    assert_eq!(calls, [7]);
    event_loop.join().unwrap();
}

/// The kernel's ID of the calling thread.
fn thread_id() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// A thread that lives has the ID of the one that served the queue last.
#[test]
fn what_an_ended_thread_served_last_is_anybodys_whoever_has_its_id_by_now() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let its = queue.clone();
    let event_loop = thread::spawn(move || {
        its.run_pending();
        thread_id()
    });
    let ended = event_loop.join().unwrap();
    queue.push(registry.lookup(id).unwrap(), note, 7).unwrap();
    // The kernel knows threads of the same ID by when they began, in hundredths of a second.
    let joined = std::time::Instant::now();
    until(|| joined.elapsed() > Duration::from_millis(20));
    // Where the kernel may be told which ID to give next. Another process may get it first.
    let later = (0..1_000).find_map(|_| {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (ended - 1).to_string()).ok()?;
        let ((tell, told), (end, ends)) = (mpsc::channel(), mpsc::channel::<()>());
        let thread = thread::spawn(move || {
            tell.send(thread_id()).unwrap();
            ends.recv().unwrap_err();
        });
        (told.recv().unwrap() == ended).then_some((thread, end))
    });
    let Some((thread, end)) = later else {
        return println!(
            "NOT TESTED: the kernel gives no thread the ID of an ended one. Told by root it does."
        );
    };
    let calls = within(move || registry.finalize(id, None).unwrap().calls.into_inner().unwrap());
    assert_eq!(calls, [7]);
    drop(end);
    thread.join().unwrap();
}

/// The kernel keeps the main thread's ID until the process ends.
#[test]
fn what_the_main_thread_served_last_is_anybodys_when_it_has_ended() {
    // SAFETY: the child calls what the C library makes usable after a fork, the allocator included, and `_exit`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            nix::unistd::alarm::set(60);
            let registry: &'static Reg = Box::leak(Box::new(Registry::new().ledger(true)));
            let id = registered(registry);
            let queue = Box::leak(Box::new(PendingQueue::new(registry).unwrap()));
            queue.run_pending();
            let main = thread_id();
            let guard = registry.lookup(id).unwrap();
            thread::spawn(move || {
                let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    until(|| registry.holders(id).unwrap().iter().all(|holder| holder.thread_ended));
                    assert_eq!(registry.holders(id).unwrap().iter().next().unwrap().thread_id, main as u32);
                    drop(guard);
                    queue.push(registry.lookup(id).unwrap(), note, 7).unwrap();
                    assert_eq!(registry.finalize(id, None).unwrap().calls.into_inner().unwrap(), [7]);
                }));
                // SAFETY: ends the process.
                unsafe { libc::_exit(ran.is_err().into()) }
            });
            // SAFETY: ends the thread, whose stack nobody else uses and nothing on it is dropped.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            unreachable!()
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
}

#[test]
fn what_comes_after_the_worker_was_stopped_is_anybodys() {
    let registry = leaked();
    let id = registered(registry);
    let queue = PendingQueue::new(registry).unwrap();
    let worker = queue.start_worker().unwrap();
    queue.push(registry.lookup(id).unwrap(), note, 1).unwrap();
    assert_eq!(worker.stop(), ran(1, 0));
    queue.push(registry.lookup(id).unwrap(), note, 2).unwrap();
    let calls = within(move || registry.finalize(id, None).unwrap().calls.into_inner().unwrap());
    assert_eq!(calls, [1, 2]);
}

#[test]
fn a_call_that_pushes_the_next_one_does_not_outrun_the_deadline() {
    static QUEUE: Mutex<Option<PendingQueue<'static, Interpreter>>> = Mutex::new(None);
    fn again(guard: &Guard<'_, Interpreter>, data: usize) {
        if let Some(queue) = &*QUEUE.lock().unwrap() {
            let parts = guard.clone().into_raw().into_parts();
            // SAFETY: of this registry, and put together once.
            queue.push(unsafe { REGISTRY.guard_from_parts(parts) }, again, data + 1).unwrap();
        }
    }
    let id = registered(&REGISTRY);
    let queue = PendingQueue::new(&REGISTRY).unwrap();
    *QUEUE.lock().unwrap() = Some(queue.clone());
    queue.run_pending();
    queue.push(REGISTRY.lookup(id).unwrap(), again, 0).unwrap();
    let late = timeout(REGISTRY.finalize(id, Some(Duration::from_millis(50))).unwrap_err());
    assert!(queue.ran().calls > 1, "it ran some");
    *QUEUE.lock().unwrap() = None;
    late.into_closing().drain(LONG).unwrap();
}

/// Longer than the deadline of the drain that runs it.
fn takes_50_ms(guard: &Guard<'_, Interpreter>, data: usize) {
    thread::sleep(Duration::from_millis(50));
    note(guard, data);
}

#[test]
fn the_calls_that_a_drain_runs_do_not_outrun_its_deadline() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::new(&registry).unwrap();
    queue.run_pending();
    for data in 0..3 {
        queue.push(registry.lookup(id).unwrap(), takes_50_ms, data).unwrap();
    }
    let late = timeout(registry.finalize(id, Some(Duration::from_millis(50))).unwrap_err());
    assert!(queue.ran().calls <= 1, "{:?}", queue.ran());
    assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [0, 1, 2]);
}

#[test]
fn nor_do_those_that_it_runs_inside_a_call() {
    fn finalize(_: &Guard<'_, Interpreter>, data: usize) {
        let id = InterpreterId::try_from(data as i64).unwrap();
        let late = timeout(REGISTRY.finalize(id, Some(Duration::from_millis(50))).unwrap_err());
        assert_ne!(late.pending()[0].calls, 0);
        assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [0, 1, 2]);
    }
    let [a, b] = [registered(&REGISTRY), registered(&REGISTRY)];
    let queue = PendingQueue::new(&REGISTRY).unwrap();
    queue.push(REGISTRY.lookup(a).unwrap(), finalize, i64::from(b) as usize).unwrap();
    for data in 0..3 {
        queue.push(REGISTRY.lookup(b).unwrap(), takes_50_ms, data).unwrap();
    }
    assert_eq!(queue.run_pending(), ran(1, 0));
    REGISTRY.finalize(a, LONG).unwrap();
}

#[test]
fn an_interrupt_check_is_asked_between_the_calls_that_a_drain_runs() {
    let registry = Reg::new();
    let id = registered(&registry);
    let queue = PendingQueue::new(&registry).unwrap();
    queue.run_pending();
    for data in 0..3 {
        queue.push(registry.lookup(id).unwrap(), note, data).unwrap();
    }
    let after_the_first = || match queue.ran().calls {
        0 => std::ops::ControlFlow::Continue(()),
        _ => std::ops::ControlFlow::Break(()),
    };
    let options = interp_guard::DrainOptions::new().interrupt(after_the_first);
    let refused = registry.finalize_with(id, options).unwrap_err();
    let FinalizeError::Drain(DrainError::Interrupted(late)) = refused else { panic!("{refused:?}") };
    assert_eq!((late.pending()[0].calls, queue.ran()), (2, ran(1, 0)));
    assert_eq!(late.into_closing().drain(LONG).unwrap().calls.into_inner().unwrap(), [0, 1, 2]);
}

/// The drain has the only reference to the queue then.
#[test]
fn a_call_that_a_drain_runs_may_drop_the_queue() {
    static QUEUE: Mutex<Option<PendingQueue<'static, Interpreter>>> = Mutex::new(None);
    let id = registered(&REGISTRY);
    let queue = PendingQueue::new(&REGISTRY).unwrap();
    queue.run_pending();
    queue.push(REGISTRY.lookup(id).unwrap(), |_, _| drop(QUEUE.lock().unwrap().take()), 0).unwrap();
    queue.push(REGISTRY.lookup(id).unwrap(), note, 1).unwrap();
    *QUEUE.lock().unwrap() = Some(queue);
    assert_eq!(REGISTRY.finalize(id, LONG).unwrap().calls.into_inner().unwrap(), [1]);
}

#[test]
fn a_loop_of_a_bound_vm_ends_when_its_descriptor_was_closed() {
    static VMS: Registry<Bound<u32>> = Registry::with_capacity(2);
    if !in_child() {
        return again("a_loop_of_a_bound_vm_ends_when_its_descriptor_was_closed", &[]);
    }
    let vm = Loop::new(&VMS, |_| 7).unwrap();
    let (id, descriptor) = (vm.id(), vm.as_raw_fd());
    std::mem::forget(vm.queue().clone()); // or its last owner would close the descriptor again
    let closes = thread::spawn(move || {
        // SAFETY: in this process nobody else uses descriptors meanwhile, and no file takes its number.
        VMS.call(id, move |_| unsafe { libc::close(descriptor) }).unwrap()
    });
    let ended = vm.run().unwrap_err();
    assert_eq!((closes.join().unwrap(), ended.raw_os_error()), (0, Some(libc::EBADF)));
    let refused = VMS.call(id, |vm| *vm).unwrap_err();
    assert!(matches!(refused, CallError::Refused(Refused::Ended)), "{refused}");
    drop(VMS.finalize(id, LONG).unwrap());
}
