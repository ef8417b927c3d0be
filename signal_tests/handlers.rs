//! Lookups in installed handlers, while the table changes under them.
#![allow(missing_docs)]

#[macro_use]
mod harness;

use harness::{Scenario, Sender, forbid, install, timer_at_this_thread};
use interp_guard::{Counters, Guard, InterpreterId, LookupError, Registry};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigHandler, SigSet, Signal, raise, sigaction};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

fn main() -> ExitCode {
    let scenarios: &[Scenario] = &[
        ("before_the_first_registration", before_the_first_registration),
        ("while_this_thread_changes_the_table_per_cpu", || this_thread_changes_the_table(Counters::PerCpu)),
        ("while_this_thread_changes_the_table_shared", || this_thread_changes_the_table(Counters::Shared)),
        ("while_another_thread_changes_the_table", while_another_thread_changes_the_table),
        ("nested_five_deep", nested_five_deep),
        ("last_drop_in_a_handler_wakes_the_finalizer", last_drop_in_a_handler_wakes_the_finalizer),
        ("a_guard_cloned_in_a_handler_outlives_it", a_guard_cloned_in_a_handler_outlives_it),
        ("errno_is_preserved", errno_is_preserved),
        ("on_an_alternate_stack", on_an_alternate_stack),
        ("a_fresh_thread_is_signalled_first", a_fresh_thread_is_signalled_first),
        ("the_process_exits_under_fire", the_process_exits_under_fire),
        ("beside_signal_hook_and_an_earlier_handler", beside_signal_hook_and_an_earlier_handler),
        ("a_drain_survives_interruptions", a_drain_survives_interruptions),
        ("a_storm_of_delivered_signals", a_storm_of_delivered_signals),
    ];
    harness::main(scenarios)
}

/// What is registered: a number that a guard's holder can recompute, and that the owner spoils after finalizing.
#[derive(Debug)]
struct Canary(AtomicU64);

impl Canary {
    fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed ^ 0x5AFE_5AFE_5AFE_5AFE))
    }
    fn is_alive(&self, seed: u64) -> bool {
        self.0.load(SeqCst) == seed ^ 0x5AFE_5AFE_5AFE_5AFE
    }
}

static REGISTRY: Registry<Canary> = Registry::with_capacity(64);

fn id(raw: i64) -> InterpreterId {
    InterpreterId::try_from(raw).expect("an ID")
}

/// Registers the canary that a guard of `raw` expects.
fn register(raw: i64) {
    REGISTRY.register_with_id(id(raw), Canary::new(raw as u64)).expect("registered");
}

/// Looks `raw` up and checks what comes back. Async-signal-safe.
fn probe(raw: i64) -> Result<(), LookupError> {
    let Ok(id) = InterpreterId::try_from(raw) else {
        handler_check!(false);
        return Err(LookupError::NotFound);
    };
    let guard = REGISTRY.lookup(id)?;
    handler_check!(guard.id() == id);
    handler_check!(guard.is_alive(raw as u64));
    let second = guard.clone();
    drop(guard);
    handler_check!(second.is_alive(raw as u64));
    Ok(())
}

static DELIVERED: AtomicU64 = AtomicU64::new(0);
static HITS: AtomicU64 = AtomicU64::new(0);

// --- before the first registration ------------------------------------------------------------------------------

fn before_the_first_registration() {
    extern "C" fn handler(_: libc::c_int) {
        handler_check!(probe(0) == Err(LookupError::NotFound));
        handler_check!(REGISTRY.main().is_none());
        REGISTRY.for_each_live(|_| harness::note_failure(line!()));
        DELIVERED.fetch_add(1, SeqCst);
    }
    install(Signal::SIGUSR1, handler, SaFlags::empty());
    raise(Signal::SIGUSR1).expect("raise");
    assert_eq!(DELIVERED.load(SeqCst), 1);
}

// --- while the table changes --------------------------------------------------------------------------------------

/// 0 lives throughout, 1 is retired, 2 was never used; the handler knows no more of the others than that a guard of
/// them must be good.
const ALWAYS: i64 = 0;
const RETIRED: i64 = 1;
const NEVER: i64 = 2;
const FIRST_OTHER: i64 = 3;
static LATEST: AtomicI64 = AtomicI64::new(FIRST_OTHER);

extern "C" fn probe_everything(_: libc::c_int) {
    handler_check!(probe(ALWAYS) == Ok(()));
    handler_check!(probe(RETIRED) == Err(LookupError::NotFound));
    handler_check!(probe(NEVER) == Err(LookupError::NotFound));
    let latest = LATEST.load(SeqCst);
    for other in latest - 2..=latest + 1 {
        if other >= FIRST_OTHER && probe(other).is_ok() {
            HITS.fetch_add(1, SeqCst);
        }
    }
    let mut seen = false;
    REGISTRY.for_each_live(|live| seen |= i64::from(live) == ALWAYS);
    handler_check!(seen);
    DELIVERED.fetch_add(1, SeqCst);
}

/// Registers, closes, drains and finalizes one interpreter after another, until `enough` says so.
fn change_the_table(enough: impl Fn() -> bool) {
    let mut next = FIRST_OTHER;
    while !enough() {
        LATEST.store(next, SeqCst);
        register(next);
        if next % 2 == 0 {
            let guard = REGISTRY.lookup(id(next)).expect("live");
            let closing = REGISTRY.close(id(next)).expect("closed");
            drop(guard);
            closing.drain(None).expect("drained");
        } else {
            REGISTRY.finalize(id(next), None).expect("finalized");
        }
        next += 1;
    }
}

fn register_the_fixed_ones() {
    register(ALWAYS);
    register(RETIRED);
    REGISTRY.finalize(id(RETIRED), None).expect("finalized");
}

/// Signals to be delivered while the table changes.
const MANY: u64 = harness::short_of(50_000) as u64;

/// Were that many delivered, and some while an interpreter that comes and goes was live? A sender that always has the
/// next signal ready lets this thread take few steps, so the second is to be waited for too.
fn met_them_changing() -> bool {
    DELIVERED.load(SeqCst) >= MANY && HITS.load(SeqCst) > 0
}

fn this_thread_changes_the_table(counters: Counters) {
    // SAFETY: this process has one thread so far.
    unsafe { std::env::set_var("INTERP_GUARD_COUNTERS", counters.name()) };
    if counters == Counters::PerCpu && interp_guard::platform::missing_for_per_cpu().is_some() {
        println!("this machine has no per-CPU counters; the scenario ran on shared ones");
        // SAFETY: as above.
        unsafe { std::env::remove_var("INTERP_GUARD_COUNTERS") };
    }
    register_the_fixed_ones();
    install(Signal::SIGUSR1, probe_everything, SaFlags::empty());
    let sender = Sender::at_this_thread(Signal::SIGUSR1);
    change_the_table(met_them_changing);
    drop(sender);
    assert_eq!(REGISTRY.outstanding(id(ALWAYS)), Some(0));
}

fn while_another_thread_changes_the_table() {
    register_the_fixed_ones();
    install(Signal::SIGUSR1, probe_everything, SaFlags::empty());
    std::thread::scope(|scope| {
        scope.spawn(|| change_the_table(met_them_changing));
        let _timer = timer_at_this_thread(Signal::SIGUSR1, Duration::from_micros(20));
        while !met_them_changing() {
            raise(Signal::SIGUSR1).expect("raise");
        }
    });
}

// --- nesting ------------------------------------------------------------------------------------------------------

fn nested_five_deep() {
    const LADDER: [Signal; 5] =
        [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGURG, Signal::SIGIO];
    static DEEPEST: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(signal: libc::c_int) {
        let depth = LADDER.iter().position(|&known| known as libc::c_int == signal).unwrap_or(0);
        let outer = REGISTRY.lookup(id(ALWAYS));
        match LADDER.get(depth + 1) {
            Some(&next) => handler_check!(raise(next).is_ok()),
            None => {
                DEEPEST.fetch_add(1, SeqCst);
            }
        }
        handler_check!(outer.is_ok_and(|guard| guard.is_alive(ALWAYS as u64)));
        handler_check!(probe(ALWAYS) == Ok(()));
    }
    register(ALWAYS);
    for signal in LADDER {
        install(signal, handler, SaFlags::empty());
    }
    for _ in 0..1_000 {
        raise(Signal::SIGUSR1).expect("raise");
    }
    assert_eq!(DEEPEST.load(SeqCst), 1_000);
    assert_eq!(REGISTRY.outstanding(id(ALWAYS)), Some(0));
}

// --- guards that handlers drop and keep -----------------------------------------------------------------------------

/// A place where one side leaves a guard and the other takes it; each only when it is its turn.
struct Parcel {
    full: AtomicBool,
    guard: UnsafeCell<MaybeUninit<Guard<'static, Canary>>>,
}

// SAFETY: the guard inside is written only while `full` is false and read only while it is true, each by the one side
// whose turn that is.
unsafe impl Sync for Parcel {}

static PARCEL: Parcel =
    Parcel { full: AtomicBool::new(false), guard: UnsafeCell::new(MaybeUninit::uninit()) };

impl Parcel {
    fn leave(&self, guard: Guard<'static, Canary>) {
        handler_check!(!self.full.load(SeqCst));
        // SAFETY: empty, so it is the leaving side's turn.
        unsafe { (*self.guard.get()).write(guard) };
        self.full.store(true, SeqCst);
    }
    fn take(&self) -> Option<Guard<'static, Canary>> {
        if !self.full.load(SeqCst) {
            return None;
        }
        // SAFETY: full, so it is initialised and the taking side's turn.
        let guard = unsafe { (*self.guard.get()).assume_init_read() };
        self.full.store(false, SeqCst);
        Some(guard)
    }
}

fn last_drop_in_a_handler_wakes_the_finalizer() {
    extern "C" fn handler(_: libc::c_int) {
        handler_check!(PARCEL.take().is_some_and(|guard| guard.is_closing()));
    }
    install(Signal::SIGUSR1, handler, SaFlags::empty());
    for round in 0..2_000 {
        register(round);
        PARCEL.leave(REGISTRY.lookup(id(round)).expect("live"));
        let closing = REGISTRY.close(id(round)).expect("closed");
        std::thread::scope(|scope| {
            let (ready, started) = mpsc::channel();
            let finalizer = scope.spawn(move || {
                ready.send(()).expect("waited for");
                closing.drain(None).expect("drained");
            });
            started.recv().expect("the finalizer runs");
            assert_eq!(REGISTRY.outstanding(id(round)), Some(1));
            raise(Signal::SIGUSR1).expect("raise");
            finalizer.join().expect("woken");
        });
    }
}

fn a_guard_cloned_in_a_handler_outlives_it() {
    extern "C" fn handler(_: libc::c_int) {
        match REGISTRY.lookup(id(ALWAYS)) {
            Ok(guard) => PARCEL.leave(guard.clone()),
            Err(_) => harness::note_failure(line!()),
        }
    }
    register(ALWAYS);
    install(Signal::SIGUSR1, handler, SaFlags::empty());
    raise(Signal::SIGUSR1).expect("raise");
    let guard = PARCEL.take().expect("left by the handler");
    let late = REGISTRY.finalize(id(ALWAYS), Some(Duration::ZERO)).expect_err("a guard is out");
    assert!(guard.is_alive(ALWAYS as u64) && guard.is_closing());
    drop(guard);
    let interp_guard::FinalizeError::Drain(late) = late else { panic!("{late}") };
    late.into_closing().drain(None).expect("drained");
}

// --- errno, stacks, fresh threads, exit --------------------------------------------------------------------------------

/// Broken twin `errno_touched`. The system call that wakes the finalizer fails here, as a seccomp filter can have it.
fn errno_is_preserved() {
    const MARK: i32 = 4242;
    extern "C" fn handler(_: libc::c_int) {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = MARK };
        let _ = probe(ALWAYS);
        let _ = probe(NEVER);
        let _ = probe(FIRST_OTHER); // closing: its exit wakes a finalizer, which is a system call
        drop(PARCEL.take());
        // SAFETY: as above.
        handler_check!(unsafe { *libc::__errno_location() } == MARK);
        DELIVERED.fetch_add(1, SeqCst);
    }
    register(ALWAYS);
    register(FIRST_OTHER);
    PARCEL.leave(REGISTRY.lookup(id(FIRST_OTHER)).expect("live"));
    let closing = REGISTRY.close(id(FIRST_OTHER)).expect("closed");
    install(Signal::SIGUSR1, handler, SaFlags::empty());
    let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    forbid(libc::SYS_futex, Some((1, wake as u32)), libc::EPERM);
    // SAFETY: wakes nobody, if it is let.
    assert_eq!(unsafe { libc::syscall(libc::SYS_futex, &raw const DELIVERED, wake, 1) }, -1, "it fails");
    for _ in 0..100 {
        raise(Signal::SIGUSR1).expect("raise");
    }
    assert_eq!(DELIVERED.load(SeqCst), 100);
    closing.drain(None).expect("the guard was dropped in the handler");
}

fn on_an_alternate_stack() {
    static LOW: AtomicU64 = AtomicU64::new(0);
    static HIGH: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: libc::c_int) {
        let here = 0_u8;
        let address = std::ptr::from_ref(&here).addr() as u64;
        handler_check!((LOW.load(SeqCst)..HIGH.load(SeqCst)).contains(&address));
        handler_check!(probe(ALWAYS) == Ok(()));
        DELIVERED.fetch_add(1, SeqCst);
    }
    register(ALWAYS);
    let mut stack = vec![0_u8; libc::MINSIGSTKSZ + 8192];
    LOW.store(stack.as_ptr().addr() as u64, SeqCst);
    HIGH.store((stack.as_ptr().addr() + stack.len()) as u64, SeqCst);
    let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: the stack outlives the signals, which this thread raises itself below.
    assert_eq!(unsafe { libc::sigaltstack(&alternate, std::ptr::null_mut()) }, 0);
    install(Signal::SIGUSR1, handler, SaFlags::SA_ONSTACK);
    for _ in 0..1_000 {
        raise(Signal::SIGUSR1).expect("raise");
    }
    assert_eq!(DELIVERED.load(SeqCst), 1_000);
    let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: no handler runs on it any more.
    assert_eq!(unsafe { libc::sigaltstack(&off, std::ptr::null_mut()) }, 0);
}

fn a_fresh_thread_is_signalled_first() {
    extern "C" fn handler(_: libc::c_int) {
        handler_check!(probe(ALWAYS) == Ok(()));
        DELIVERED.fetch_add(1, SeqCst);
    }
    register(ALWAYS);
    install(Signal::SIGUSR1, handler, SaFlags::empty());
    // A thread inherits the mask: it starts with the signal blocked and pending, and its first act is to take it.
    let only_usr1 = {
        let mut set = SigSet::empty();
        set.add(Signal::SIGUSR1);
        set
    };
    only_usr1.thread_block().expect("blocked");
    for round in 1..=500 {
        let (to, from) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            to.send(pthread_self()).expect("waited for");
            gone.recv().expect("told");
            only_usr1.thread_unblock().expect("unblocked");
        });
        let target = from.recv().expect("started");
        pthread_kill(target, Signal::SIGUSR1).expect("pending");
        go.send(()).expect("waiting");
        thread.join().expect("ran");
        assert_eq!(DELIVERED.load(SeqCst), round);
    }
}

fn the_process_exits_under_fire() {
    register_the_fixed_ones();
    install(Signal::SIGUSR1, probe_everything, SaFlags::empty());
    let timer = timer_at_this_thread(Signal::SIGUSR1, Duration::from_micros(50));
    std::mem::forget(timer);
    std::mem::forget(Sender::at_this_thread(Signal::SIGUSR1));
    while DELIVERED.load(SeqCst) < 5_000 {
        std::hint::spin_loop();
    }
    harness::finish();
    // Handlers go on through atexit and the end of the process. The harness sees a clean exit status or fails.
    std::process::exit(0);
}

// --- beside others' handlers -----------------------------------------------------------------------------------------

fn beside_signal_hook_and_an_earlier_handler() {
    static EARLIER: AtomicU64 = AtomicU64::new(0);
    extern "C" fn earlier(_: libc::c_int) {
        handler_check!(probe(ALWAYS) == Ok(()));
        EARLIER.fetch_add(1, SeqCst);
    }
    register(ALWAYS);
    install(Signal::SIGUSR1, earlier, SaFlags::empty());
    install(Signal::SIGUSR2, probe_always, SaFlags::empty());
    // SAFETY: the action only looks up and counts.
    let hook = unsafe {
        signal_hook::low_level::register(libc::SIGUSR1, || {
            handler_check!(probe(ALWAYS) == Ok(()));
            HITS.fetch_add(1, SeqCst);
        })
    }
    .expect("signal-hook registers");
    for _ in 0..500 {
        raise(Signal::SIGUSR1).expect("raise");
        raise(Signal::SIGUSR2).expect("raise");
    }
    assert_eq!(EARLIER.load(SeqCst), 500, "signal-hook chains to what was there");
    assert_eq!(HITS.load(SeqCst), 500);
    assert_eq!(DELIVERED.load(SeqCst), 500);
    assert!(signal_hook::low_level::unregister(hook));
    let ignore = nix::sys::signal::SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code.
    unsafe { sigaction(Signal::SIGUSR1, &ignore) }.expect("sigaction");
}

extern "C" fn probe_always(_: libc::c_int) {
    handler_check!(probe(ALWAYS) == Ok(()));
    DELIVERED.fetch_add(1, SeqCst);
}

// --- drains and storms --------------------------------------------------------------------------------------------------

fn a_drain_survives_interruptions() {
    register_the_fixed_ones();
    install(Signal::SIGUSR1, probe_everything, SaFlags::empty());
    register(FIRST_OTHER);
    let guard = REGISTRY.lookup(id(FIRST_OTHER)).expect("live");
    let sender = Sender::at_this_thread(Signal::SIGUSR1);
    while DELIVERED.load(SeqCst) == 0 {
        std::hint::spin_loop();
    }
    // Interrupted again and again, the drain still ends at its deadline, not before and not never.
    let timeout = Duration::from_millis(200);
    let late = loop {
        let (began, before) = (std::time::Instant::now(), DELIVERED.load(SeqCst));
        let late = REGISTRY.finalize(id(FIRST_OTHER), Some(timeout)).expect_err("a guard is out");
        assert!(began.elapsed() >= timeout);
        let interp_guard::FinalizeError::Drain(late) = late else { panic!("{late}") };
        // That it was interrupted is waited for: the sender may have had no processor all the while.
        if DELIVERED.load(SeqCst) > before + 1 {
            break late;
        }
    };
    let (go, gone) = mpsc::channel();
    let holder = std::thread::spawn(move || {
        gone.recv().expect("told");
        drop(guard);
    });
    let before = DELIVERED.load(SeqCst);
    go.send(()).expect("waiting");
    late.into_closing().drain(None).expect("drained");
    holder.join().expect("dropped");
    while DELIVERED.load(SeqCst) == before {
        std::hint::spin_loop();
    }
    drop(sender);
}

fn a_storm_of_delivered_signals() {
    const STORM: u64 = 1_000_000;
    register_the_fixed_ones();
    install(Signal::SIGUSR1, probe_everything, SaFlags::empty());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while DELIVERED.load(SeqCst) < STORM {
                raise(Signal::SIGUSR1).expect("raise");
            }
        });
        change_the_table(|| {
            // Every change is under fire here too: this thread signals itself between any two.
            raise(Signal::SIGUSR1).expect("raise");
            DELIVERED.load(SeqCst) >= STORM && HITS.load(SeqCst) > 0
        });
    });
    assert!(DELIVERED.load(SeqCst) >= STORM);
    assert_eq!(REGISTRY.outstanding(id(ALWAYS)), Some(0));
    println!("{} signals delivered", DELIVERED.load(SeqCst));
}
