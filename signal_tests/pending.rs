//! Pending calls pushed from real handlers: each run exactly once or handed back, wherever a push was interrupted.
#![allow(missing_docs)]

#[macro_use]
mod harness;

use harness::{Scenario, Sender, install};
use interp_guard::pending::{PendingQueue, QueueOptions};
use interp_guard::raw::GuardParts;
use interp_guard::signal::{self, SignalError};
use interp_guard::{Guard, InterpreterId, Registry};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, Signal, raise};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

fn main() -> ExitCode {
    let scenarios: &[Scenario] = &[
        ("calls_pushed_from_nested_signals", calls_pushed_from_nested_signals),
        ("latency_of_one_call_at_a_time", latency_of_one_call_at_a_time),
        ("a_push_at_every_instruction_of_a_push", || stepped(8192, 0, push)),
        ("a_push_at_every_instruction_of_a_push_to_a_crowded_queue", || stepped(64, 56, push)),
        ("a_push_at_every_instruction_of_a_push_to_a_full_queue", || stepped(32, 32, push)),
        ("a_push_at_every_instruction_of_a_run", || stepped(32, 4, run)),
        ("finalized_while_signals_leave_calls", finalized_while_signals_leave_calls),
        ("an_event_loop_of_one_thread_ends", an_event_loop_of_one_thread_ends),
        ("errno_is_preserved_by_a_push", errno_is_preserved_by_a_push),
        ("chains_to_what_was_there_and_can_be_uninstalled", chains_to_what_was_there_and_can_be_uninstalled),
        ("signals_that_cannot_be_handled_are_refused", signals_that_cannot_be_handled_are_refused),
    ];
    harness::main(scenarios)
}

const LONG: Option<Duration> = Some(Duration::from_secs(60));

static REGISTRY: Registry<()> = Registry::with_capacity(64);
static QUEUE: OnceLock<PendingQueue<'static, ()>> = OnceLock::new();
static ID: OnceLock<InterpreterId> = OnceLock::new();

/// Registers the interpreter and makes the queue. From then on both `get`s are async-signal-safe: one load.
fn set_up(capacity: usize) -> (&'static PendingQueue<'static, ()>, InterpreterId) {
    let id = REGISTRY.register(()).expect("registered");
    let queue = PendingQueue::with(&REGISTRY, QueueOptions::new().capacity(capacity)).expect("a queue");
    (QUEUE.get_or_init(|| queue), *ID.get_or_init(|| id))
}

/// Installs a handler for as long as the process lives.
fn handle(signal: Signal, action: impl Fn() + Send + Sync + 'static) {
    // SAFETY: the scenarios' actions only push, look up, read the clock and use atomics.
    unsafe { signal::in_handler(signal as i32, action) }.expect("installed").keep();
}

/// On the monotonic clock. Async-signal-safe.
fn nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

// --- an account of every call ----------------------------------------------------------------------------------------

/// A million in a release build. Those pushed after them share the last place in what follows.
const CALLS_IN_ALL: usize = harness::short_of(1_000_000);

/// How often each call was run, and whether it was handed back.
static RUN: [AtomicU8; CALLS_IN_ALL + 1] = [const { AtomicU8::new(0) }; CALLS_IN_ALL + 1];
static BACK: [AtomicU8; CALLS_IN_ALL + 1] = [const { AtomicU8::new(0) }; CALLS_IN_ALL + 1];
/// When each was pushed, and how long after that it ran.
static PUSHED: [AtomicU64; CALLS_IN_ALL + 1] = [const { AtomicU64::new(0) }; CALLS_IN_ALL + 1];
static LATENCY: [AtomicU32; CALLS_IN_ALL + 1] = [const { AtomicU32::new(0) }; CALLS_IN_ALL + 1];
/// How many were run that came after them.
static RUN_AFTER: AtomicU64 = AtomicU64::new(0);
/// The next call's number: one per push, from whatever depth.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Pushes in progress on the one thread that pushes; how many began inside another.
static DEPTH: AtomicU32 = AtomicU32::new(0);
static WITHIN: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);

/// Pushes one call. Async-signal-safe; called by one thread, nested in itself to any depth.
fn push_one() {
    let (Some(queue), Some(&id)) = (QUEUE.get(), ID.get()) else { return note() };
    let number = NEXT.fetch_add(1, SeqCst).min(CALLS_IN_ALL);
    let Ok(guard) = REGISTRY.lookup(id) else { return note() };
    PUSHED[number].store(nanos(), SeqCst);
    let depth = DEPTH.fetch_add(1, SeqCst);
    if depth > 0 {
        WITHIN.fetch_add(1, SeqCst);
        DEEPEST.fetch_max(depth, SeqCst);
    }
    let pushed = trapping(&TRAP_PUSH, || queue.push(guard, called, number));
    DEPTH.fetch_sub(1, SeqCst);
    if let Err(refused) = pushed {
        handler_check!(refused.into_guard().id() == id);
        BACK[number].fetch_add(1, SeqCst);
    }
}

fn note() {
    harness::note_failure(line!());
}

fn called(guard: &Guard<'_, ()>, number: usize) {
    assert_eq!(Some(&guard.id()), ID.get());
    // The last place's may be pushed again meanwhile.
    let latency = nanos().saturating_sub(PUSHED[number].load(SeqCst));
    LATENCY[number].store(latency.try_into().unwrap_or(u32::MAX), SeqCst);
    RUN[number].fetch_add(1, SeqCst);
    RUN_AFTER.fetch_add(u64::from(number == CALLS_IN_ALL), SeqCst);
}

/// Every call was run exactly once, or handed back: how many of each.
fn settle() -> (usize, usize) {
    let numbers = NEXT.load(SeqCst).min(CALLS_IN_ALL);
    let count = |list: &[AtomicU8]| list.iter().map(|times| usize::from(times.load(SeqCst))).sum::<usize>();
    for number in 0..numbers {
        let (run, back) = (RUN[number].load(SeqCst), BACK[number].load(SeqCst));
        assert!(run + back == 1, "call {number} was run {run} times and handed back {back} times");
    }
    (count(&RUN[..numbers]), count(&BACK[..numbers]))
}

fn percentiles(numbers: usize) -> String {
    let ran = (0..numbers).filter(|&number| RUN[number].load(SeqCst) == 1);
    let mut all: Vec<_> = ran.map(|number| LATENCY[number].load(SeqCst)).collect();
    all.sort_unstable();
    let at = |share: f64| f64::from(all[((all.len() - 1) as f64 * share) as usize]) / 1_000.0;
    format!("push to run: p50 {:.1} us, p99 {:.1} us, max {:.1} us", at(0.5), at(0.99), at(1.0))
}

// --- scenarios --------------------------------------------------------------------------------------------------------

/// Issue 3, must show 2. This thread pushes, and is interrupted all the time by two signals whose handlers push and
/// interrupt each other; a worker runs.
fn calls_pushed_from_nested_signals() {
    let (queue, id) = set_up(1024);
    let worker = queue.start_worker().expect("a worker");
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        handle(signal, || (0..4).for_each(|_| push_one()));
    }
    {
        let _senders = [Signal::SIGUSR1, Signal::SIGUSR2].map(Sender::at_this_thread);
        // That a push interrupts another is waited for: where both senders have one processor with this thread, it is rare.
        while NEXT.load(SeqCst) < CALLS_IN_ALL || WITHIN.load(SeqCst) == 0 {
            (0..64).for_each(|_| push_one());
            std::thread::yield_now();
        }
    }
    REGISTRY.finalize(id, LONG).expect("the worker runs what is queued");
    let ran = worker.stop();
    let (run, back) = settle();
    assert_eq!((ran.calls, ran.panics), (run as u64 + RUN_AFTER.load(SeqCst), 0));
    let (within, deepest) = (WITHIN.load(SeqCst), DEEPEST.load(SeqCst));
    println!(
        "{CALLS_IN_ALL} pushed: {run} run exactly once, {back} handed back; {within} inside another push, up to {deepest} deep"
    );
    println!("under overload, {}", percentiles(CALLS_IN_ALL));
}

/// From the push in a handler to the call on the worker, with nothing else queued.
fn latency_of_one_call_at_a_time() {
    const CALLS: usize = harness::short_of(20_000);
    let (queue, id) = set_up(64);
    let worker = queue.start_worker().expect("a worker");
    handle(Signal::SIGUSR1, push_one);
    for ran in RUN.iter().take(CALLS) {
        raise(Signal::SIGUSR1).expect("raised");
        while ran.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
    REGISTRY.finalize(id, LONG).expect("idle");
    assert_eq!(worker.stop().calls, CALLS as u64);
    assert_eq!(settle(), (CALLS, 0));
    println!("one at a time, {}", percentiles(CALLS));
}

/// Instructions stepped through.
static STEPS: AtomicUsize = AtomicUsize::new(0);

/// Runs `step` with the processor's trap flag set: SIGTRAP after every single instruction, and in its handler a push.
/// What the step had done by then must bear it.
fn stepped(capacity: usize, queued: usize, step: fn()) {
    extern "C" fn trap(_: libc::c_int) {
        STEPS.fetch_add(1, SeqCst);
        push_one();
    }
    if cfg!(not(target_arch = "x86_64")) {
        return println!("a program cannot step itself on this architecture: not shown here");
    }
    let (queue, id) = set_up(capacity);
    install(Signal::SIGTRAP, trap, SaFlags::empty());
    (0..queued).for_each(|_| push_one());
    step();
    while queue.run_pending().calls > 0 {}
    let (run, back) = settle();
    let steps = STEPS.load(SeqCst);
    println!("a push after each of {steps} instructions: {run} calls run, {back} handed back");
    assert!(steps > 50, "the step was not stepped through");
    assert!(NEXT.load(SeqCst) >= steps + queued, "a push per instruction");
    assert_eq!(REGISTRY.outstanding(id), Some(0), "no guard is lost");
    REGISTRY.finalize(id, Some(Duration::ZERO)).expect("drained");
}

/// Is the next push, or the next run, to be stepped through?
static TRAP_PUSH: AtomicBool = AtomicBool::new(false);
static TRAP_RUN: AtomicBool = AtomicBool::new(false);

/// Runs `step`, with the processor's trap flag set if this is the one. Async-signal-safe.
fn trapping<R>(this: &AtomicBool, step: impl FnOnce() -> R) -> R {
    if !this.swap(false, SeqCst) {
        return step();
    }
    // SAFETY: sets the trap flag, and below clears it; the stack is as before. A handler begins with it clear.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq")
    };
    let result = step();
    // SAFETY: as above.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq")
    };
    result
}

fn push() {
    TRAP_PUSH.store(true, SeqCst);
    push_one();
}

fn run() {
    TRAP_RUN.store(true, SeqCst);
    trapping(&TRAP_RUN, || QUEUE.get().expect("set up").run_pending());
}

/// Item 14 under fire: interpreters come and go while a signal leaves calls for them. Every drain ends, every call that
/// was left is run, every signal is accounted for.
fn finalized_while_signals_leave_calls() {
    static DELIVERED: AtomicU64 = AtomicU64::new(0);
    static CALLS: AtomicU64 = AtomicU64::new(0);
    fn count(_: &Guard<'_, ()>, data: usize) {
        assert_eq!(data, 7);
        CALLS.fetch_add(1, SeqCst);
    }
    const ROUNDS: usize = 300;
    let queue = PendingQueue::new(&REGISTRY).expect("a queue");
    let worker = queue.start_worker().expect("a worker");
    // Delivered signals are counted by a handler that is there before and after the others.
    handle(Signal::SIGUSR1, || _ = DELIVERED.fetch_add(1, SeqCst));
    let (mut left, mut other, mut delivered) = (0, 0, 0);
    for round in 0..ROUNDS {
        let id = REGISTRY.register(()).expect("registered");
        let handler = signal::on_signal(&queue, libc::SIGUSR1, id, count, 7).expect("installed");
        let before = DELIVERED.load(SeqCst);
        {
            let _sender = Sender::at_this_thread(Signal::SIGUSR1);
            // Some come for certain, more when they like: in close, in drain, in the handler's removal.
            (0..20).for_each(|_| raise(Signal::SIGUSR1).expect("raised"));
            REGISTRY.finalize(id, LONG).unwrap_or_else(|error| panic!("round {round}: {error}"));
            raise(Signal::SIGUSR1).expect("raised");
            assert!(handler.counts().not_found > 0);
        }
        delivered += DELIVERED.load(SeqCst) - before;
        let counts = handler.counts();
        left += counts.left;
        other += counts.full + counts.finalizing + counts.not_found;
    }
    assert_eq!(left + other, delivered, "each signal left a call or was counted");
    let ran = worker.stop();
    assert_eq!((ran.calls, ran.panics), (left, 0));
    assert_eq!(CALLS.load(SeqCst), left);
    println!("{delivered} signals: {left} calls left and run, {other} refused; {ROUNDS} finalizations");
}

/// The thread that serves the queue is the one that finalizes: what signals leave after its last turn, and while it waits, the
/// drain runs.
fn an_event_loop_of_one_thread_ends() {
    static LATE: OnceLock<GuardParts> = OnceLock::new();
    static RAN_HERE: AtomicU64 = AtomicU64::new(0);
    static LOOP: OnceLock<Pthread> = OnceLock::new();
    fn here(_: &Guard<'_, ()>, _: usize) {
        RAN_HERE.fetch_add(u64::from(LOOP.get() == Some(&pthread_self())), SeqCst);
    }
    LOOP.set(pthread_self()).expect("once");
    let (queue, id) = set_up(64);
    let handler = signal::on_signal(queue, libc::SIGUSR1, id, here, 0).expect("installed");
    handle(Signal::SIGUSR2, || {
        let (Some(queue), Some(&parts)) = (QUEUE.get(), LATE.get()) else { return note() };
        // SAFETY: of this registry, and put together once: the signal is sent once.
        let guard = unsafe { REGISTRY.guard_from_parts(parts) };
        handler_check!(guard.is_closing() && queue.push(guard, here, 0).is_ok());
    });
    LATE.set(REGISTRY.lookup(id).expect("live").into_raw().into_parts()).expect("once");
    let target = pthread_self();
    let sender = std::thread::spawn(move || {
        while REGISTRY.lookup(id).is_ok() {
            std::thread::yield_now();
        }
        pthread_kill(target, Signal::SIGUSR2).expect("it drains");
    });
    assert_eq!(queue.run_pending().calls, 0); // the last turn
    raise(Signal::SIGUSR1).expect("raised");
    assert_eq!((handler.counts().left, queue.len()), (1, 1));
    REGISTRY.finalize(id, None).expect("drained");
    assert_eq!((RAN_HERE.load(SeqCst), queue.ran().calls), (2, 2));
    sender.join().expect("sent");
}

/// Broken twin `errno_touched`. Each push's `write` fails here, for the eventfd has counted as far as it can.
fn errno_is_preserved_by_a_push() {
    let (queue, _) = set_up(2);
    let write = |number: u64| nix::unistd::write(queue, &number.to_ne_bytes());
    assert_eq!(write(u64::MAX - 1), Ok(8));
    assert_eq!(write(1), Err(nix::errno::Errno::EAGAIN));
    handle(Signal::SIGUSR1, || {
        // With nothing around it that would restore errno: pushed, then full.
        for _ in 0..4 {
            nix::errno::Errno::ENOTTY.set();
            push_one();
            handler_check!(nix::errno::Errno::last() == nix::errno::Errno::ENOTTY);
        }
    });
    raise(Signal::SIGUSR1).expect("raised");
    assert_eq!(queue.run_pending().calls, 2);
    assert_eq!(settle(), (2, 2));
}

fn chains_to_what_was_there_and_can_be_uninstalled() {
    static EARLIER: AtomicU32 = AtomicU32::new(0);
    static FIRST: AtomicBool = AtomicBool::new(false);
    extern "C" fn earlier(_: libc::c_int) {
        EARLIER.fetch_add(1, SeqCst);
    }
    let (queue, id) = set_up(64);
    install(Signal::SIGUSR1, earlier, SaFlags::empty());
    let handler = signal::on_signal(queue, libc::SIGUSR1, id, |_, _| (), 0).expect("installed");
    let action = || FIRST.store(EARLIER.load(SeqCst) == 1, SeqCst);
    // SAFETY: atomic operations.
    let second = unsafe { signal::in_handler(libc::SIGUSR1, action) }.expect("installed");
    raise(Signal::SIGUSR1).expect("raised");
    assert_eq!((EARLIER.load(SeqCst), handler.counts().left, queue.len()), (1, 1, 1));
    assert!(FIRST.load(SeqCst), "what was there before runs first");
    second.uninstall();
    raise(Signal::SIGUSR1).expect("raised");
    assert_eq!((EARLIER.load(SeqCst), handler.counts().left, queue.len()), (2, 2, 2));
    handler.uninstall();
    raise(Signal::SIGUSR1).expect("raised");
    assert_eq!((EARLIER.load(SeqCst), queue.len()), (3, 2));
    assert_eq!(queue.run_pending().calls, 2, "what was left is still run");
    REGISTRY.finalize(id, LONG).expect("drained");
}

fn signals_that_cannot_be_handled_are_refused() {
    let (queue, id) = set_up(1);
    let refused = |signum| signal::on_signal(queue, signum, id, |_, _| (), 0).expect_err("refused");
    for signum in [libc::SIGKILL, libc::SIGSTOP] {
        let why = refused(signum);
        assert!(matches!(why, SignalError::Uncatchable(refused) if refused == signum));
        println!("{why}");
    }
    for signum in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
        let why = refused(signum);
        assert!(matches!(why, SignalError::Synchronous(refused) if refused == signum));
        println!("{why}");
    }
    for signum in [-1, 0, 32, 65, i32::MAX] {
        let why = refused(signum);
        assert!(matches!(&why, SignalError::Refused(refused, _) if *refused == signum));
        println!("{why}");
    }
}
