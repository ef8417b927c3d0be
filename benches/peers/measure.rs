//! Interleaved rounds: every candidate runs for a moment in every round, next to the floor of that round.
//!
//! Neighbours take their share of a core: on a virtual machine, whoever has the core's other hardware thread halves its
//! throughput, which a chain of locked adds hardly feels and everything else does. So a round begins and ends with a
//! yardstick of pure arithmetic, and rounds in which it was slow do not count.

use super::clock::{thread_cpu_ns, yardstick};
use super::floors::{Sequences, two_locked_adds};
use super::row::Row;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// How often as many rounds again may be measured while too few were undisturbed.
    pub attempts: usize,
    /// CPU time of one candidate's turn in one round, in nanoseconds.
    pub turn_ns: f64,
}

/// A candidate doing one thing: `run(thread, n)` does it `n` times on that thread.
pub struct Task<'a> {
    pub name: &'static str,
    pub kind: &'static str,
    pub run: Box<dyn Fn(usize, u64) + Sync + 'a>,
}

pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// What a series comes to, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Summary {
    pub ns: f64,
    /// Half of the series lies between them. `None` where `ns` is not a median.
    pub quartiles: Option<[f64; 2]>,
}

impl Summary {
    /// Of a median and the quartiles around it.
    pub fn of(values: &mut [f64]) -> Self {
        let ns = median(values);
        Self { ns, quartiles: Some([quantile(values, 0.25), quantile(values, 0.75)]) }
    }

    /// Of a single number.
    pub fn only(ns: f64) -> Self {
        Self { ns, quartiles: None }
    }
}

pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
}

/// A point at which threads meet, spinning while that helps.
struct Meeting {
    threads: usize,
    arrived: AtomicUsize,
}

impl Meeting {
    fn meet(&self) {
        let ticket = self.arrived.fetch_add(1, Ordering::AcqRel);
        let full = (ticket / self.threads + 1) * self.threads;
        let mut spins = 0_u32;
        while self.arrived.load(Ordering::Acquire) < full {
            spins += 1;
            if spins.is_multiple_of(256) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// Measures `tasks` against each other and the floors. Two locked adds are the first row.
pub fn compare(
    case: &str,
    interpreters: usize,
    threads: usize,
    effort: Effort,
    tasks: &[Task<'_>],
) -> Vec<Row> {
    let floor = Task { name: "two locked adds", kind: "floor", run: Box::new(|_, n| two_locked_adds(n)) };
    let sequences = Sequences::new();
    let second = sequences.as_ref().map(|sequences| {
        let run = Box::new(|_, n| sequences.run(n));
        Task { name: "two restartable sequences", kind: "floor", run }
    });
    let tasks: Vec<&Task<'_>> = std::iter::once(&floor).chain(&second).chain(tasks).collect();
    let sizes: Vec<u64> = tasks.iter().map(|task| turn(task, effort)).collect();
    // rounds[round][task], and last the yardstick; each the mean over the threads.
    let mut rounds: Vec<Vec<f64>> = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..effort.attempts {
        rounds.extend(measure(threads, effort.rounds, &tasks, &sizes));
        kept = undisturbed(threads, rounds.iter().map(|round| round[tasks.len()]).collect());
        if kept.len() * 3 >= effort.rounds {
            break;
        }
    }
    let mut ns: Vec<Vec<f64>> =
        (0..tasks.len()).map(|task| kept.iter().map(|&round| rounds[round][task]).collect()).collect();
    let floors = ns[0].clone();
    tasks
        .iter()
        .zip(&mut ns)
        .map(|(task, ns)| {
            let mut ratios: Vec<f64> = ns.iter().zip(&floors).map(|(ns, floor)| ns / floor).collect();
            let Summary { ns, quartiles } = Summary::of(ns);
            Row {
                name: task.name.into(),
                kind: task.kind.into(),
                case: case.into(),
                interpreters,
                threads,
                ns,
                quartiles,
                floor_ratio: median(&mut ratios),
            }
        })
        .collect()
}

/// The rounds, on `threads` threads at once.
fn measure(threads: usize, rounds: usize, tasks: &[&Task<'_>], sizes: &[u64]) -> Vec<Vec<f64>> {
    let meeting = &Meeting { threads, arrived: AtomicUsize::new(0) };
    let timed = |what: &dyn Fn()| {
        let start = thread_cpu_ns();
        what();
        thread_cpu_ns() - start
    };
    let work = |thread: usize| -> Vec<Vec<f64>> {
        let round = |_| {
            meeting.meet();
            let before = timed(&yardstick);
            let mut times = Vec::with_capacity(tasks.len() + 1);
            for (task, &n) in tasks.iter().zip(sizes) {
                meeting.meet();
                times.push(timed(&|| (task.run)(thread, n)) / n as f64);
            }
            times.push(before.max(timed(&yardstick)));
            times
        };
        (0..rounds).map(round).collect()
    };
    let per_thread: Vec<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let mine = work(0);
        let others = others.into_iter().map(|thread| thread.join().expect("a measuring thread"));
        std::iter::once(mine).chain(others).collect()
    });
    let mean = |round: usize, at: usize| {
        per_thread.iter().map(|rounds| rounds[round][at]).sum::<f64>() / threads as f64
    };
    (0..rounds).map(|round| (0..=tasks.len()).map(|at| mean(round, at)).collect()).collect()
}

/// The rounds whose yardstick was within a tenth of the best that this many threads have seen; at least the best tenth.
fn undisturbed(threads: usize, yardsticks: Vec<f64>) -> Vec<usize> {
    static BEST: Mutex<BTreeMap<usize, f64>> = Mutex::new(BTreeMap::new());
    let mut order: Vec<usize> = (0..yardsticks.len()).collect();
    order.sort_by(|&a, &b| yardsticks[a].total_cmp(&yardsticks[b]));
    // Not the very best: a clock that was set back makes one that never was.
    let good = yardsticks[order[order.len() / 20]];
    let mut best = BEST.lock().expect("nobody panics with it");
    let best = best.entry(threads).and_modify(|best| *best = best.min(good)).or_insert(good);
    let within = order.iter().filter(|&&round| yardsticks[round] < *best * 1.1).count();
    order.truncate(within.max(order.len().div_ceil(10)));
    order
}

/// How many operations fill one turn.
fn turn(task: &Task<'_>, effort: Effort) -> u64 {
    let time = |n| {
        let start = thread_cpu_ns();
        (task.run)(0, n);
        thread_cpu_ns() - start
    };
    let mut n = 1_u64;
    loop {
        // The first run may have met pages that nobody had touched, any a processor taken away for a while: the best counts.
        let took = (0..3).map(|_| time(n)).fold(f64::INFINITY, f64::min);
        if took > effort.turn_ns / 4.0 || n >= 1 << 24 {
            return ((n as f64 * effort.turn_ns / took.max(1.0)) as u64).max(1);
        }
        n *= 4;
    }
}
