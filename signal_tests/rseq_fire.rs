//! Restartable sequences under fire: many more threads than CPUs, moved from CPU to CPU, signalled every few
//! microseconds by timers of their own. Counters must come out exact, and finalizers must see every guard.
//!
//! At full speed a sequence is a handful of instructions, and few signals hit it. `tests/broken_twins.rs` runs the same
//! fire on a build whose sections dawdle between reading the CPU number and the increment, and on the broken twin that
//! hides its sections from the kernel and must lose counts.
#![allow(missing_docs)]

mod harness;

use harness::{install, timer_at_this_thread};
use interp_guard::platform::{self, Sequences};
use interp_guard::{Counters, FinalizeError, InterpreterId, LookupError, Registry, SetupError};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SaFlags, Signal};
use nix::unistd::Pid;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    harness::main(&[
        ("per_cpu", || fire(Counters::PerCpu)),
        ("shared", || fire(Counters::Shared)),
        ("without_rseq_shared_is_the_default", without_rseq),
        ("interrupted_sections_are_seen_to_abort", trial),
    ])
}

/// The trial by which a kernel is granted per-CPU mode, or refused.
fn trial() {
    if platform::rseq().is_none() {
        return println!("this machine has no restartable sequences to try");
    }
    let began = Instant::now();
    let found = platform::try_sequences();
    println!("{found}, after {:?}", began.elapsed());
    assert_eq!(platform::try_sequences(), found, "asked once");
    // A machine with other work for both CPUs may leave it no time; that is no mistake.
    assert!(matches!(found, Sequences::Abort | Sequences::NotShown), "{found}");
}

static REGISTRY: Registry<u64> = Registry::with_capacity(16).counters(Counters::PerCpu);
static SHARED: Registry<u64> = Registry::with_capacity(16).counters(Counters::Shared);
static PER_CPU_MODE: AtomicBool = AtomicBool::new(true);

fn registry() -> &'static Registry<u64> {
    if PER_CPU_MODE.load(SeqCst) { &REGISTRY } else { &SHARED }
}

const STAYS: i64 = 0;
static LATEST: AtomicU64 = AtomicU64::new(1);
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static LOOKUPS: AtomicU64 = AtomicU64::new(0);

fn id(raw: u64) -> InterpreterId {
    InterpreterId::try_from(raw as i64).expect("an ID")
}

extern "C" fn handler(_: libc::c_int) {
    let guard = registry().lookup(id(STAYS as u64));
    handler_check!(guard.is_ok());
    if let Ok(guard) = guard {
        drop(guard.clone());
    }
    SIGNALS.fetch_add(1, SeqCst);
}

/// One thread's part: lookups of an interpreter that stays and of one that is being finalized, moving all the while.
fn work(stop: &AtomicBool, seed: u64) {
    let timer = timer_at_this_thread(Signal::SIGUSR1, Duration::from_micros(50 + seed));
    let cpus = interp_guard::platform::possible_cpus() as usize;
    let mut turn = seed;
    while !stop.load(SeqCst) {
        turn += 1;
        if turn.is_multiple_of(16) {
            let mut to = CpuSet::new();
            to.set(turn as usize / 16 % cpus).expect("a CPU number");
            // A CPU that is not there, or not ours, is refused: the thread stays where it is.
            let _ = sched_setaffinity(Pid::from_raw(0), &to);
        }
        for raw in [STAYS as u64, LATEST.load(SeqCst)] {
            match registry().lookup(id(raw)) {
                Ok(guard) => {
                    assert_eq!(*guard, raw, "a guard of an interpreter that was finalized");
                    drop(guard.clone());
                }
                Err(LookupError::Finalizing | LookupError::NotFound) => assert_ne!(raw, STAYS as u64),
            }
            LOOKUPS.fetch_add(1, SeqCst);
        }
    }
    drop(timer);
}

fn fire(counters: Counters) {
    PER_CPU_MODE.store(counters == Counters::PerCpu, SeqCst);
    install(Signal::SIGUSR1, handler, SaFlags::empty());
    let registry = registry();
    registry.register_with_id(id(STAYS as u64), STAYS as u64).expect("room");
    assert_eq!(registry.layout().expect("mapped").counters, counters);
    let stop = AtomicBool::new(false);
    let lasts = Duration::from_secs(if harness::long_form() { 60 } else { 2 });
    let threads = 16 * interp_guard::platform::possible_cpus().min(4) as u64;
    let mut finalized = 0_u64;
    let refused = std::thread::scope(|scope| {
        for seed in 0..threads {
            let stop = &stop;
            scope.spawn(move || work(stop, seed));
        }
        let began = Instant::now();
        let mut refused = None;
        // That signals come is waited for.
        while refused.is_none() && (began.elapsed() < lasts || SIGNALS.load(SeqCst) == 0) {
            let raw = finalized + 1;
            registry.register_with_id(id(raw), raw).expect("room");
            LATEST.store(raw, SeqCst);
            match registry.finalize(id(raw), Some(Duration::from_secs(2))) {
                Ok(back) => assert_eq!(back, raw),
                Err(error) => refused = Some(error),
            }
            finalized += 1;
        }
        stop.store(true, SeqCst);
        refused
    });
    // Once every thread is gone, no guard can be out: a drain that was only slow ends here, one that lost a count never.
    if let Some(refused) = refused {
        let FinalizeError::Drain(refused) = refused else { panic!("{refused}") };
        let drained = refused.into_closing().drain(Some(Duration::ZERO)).expect("the counts are exact");
        assert_eq!(drained, finalized);
    }
    let last = registry.finalize(id(STAYS as u64), Some(Duration::ZERO)).expect("the counts are exact");
    assert_eq!(last, STAYS as u64);
    println!(
        "{counters}: {threads} threads, {} signals, {} lookups, {finalized} finalized; counts exact",
        SIGNALS.load(SeqCst),
        LOOKUPS.load(SeqCst)
    );
}

/// With the C library told not to register: shared mode, and a clear error where per-CPU is asked for.
fn without_rseq() {
    if std::env::var_os("GLIBC_TUNABLES").is_none() {
        let output = Command::new(std::env::current_exe().expect("this test"))
            .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
            .output()
            .expect("starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        print!("{said}");
        return;
    }
    assert_eq!(interp_guard::platform::rseq(), None);
    let registry = Registry::new();
    let id = registry.register(1).expect("shared mode");
    assert_eq!(registry.layout().expect("mapped").counters, Counters::Shared);
    let guard = registry.lookup(id).expect("live");
    assert_eq!(registry.outstanding(id), Some(1));
    drop(guard);
    assert_eq!(registry.finalize(id, Some(Duration::ZERO)).expect("no guard out"), 1);
    let refused = Registry::new().counters(Counters::PerCpu).register(1).expect_err("no sequences");
    println!("{refused}");
    match refused {
        interp_guard::RegisterError::Unavailable(1, SetupError::Counters(_)) => {}
        other => panic!("{other}"),
    }
}
