//! Every interpreter is finalized, round after round, under threads that attach, nest, detach and clone, and under
//! signals: no hang, no access after the end, nothing left over.

mod harness;

use harness::{install, timer_at_this_thread};
use interp_guard::{Counters, DrainError, InterpreterId, LookupError, Registry, thread_state};
use nix::sys::signal::{SaFlags, Signal, raise};
use refruntime::{Interpreter, Object, Probe};
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

fn main() -> ExitCode {
    harness::main(&[
        ("shutdown_under_fire_per_cpu", || shutdown_under_fire(Counters::PerCpu)),
        ("shutdown_under_fire_shared", || shutdown_under_fire(Counters::Shared)),
        ("overlapping_guards_do_not_keep_a_finalizer_waiting", overlapping_guards),
    ])
}

const ROUNDS: usize = harness::short_of(1_000);
const THREADS: usize = 8;
const INTERPRETERS: usize = 4;

static REGISTRY: Registry<Interpreter> = Registry::with_capacity(64);

/// An interpreter of this round, and an object in it for all threads to be at.
struct Target {
    id: InterpreterId,
    object: Object,
}

static TARGETS: RwLock<Vec<Arc<Target>>> = RwLock::new(Vec::new());

static STOP: AtomicBool = AtomicBool::new(false);
static ENSURED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static SIGNALS_ATTACHED: AtomicU64 = AtomicU64::new(0);
/// Threads that stay until their interpreter closes: so that the others meet a finalizer that waits.
static LINGERING: AtomicU64 = AtomicU64::new(0);
/// Daemons whose interpreter ended under them: each leaves its thread state to the interpreter.
static LOST: Mutex<Vec<InterpreterId>> = Mutex::new(Vec::new());

thread_local! {
    /// Is some level of this thread a daemon's?
    static DAEMON: Cell<bool> = const { Cell::new(false) };
}

/// What is attached can be looked up, or is closing; it cannot be gone, but under a daemon.
extern "C" fn on_signal(_: libc::c_int) {
    let Some(id) = thread_state::current_id() else { return };
    SIGNALS_ATTACHED.fetch_add(1, SeqCst);
    match REGISTRY.lookup(id) {
        Ok(guard) => {
            let another = guard.clone();
            handler_check!(another.id() == id);
        }
        Err(LookupError::Finalizing) => {}
        Err(LookupError::NotFound) => handler_check!(DAEMON.get()),
    }
}

fn shutdown_under_fire(counters: Counters) {
    // SAFETY: this process has one thread so far.
    unsafe { std::env::set_var("INTERP_GUARD_COUNTERS", counters.name()) };
    if counters == Counters::PerCpu && interp_guard::platform::missing_for_per_cpu().is_some() {
        println!("this machine has no per-CPU counters; the scenario ran on shared ones");
        // SAFETY: as above.
        unsafe { std::env::remove_var("INTERP_GUARD_COUNTERS") };
    }
    install(Signal::SIGUSR1, on_signal, SaFlags::empty());
    let threads: Vec<_> =
        (0..THREADS as u64).map(|seed| std::thread::spawn(move || worker(seed + 1))).collect();
    let mut probes: Vec<Probe> = Vec::new();
    // What is to be met is waited for, not hoped for: an ensure that a finalizer refuses, a signal while attached, a daemon whose
    // interpreter ends under it.
    let lost_some = || !LOST.lock().unwrap().is_empty();
    let met = || REFUSED.load(SeqCst) > 0 && SIGNALS_ATTACHED.load(SeqCst) > 0 && lost_some();
    let rounds = (0..).take_while(|&round| round < ROUNDS || !met());
    for round in rounds {
        let made: Vec<_> = (0..INTERPRETERS).map(|at| make(round + at)).collect();
        probes.extend(made.iter().map(|(_, probe)| *probe));
        *TARGETS.write().unwrap() = made.into_iter().map(|(target, _)| target).collect();
        let begun = ENSURED.load(SeqCst);
        let busy = || ENSURED.load(SeqCst) >= begun + 2 * THREADS as u64 && LINGERING.load(SeqCst) > 0;
        while !busy() && LINGERING.load(SeqCst) < THREADS as u64 {
            std::thread::yield_now();
        }
        if round % 2 == 0 {
            for target in TARGETS.read().unwrap().clone() {
                REGISTRY.finalize(target.id, None).expect("every guard is given up");
            }
        } else {
            for (_, outcome) in REGISTRY.finalize_all(None) {
                outcome.expect("every guard is given up");
            }
        }
    }
    STOP.store(true, SeqCst);
    for thread in threads {
        thread.join().expect("no thread panicked");
    }
    let lost = LOST.lock().unwrap();
    for probe in &probes {
        assert!(probe.has_ended());
        assert_eq!(probe.violations(), [""; 0], "of interpreter {}", probe.id());
        let left = lost.iter().filter(|id| **id == probe.id()).count();
        assert_eq!(probe.thread_states(), left, "thread states of interpreter {}", probe.id());
    }
    assert!(REGISTRY.is_empty());
    println!(
        "{counters}: {} interpreters, {} ensures, {} refused, {} daemons lost theirs, {} signals while \
         attached",
        probes.len(),
        ENSURED.load(SeqCst),
        REFUSED.load(SeqCst),
        lost.len(),
        SIGNALS_ATTACHED.load(SeqCst)
    );
}

fn make(number: usize) -> (Arc<Target>, Probe) {
    let interpreter = match number % 2 {
        0 => Interpreter::switching_every(Duration::from_micros(50)),
        _ => Interpreter::lockless(),
    };
    let (id, probe) = (interpreter.id(), interpreter.probe());
    let native = interpreter.enter();
    let object = Object::new(0);
    drop(native);
    interpreter.register(&REGISTRY).expect("room");
    (Arc::new(Target { id, object }), probe)
}

fn worker(seed: u64) {
    let _timer = timer_at_this_thread(Signal::SIGUSR1, Duration::from_micros(50));
    let mut random = Random(seed);
    while !STOP.load(SeqCst) {
        let targets = TARGETS.read().unwrap().clone();
        if !targets.is_empty() {
            visit(&targets, &mut random, 0);
        }
    }
}

/// One level: ensure, touch, perhaps nest, perhaps detach, release.
fn visit(targets: &[Arc<Target>], random: &mut Random, depth: u32) {
    let target = &targets[random.below(targets.len())];
    let attached = match random.below(2) {
        0 => thread_state::ensure_id(&REGISTRY, target.id).ok(),
        _ => REGISTRY.lookup(target.id).ok().and_then(|guard| thread_state::ensure(&guard).ok()),
    };
    let Some(attached) = attached else {
        REFUSED.fetch_add(1, SeqCst);
        std::thread::yield_now();
        return;
    };
    target.object.add(1);
    raise(Signal::SIGUSR1).expect("raise"); // besides the timer's, which come anywhere
    if depth < 3 && random.below(2) == 0 {
        visit(targets, random, depth + 1);
    }
    let another = attached.guard().expect("not a daemon");
    if depth == 0 && random.below(8) == 0 {
        LINGERING.fetch_add(1, SeqCst);
        while !another.is_closing() && !STOP.load(SeqCst) {
            target.object.add(1);
            attached.allow_threads(std::thread::yield_now).expect("guarded");
        }
        LINGERING.fetch_sub(1, SeqCst);
    }
    attached.allow_threads(|| drop(another)).expect("guarded");
    target.object.add(1);
    // Others may want the lock; as a guarded level, this one is still there when they have had it.
    refruntime::checkpoint().expect("guarded");
    if depth == 0 && random.below(4) == 0 {
        DAEMON.set(true);
        attached.set_daemon(true).expect("always possible");
        match attached.allow_threads(std::thread::yield_now) {
            Ok(()) => drop(attached),
            Err(_) => {
                LOST.lock().unwrap().push(target.id);
                drop(attached);
            }
        }
        DAEMON.set(false);
    } else {
        drop(attached);
    }
    ENSURED.fetch_add(1, SeqCst);
}

/// Xorshift: reproducible, and without a lock.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Each takes its next guard before it gives up the last one: there is no moment without one, until they are refused.
fn overlapping_guards() {
    for _ in 0..100 {
        let id = Interpreter::locking().register(&REGISTRY).expect("room");
        let barrier = std::sync::Barrier::new(5);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut guard = REGISTRY.lookup(id).expect("live");
                    barrier.wait();
                    while let Ok(next) = REGISTRY.lookup(id) {
                        hold(Duration::from_micros(500));
                        guard = next;
                    }
                    drop(guard);
                });
            }
            barrier.wait();
            match REGISTRY.close(id).expect("live").drain(None) {
                Ok(interpreter) => drop(interpreter),
                Err(DrainError::Timeout(_)) => unreachable!("there is no deadline"),
                Err(error) => panic!("{error}"),
            }
        });
    }
}

/// Keeps busy, as work does.
fn hold(time: Duration) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}
