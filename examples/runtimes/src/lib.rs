//! What the examples of real runtimes have in common: arguments, a pool of threads, a sampler, a table of costs.
//!
//! Nothing in here knows a VM, and nothing of it is needed to use the library.

use interp_guard::{InterpreterId, Registry, thread_state};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::{Pid, alarm};
use std::error::Error;
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Once};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, io, mem, ptr};

/// What each Lua state runs at first: it defines what [`Call`] calls.
pub const LUA: &str = include_str!("script.lua");

/// The same for a JavaScript context.
pub const JAVASCRIPT: &str = include_str!("script.js");

/// The interpreters of each example.
pub const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// What an orderly end may take before it counts as a failure.
const DEADLINE: Duration = Duration::from_secs(30);

/// When a process that has not ended counts as hanging, in seconds.
const HANGS: u32 = 60;

/// What one run of a program is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Everything, with costs and samples.
    Show,
    /// Only to end under fire: one of the processes of `--ends`.
    End,
}

/// Runs `program` once. With `--ends N`, in N processes, one after the other.
pub fn main(program: fn(Run) -> Result<(), Box<dyn Error>>) -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ran = match arguments[..] {
        [] => program(Run::Show),
        ["--one-end"] => {
            alarm::set(HANGS); // by default it ends the process
            program(Run::End)
        }
        ["--ends", count] => count.parse().map_err(Into::into).and_then(ends),
        _ => Err("usage: [--ends N]".into()),
    };
    if let Err(why) = ran {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn ends(count: u32) -> Result<(), Box<dyn Error>> {
    let mut hang = 0;
    for number in 0..count {
        let status = Command::new(env::current_exe()?).arg("--one-end").stdout(Stdio::null()).status()?;
        match status.signal() {
            Some(libc::SIGALRM) => hang += 1,
            _ if status.success() => {}
            _ => return Err(format!("end {number}: {status}").into()),
        }
    }
    println!("{} ended, {hang} hang", count - hang);
    if hang == 0 { Ok(()) } else { Err("some hang".into()) }
}

/// Has this process get SIGUSR1.
fn signal() {
    kill(Pid::this(), Signal::SIGUSR1).expect("it may signal itself");
}

/// Prints what one call of `f` takes: the best of five rounds.
pub fn cost<R>(what: &str, mut f: impl FnMut() -> R) {
    const TURNS: u32 = 5_000;
    static HEAD: Once = Once::new();
    HEAD.call_once(|| println!("one call, with nobody else about, best of five rounds of {TURNS}:"));
    let mut round = || {
        let began = Instant::now();
        (0..TURNS).for_each(|_| drop(black_box(f())));
        began.elapsed()
    };
    let best = (0..5).map(|_| round()).min().expect("five");
    println!("  {what:<55} {:>8.1} ns", best.as_secs_f64() * 1e9 / f64::from(TURNS));
}

// ---- the life and the end of an example's interpreters ----

/// Calls a script function by its name, in an interpreter, from any thread, and returns what it returned. Or says why the
/// interpreter, which is ending, lets nobody in. The scripts have
///
/// - `job`, which counts how often it was called,
/// - `signal`, which the pending call of SIGUSR1 calls, and `signals`, which says how often it did.
pub type Call = fn(InterpreterId, &'static str) -> Result<u64, String>;

/// A pool of threads calls the interpreters, a signal's pending call runs in `signalled`, a sampler looks on. Then all
/// of them end in the midst of it.
///
/// # Errors
/// An interpreter did not end within [`DEADLINE`]; or the system refused something.
///
/// # Panics
/// If a script ran in another interpreter than its own, or a call was lost.
pub fn live_and_end<T: Send + Sync + 'static>(
    registry: &'static Registry<T>,
    ids: &[InterpreterId],
    signalled: InterpreterId,
    call: Call,
    run: Run,
) -> Result<(), Box<dyn Error>> {
    let sampler = Sampler::start()?;
    let pool = Pool::start(ids, call)?;
    signal();
    pool.until(|| call(signalled, "signals").expect("live") > 0);
    for (name, &id) in NAMES.iter().zip(ids) {
        let signals = call(id, "signals")?;
        println!("{name}: its signal() ran {signals} times");
        assert_eq!(signals > 0, id == signalled);
    }
    if run == Run::Show {
        pool.until(|| sampler.saw(ids));
        sampler.report(ids);
    }

    // The pool goes on calling, and signals and samples go on coming.
    let fire = Fire::start()?;
    for (id, outcome) in registry.finalize_all(Some(DEADLINE)) {
        drop(outcome?); // the interpreter, which nobody else has
        println!("interpreter {id} has ended");
    }
    pool.join();
    drop(fire);
    Ok(())
}

/// A thread forgets a guard. The interpreter cannot be finalized, and the report says who keeps it.
///
/// # Errors
/// The interpreter is not there; or the system gives no thread.
///
/// # Panics
/// If it was finalized.
pub fn leak<T: Send + Sync + 'static>(
    registry: &'static Registry<T>,
    id: InterpreterId,
) -> Result<(), Box<dyn Error>> {
    let forgetful = Builder::new().name("forgetful".into());
    forgetful.spawn(move || registry.lookup(id).map(mem::forget))?.join().expect("no panic")?;
    let report = registry.finalize(id, Some(Duration::from_millis(100))).err().expect("a guard is out");
    println!("a guard was forgotten: {report}");
    Ok(())
}

// ---- a pool of threads that knows interpreters only by their IDs ----

/// What a thread of the pool did in one interpreter.
struct Worked {
    id: InterpreterId,
    calls: u64,
    /// What the last call returned.
    last: u64,
    refused: Option<String>,
}

/// Threads that call every interpreter in turn, until the last one refuses.
struct Pool {
    threads: Vec<JoinHandle<Vec<Worked>>>,
    rounds: Receiver<()>,
}

impl Pool {
    /// Starts it, and returns when each thread has called each interpreter.
    fn start(ids: &[InterpreterId], call: Call) -> io::Result<Self> {
        let (begun, all_begun) = sync_channel(4);
        let (tell, rounds) = sync_channel(1);
        let mut threads = Vec::new();
        for number in 0..4 {
            let (begun, tell) = (begun.clone(), tell.clone());
            let worked = ids.iter().map(|&id| Worked { id, calls: 0, last: 0, refused: None }).collect();
            let named = Builder::new().name(format!("pool-{number}"));
            threads.push(named.spawn(move || work(worked, call, &begun, &tell))?);
        }
        drop(begun);
        for _ in 0..threads.len() {
            all_begun.recv().expect("each says so, or has panicked");
        }
        Ok(Self { threads, rounds })
    }

    /// Waits, while the pool works, until `condition` holds.
    fn until(&self, mut condition: impl FnMut() -> bool) {
        while !condition() {
            self.rounds.recv().expect("the pool works");
        }
    }

    /// Waits for the threads, which end by themselves, and says what they did.
    ///
    /// # Panics
    /// If a call was lost or ran twice.
    fn join(self) {
        let threads = self.threads.into_iter().map(|thread| thread.join().expect("no panic"));
        let threads: Vec<_> = threads.collect();
        for (at, name) in NAMES.iter().enumerate() {
            let here = || threads.iter().map(|worked| &worked[at]);
            let calls: u64 = here().map(|worked| worked.calls).sum();
            assert_eq!(
                Some(calls),
                here().map(|worked| worked.last).max(),
                "calls of {name}, and what it counted"
            );
            let refused = here().find_map(|worked| worked.refused.as_ref()).expect("it ended");
            println!("{name}: {calls} calls of {} threads, then: {refused}", threads.len());
        }
    }
}

fn work(mut worked: Vec<Worked>, call: Call, begun: &SyncSender<()>, tell: &SyncSender<()>) -> Vec<Worked> {
    for round in 0_u64.. {
        if worked.iter().all(|worked| worked.refused.is_some()) {
            break;
        }
        for here in worked.iter_mut().filter(|worked| worked.refused.is_none()) {
            match call(here.id, "job") {
                Ok(count) => (here.calls, here.last) = (here.calls + 1, count),
                Err(why) => here.refused = Some(why),
            }
        }
        if round == 0 {
            let _ = begun.send(());
        }
        let _ = tell.try_send(()); // somebody waits, or was told already
    }
    worked
}

/// SIGUSR1 to this process, again and again, until it is dropped.
struct Fire {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fire {
    /// Starts it.
    fn start() -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let fire = move || {
            // Relaxed, as below: it tells nothing else.
            while !seen.load(Ordering::Relaxed) {
                signal();
                std::thread::yield_now();
            }
        };
        Ok(Self { over, thread: Some(Builder::new().name("fire".into()).spawn(fire)?) })
    }
}

impl Drop for Fire {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

// ---- a sampler: SIGPROF by the CPU time of the process, tagged by the interpreter that the thread is in ----

/// By ID; the last place is of threads that are in none. A handler may not allocate.
static SAMPLES: [AtomicU64; 17] = [const { AtomicU64::new(0) }; 17];

/// Async-signal-safe: `current_id` is, and the rest is atomic. Relaxed, here and where it is read: statistics.
extern "C" fn sample(_: libc::c_int) {
    let none = SAMPLES.len() - 1;
    let at = thread_state::current_id().map_or(none, place);
    if let Some(place) = SAMPLES.get(at) {
        place.fetch_add(1, Ordering::Relaxed);
    }
}

/// The examples have IDs from 0 on; another would be out of range, and is not counted.
fn place(id: InterpreterId) -> usize {
    usize::try_from(i64::from(id)).unwrap_or(usize::MAX)
}

/// A profiler's timer, until it is dropped.
struct Sampler(());

impl Sampler {
    /// Starts it: a sample in each millisecond of CPU time, or as often as the kernel looks.
    fn start() -> io::Result<Self> {
        let action = SigAction::new(SigHandler::Handler(sample), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler does only what is async-signal-safe.
        unsafe { sigaction(Signal::SIGPROF, &action) }?;
        Self::set(1_000)?;
        Ok(Self(()))
    }

    fn set(micros: i64) -> io::Result<()> {
        let period = libc::timeval { tv_sec: 0, tv_usec: micros };
        let timer = libc::itimerval { it_interval: period, it_value: period };
        // SAFETY: it reads `timer`, and writes nowhere.
        match unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Have fifty samples been taken, and one of each interpreter?
    fn saw(&self, ids: &[InterpreterId]) -> bool {
        let taken: u64 = SAMPLES.iter().map(|place| place.load(Ordering::Relaxed)).sum();
        taken >= 50 && ids.iter().all(|&id| SAMPLES[place(id)].load(Ordering::Relaxed) > 0)
    }

    /// Prints the samples of each interpreter.
    fn report(&self, ids: &[InterpreterId]) {
        let count = |at: usize| SAMPLES[at].load(Ordering::Relaxed);
        let by_name: Vec<_> =
            NAMES.iter().zip(ids).map(|(name, &id)| format!("{name} {}", count(place(id)))).collect();
        println!("samples: {}, in none {}", by_name.join(", "), count(SAMPLES.len() - 1));
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let _ = Self::set(0); // a timer that was set can be unset
    }
}
