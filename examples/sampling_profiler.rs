//! A sampling profiler: a timer on the thread's CPU clock, whose handler tags each sample with the interpreter that the
//! thread is in.
//!
//! `cargo run --example sampling_profiler`

use interp_guard::{InterpreterId, Registry, thread_state};
use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use refruntime::{Interpreter, Object};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

static INTERPRETERS: Registry<Interpreter> = Registry::new();

/// A sample is an interpreter's ID, or -1 for none. Handlers may not allocate: a fixed number of places.
static SAMPLES: [AtomicI64; 4096] = [const { AtomicI64::new(-1) }; 4096];
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Async-signal-safe: `current_id` is, and the rest is atomic.
extern "C" fn sample(_: libc::c_int) {
    let at = TAKEN.fetch_add(1, Ordering::Relaxed);
    if let Some(place) = SAMPLES.get(at) {
        place.store(thread_state::current_id().map_or(-1, i64::from), Ordering::Relaxed);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let action = SigAction::new(SigHandler::Handler(sample), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does only what is async-signal-safe.
    unsafe { sigaction(Signal::SIGPROF, &action) }?;
    let notify = SigevNotify::SigevThreadId {
        signal: Signal::SIGPROF,
        thread_id: nix::unistd::gettid().as_raw(),
        si_value: 0,
    };
    let mut timer = Timer::new(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID, SigEvent::new(notify))?;
    let period = TimeSpec::from_duration(Duration::from_millis(1));
    timer.set(Expiration::Interval(period), TimerSetTimeFlags::empty())?;

    let main = Interpreter::locking().register(&INTERPRETERS)?;
    let sub = Interpreter::locking().register(&INTERPRETERS)?;
    let attached = thread_state::ensure_id(&INTERPRETERS, main)?;
    work(30); // in main
    let inner = thread_state::ensure_id(&INTERPRETERS, sub)?;
    work(60); // in sub, called from main
    drop(inner);
    attached.allow_threads(|| wait_for(10))?; // in native code, with main let go
    drop(attached);
    drop(timer);

    let taken = TAKEN.load(Ordering::Relaxed).min(SAMPLES.len());
    let count = |tag: Option<InterpreterId>| {
        let tag = tag.map_or(-1, i64::from);
        SAMPLES[..taken].iter().filter(|place| place.load(Ordering::Relaxed) == tag).count()
    };
    let (in_main, in_sub, native) = (count(Some(main)), count(Some(sub)), count(None));
    println!("{taken} samples: main {in_main}, sub {in_sub}, native {native}");
    for (_, outcome) in INTERPRETERS.finalize_all(None) {
        outcome?;
    }
    Ok(())
}

/// An interpreter's code, for that many samples.
fn work(samples: usize) {
    let object = Object::new(0);
    let end = TAKEN.load(Ordering::Relaxed) + samples;
    while TAKEN.load(Ordering::Relaxed) < end {
        object.add(1);
    }
}

/// Native code, for that many samples.
fn wait_for(samples: usize) {
    let end = TAKEN.load(Ordering::Relaxed) + samples;
    while TAKEN.load(Ordering::Relaxed) < end {
        std::hint::spin_loop();
    }
}
