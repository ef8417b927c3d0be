//! Forks under fire: threads that take guards in and out of handlers, and children that finalize everything.
#![allow(missing_docs)]

#[macro_use]
mod harness;

use harness::{Scenario, Sender, install, timer_at_this_thread};
use interp_guard::signal::{self, SignalError};
use interp_guard::{Counters, DrainError, FinalizeError, Guard, InterpreterId, LookupError, Registry};
use nix::sys::signal::{SaFlags, SigSet, Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

fn main() -> ExitCode {
    let scenarios: &[Scenario] = &[
        ("forks_under_fire_per_cpu", || forks(Counters::PerCpu, false)),
        ("forks_under_fire_shared", || forks(Counters::Shared, false)),
        ("forks_under_fire_with_the_ledger", || forks(best(), true)),
        ("a_childs_handlers_look_up_while_it_finalizes", a_childs_handlers_look_up),
        ("signals_wait_until_the_child_has_counted_anew", signals_wait_until_the_child_has_counted),
        ("a_handler_that_another_thread_was_in_is_uninstalled_in_a_child", uninstalled_in_a_child),
    ];
    harness::main(scenarios)
}

fn best() -> Counters {
    interp_guard::platform::best_counters()
}

const INTERPRETERS: usize = 6;
const THREADS: usize = 8;
const FORKS: usize = harness::short_of(1_000);

/// How long a child may take; a failure deadline.
const DEADLINE: Duration = Duration::from_secs(240);

const NOW: Option<Duration> = Some(Duration::ZERO);

static REGISTRY: OnceLock<Registry<u64>> = OnceLock::new();
static IDS: OnceLock<[InterpreterId; INTERPRETERS]> = OnceLock::new();

/// Sets up what handlers use. A handler must not be the first to look at either.
fn set_up(registry: Registry<u64>) -> (&'static Registry<u64>, [InterpreterId; INTERPRETERS]) {
    let registry = REGISTRY.get_or_init(|| registry);
    let ids = std::array::from_fn(|n| registry.register(n as u64 + 1).expect("room"));
    (registry, *IDS.get_or_init(|| ids))
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

/// Guards in a handler: looks every interpreter up, clones, drops. Async-signal-safe.
extern "C" fn look_up_all(_: libc::c_int) {
    let (Some(registry), Some(ids)) = (REGISTRY.get(), IDS.get()) else {
        return handler_check!(false);
    };
    for (n, &id) in ids.iter().enumerate() {
        match registry.lookup(id) {
            Ok(guard) => {
                handler_check!(guard.id() == id && *guard == n as u64 + 1);
                let clone = guard.clone();
                drop(guard);
                handler_check!(*clone == n as u64 + 1);
            }
            // Only a child closes and finalizes.
            Err(LookupError::Finalizing | LookupError::NotFound) => handler_check!(IN_CHILD.load(SeqCst)),
        }
    }
    HANDLED.fetch_add(1, SeqCst);
}

static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Guards out of handlers, until told to stop.
fn take_guards(registry: &Registry<u64>, ids: &[InterpreterId], stop: &AtomicBool) {
    // After the thread that forks, and not too often: it needs the processors as well.
    // SAFETY: on Linux this lowers the calling thread's priority only.
    unsafe { libc::nice(10) };
    let _timer = timer_at_this_thread(Signal::SIGUSR1, Duration::from_millis(2));
    let mut held: Vec<Guard<'_, u64>> = Vec::with_capacity(16);
    for round in 0.. {
        if stop.load(SeqCst) {
            break;
        }
        held.push(registry.lookup(ids[round % ids.len()]).expect("live"));
        held.push(held[0].clone());
        if held.len() >= 16 {
            held.clear();
        }
    }
}

/// In the child: says what failed by the line where it did, as the exit status can hold only a byte.
fn child_fails(line: u32) -> ! {
    let message = format!("in the child: the check at line {line} failed\n");
    let _ = nix::unistd::write(std::io::stderr(), message.as_bytes());
    // SAFETY: ends the process.
    unsafe { libc::_exit(1) }
}

macro_rules! child_check {
    ($condition:expr) => {
        if !$condition {
            child_fails(line!());
        }
    };
}

/// Waits for a child, which its alarm ends if it hangs.
fn wait_for(child: Pid) {
    loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            status => return assert_eq!(status, Ok(WaitStatus::Exited(child, 0))),
        }
    }
}

/// First thing in a child.
fn begin_child() {
    IN_CHILD.store(true, SeqCst);
    nix::unistd::alarm::set(DEADLINE.as_secs() as u32);
    // Also while `before_fork` has the signals blocked.
    child_check!(SigSet::from(Signal::SIGALRM).thread_unblock().is_ok());
}

/// Every child finalizes every interpreter: what its vanished threads held, and wherever they stood, holds nobody; what
/// it keeps does.
fn forks(counters: Counters, ledger: bool) {
    if counters == Counters::PerCpu && interp_guard::platform::missing_for_per_cpu().is_some() {
        return println!("this machine has no per-CPU counters");
    }
    let (registry, ids) = set_up(Registry::with_capacity(64).counters(counters).ledger(ledger));
    install(Signal::SIGUSR1, look_up_all, SaFlags::empty());
    let stop = AtomicBool::new(false);
    let (mut theirs, mut interrupted) = (0, 0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| take_guards(registry, &ids, &stop));
        }
        let timer = timer_at_this_thread(Signal::SIGUSR1, Duration::from_millis(1));
        // That the threads have guards out, and that signals come, between `before_fork` and `after_fork_parent` too, is waited
        // for, not hoped for.
        let mut turn = 0;
        while turn < FORKS || theirs == 0 || interrupted == 0 || HANDLED.load(SeqCst) <= FORKS as u64 {
            let mut kept = registry.lookup(ids[turn % INTERPRETERS]).expect("live");
            let inherited = registry.lookup(ids[(turn + 1) % INTERPRETERS]).expect("live");
            let before = HANDLED.load(SeqCst);
            registry.before_fork();
            // SAFETY: the child calls this library, and `_exit`.
            match unsafe { fork() }.expect("fork") {
                ForkResult::Child => in_child(registry, &ids, kept, inherited),
                ForkResult::Parent { child } => {
                    registry.after_fork_parent();
                    wait_for(child);
                }
            }
            interrupted += u64::from(HANDLED.load(SeqCst) != before);
            // Without the two of this thread.
            theirs += ids.iter().map(|&id| registry.outstanding(id).expect("registered")).sum::<u64>() - 2;
            kept = inherited;
            drop(kept);
            turn += 1;
        }
        drop(timer);
        stop.store(true, SeqCst);
    });
    for id in ids {
        registry.finalize(id, NOW).expect("the parent's count came out even");
    }
    println!(
        "{FORKS} forks with {THREADS} threads under fire, {} signals handled: every child finalized {INTERPRETERS} interpreters",
        HANDLED.load(SeqCst)
    );
}

fn in_child(
    registry: &Registry<u64>,
    ids: &[InterpreterId; INTERPRETERS],
    mut kept: Guard<'_, u64>,
    inherited: Guard<'_, u64>,
) -> ! {
    begin_child();
    // SAFETY: the child; `inherited` is not dereferenced.
    unsafe { registry.after_fork_child(&mut [&mut kept]) };
    // Timers do not come with a fork, so the signals are the child's own.
    child_check!(raise(Signal::SIGUSR1).is_ok());
    let kept_id = kept.id();
    for &id in ids {
        let out = u64::from(id == kept_id);
        child_check!(registry.outstanding(id) == Some(out));
        if id == kept_id {
            match registry.finalize(id, NOW) {
                Err(FinalizeError::Drain(DrainError::Timeout(late))) => child_check!(late.outstanding() == 1),
                _ => child_fails(line!()),
            }
        } else {
            child_check!(registry.finalize(id, NOW).is_ok());
        }
        child_check!(raise(Signal::SIGUSR1).is_ok());
    }
    drop(inherited);
    child_check!(*kept > 0 && registry.outstanding(kept_id) == Some(1));
    drop(kept);
    child_check!(registry.finalize(kept_id, NOW).is_ok() && registry.is_empty());
    harness_ended();
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// A check that failed in a handler fails the child.
fn harness_ended() {
    if std::panic::catch_unwind(harness::finish).is_err() {
        child_fails(line!());
    }
}

/// Handlers in the child, from its own threads and at its own, while it finalizes.
fn a_childs_handlers_look_up() {
    let (registry, ids) = set_up(Registry::with_capacity(64).ledger(true));
    install(Signal::SIGUSR1, look_up_all, SaFlags::empty());
    let _held = ids.map(|id| registry.lookup(id).expect("live"));
    registry.before_fork();
    // SAFETY: as above.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            begin_child();
            // SAFETY: the child; what it inherits is not dereferenced.
            unsafe { registry.after_fork_child(&mut []) };
            let sender = Sender::at_this_thread(Signal::SIGUSR1);
            let mut round = 0;
            while round < 200 || HANDLED.load(SeqCst) < 200 {
                round += 1;
                let id = registry.register(round).expect("room");
                let guard = registry.lookup(id).expect("live");
                child_check!(*guard == round);
                drop(guard);
                child_check!(registry.finalize(id, Some(DEADLINE)).is_ok_and(|back| back == round));
            }
            for id in ids {
                child_check!(registry.finalize(id, Some(DEADLINE)).is_ok());
            }
            drop(sender);
            harness_ended();
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            registry.after_fork_parent();
            wait_for(child);
        }
    }
}

/// A signal that comes between fork and the recount is handled after it, in the child as in the parent.
fn signals_wait_until_the_child_has_counted() {
    let (registry, ids) = set_up(Registry::with_capacity(64).ledger(true));
    install(Signal::SIGUSR1, look_up_all, SaFlags::empty());
    registry.before_fork();
    raise(Signal::SIGUSR1).expect("raised");
    assert_eq!(HANDLED.load(SeqCst), 0, "blocked");
    // SAFETY: as above.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            begin_child();
            // What was pending in the parent is the parent's; this one is the child's.
            child_check!(raise(Signal::SIGUSR1).is_ok() && HANDLED.load(SeqCst) == 0);
            // SAFETY: the child.
            unsafe { registry.after_fork_child(&mut []) };
            child_check!(
                HANDLED.load(SeqCst) == 1
                    && !SigSet::thread_get_mask().is_ok_and(|m| m.contains(Signal::SIGUSR1))
            );
            for id in ids {
                child_check!(registry.outstanding(id) == Some(0));
            }
            harness_ended();
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            registry.after_fork_parent();
            assert_eq!(HANDLED.load(SeqCst), 1);
            wait_for(child);
        }
    }
}

/// A thread is in a handler when the process forks. The child, which does not have it, uninstalls what the parent has installed,
/// and is told that it cannot install anything.
fn uninstalled_in_a_child() {
    static INSIDE: AtomicBool = AtomicBool::new(false);
    static LEAVE: AtomicBool = AtomicBool::new(false);
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    struct Captured;
    impl Drop for Captured {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, SeqCst);
        }
    }
    let install = |wait: bool| {
        let captured = Captured;
        let action = move || {
            let _ = &captured;
            HANDLED.fetch_add(1, SeqCst);
            while wait && !LEAVE.load(SeqCst) {
                INSIDE.store(true, SeqCst);
            }
        };
        // SAFETY: atomic operations.
        unsafe { signal::in_handler(Signal::SIGUSR1 as i32, action) }
    };
    let first = install(false).expect("installed");
    let second = install(true).expect("installed");
    let thread = std::thread::spawn(|| raise(Signal::SIGUSR1).expect("raised"));
    while !INSIDE.load(SeqCst) {
        std::thread::yield_now();
    }
    // SAFETY: as above.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            begin_child();
            nix::unistd::alarm::set(60);
            LEAVE.store(true, SeqCst);
            HANDLED.store(0, SeqCst);
            // Also when a handler has run in the child, which counts anew who is in one.
            for round in 0..2 {
                child_check!(matches!(install(false), Err(SignalError::Forked(_))));
                child_check!(DROPPED.swap(0, SeqCst) == 1); // what was not installed
                if round == 0 {
                    child_check!(raise(Signal::SIGUSR1).is_ok() && HANDLED.load(SeqCst) == 2);
                }
            }
            first.uninstall();
            child_check!(DROPPED.load(SeqCst) == 1);
            child_check!(raise(Signal::SIGUSR1).is_ok() && HANDLED.load(SeqCst) == 3);
            drop(second);
            child_check!(DROPPED.load(SeqCst) == 2);
            child_check!(raise(Signal::SIGUSR1).is_ok() && HANDLED.load(SeqCst) == 3);
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            wait_for(child);
            LEAVE.store(true, SeqCst);
            thread.join().expect("no panic");
            drop((first, second));
            assert_eq!((HANDLED.load(SeqCst), DROPPED.load(SeqCst)), (2, 2));
            raise(Signal::SIGUSR1).expect("raised");
            assert_eq!(HANDLED.load(SeqCst), 2);
            install(false).expect("this process has all of its threads").uninstall();
        }
    }
}
