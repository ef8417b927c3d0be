//! What an ensure and its release cost on top of the runtime's own: nested, re-attached, fresh; and how long a finalizer
//! waits for guards that overlap without end.
//!
//! `cargo bench --bench thread_state`. Each row is measured against the reference runtime's own operation in the same run,
//! in turns; the median of the rounds counts.

mod support;

use interp_guard::{Counters, Registry, thread_state};
use refruntime::Interpreter;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{median, modes};

const ROUNDS: usize = 31;
const TURNS: u32 = 20_000;

fn main() {
    for counters in modes() {
        println!("{counters}: ensure + release, ns");
        for (kind, new) in
            [("lock", Interpreter::locking as fn() -> Interpreter), ("no lock", Interpreter::lockless)]
        {
            rows(counters, kind, new);
        }
        starvation(counters);
    }
}

fn rows(counters: Counters, kind: &str, new: fn() -> Interpreter) {
    let registry = Registry::new().counters(counters);
    let id = new().register(&registry).expect("room");
    let guard = registry.lookup(id).expect("live");

    let native = guard.enter();
    let nested = || drop(black_box(thread_state::ensure(&guard)));
    report(kind, "nested, natively attached", || drop(black_box(guard.ensure())), nested);
    let by_id = || drop(black_box(thread_state::ensure_id(&registry, id)));
    report(kind, "the same, by ID", || drop(black_box(guard.ensure())), by_id);
    let outer = thread_state::ensure(&guard).expect("live");
    let nested = || drop(black_box(thread_state::ensure(&guard)));
    report(kind, "nested in an ensure", || drop(black_box(guard.ensure())), nested);
    drop(outer);

    native.state().remember();
    native.detached(|| {
        let again = || drop(black_box(thread_state::ensure(&guard)));
        report(kind, "re-attached", || drop(black_box(guard.ensure())), again);
    });
    drop(native);

    let fresh = || drop(black_box(thread_state::ensure(&guard)));
    report(kind, "fresh", || drop(black_box(guard.ensure())), fresh);
}

/// Prints the runtime's own operation, ours, and the ratios.
fn report(kind: &str, what: &str, own: impl Fn(), ours: impl Fn()) {
    let (mut theirs, mut with_guard) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(time(&own));
        with_guard.push(time(&ours));
    }
    let (own, ours) = (median(theirs), median(with_guard));
    println!(
        "  {kind:8} {what:26} runtime's own {own:6.1}   with a guard {ours:6.1}   ratio {:.2}   added cost {:.2}",
        ours / own,
        (ours - own) / own
    );
}

fn time(operation: &impl Fn()) -> f64 {
    let begun = Instant::now();
    for _ in 0..TURNS {
        operation();
    }
    begun.elapsed().as_nanos() as f64 / f64::from(TURNS)
}

/// Four threads, each taking its next guard before it gives up the last: finalize's time after close, against the
/// longest that any single guard was held.
fn starvation(counters: Counters) {
    const HOLD: Duration = Duration::from_micros(500);
    let registry = Registry::new().counters(counters);
    let mut ratios = Vec::new();
    for _ in 0..100 {
        let id = Interpreter::locking().register(&registry).expect("room");
        let barrier = Barrier::new(5);
        let longest = AtomicU64::new(0);
        let mut after_close = Duration::ZERO;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut guard = (registry.lookup(id).expect("live"), Instant::now());
                    barrier.wait();
                    loop {
                        let half = Instant::now();
                        while half.elapsed() < HOLD / 2 {
                            std::thread::yield_now(); // four threads may have fewer CPUs
                        }
                        let next = registry.lookup(id);
                        while half.elapsed() < HOLD {
                            std::thread::yield_now();
                        }
                        drop(guard.0);
                        longest.fetch_max(guard.1.elapsed().as_nanos() as u64, Ordering::Relaxed);
                        match next {
                            Ok(next) => guard = (next, half),
                            Err(_) => break,
                        }
                    }
                });
            }
            barrier.wait();
            let closing = registry.close(id).expect("live");
            let closed = Instant::now();
            drop(closing.drain(None).expect("drained"));
            after_close = closed.elapsed();
        });
        ratios.push(after_close.as_nanos() as f64 / longest.into_inner() as f64);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{counters}: finalize after close / longest single hold, 4 threads, 100 rounds: median {:.2}, max {:.2}",
        ratios[50], ratios[99]
    );
}
