//! The other side: finalizing an idle interpreter, and from the last drop to the finalizer running.

use super::clock::{thread_cpu_ns, tick_ns, ticks};
use super::measure::Summary;
use interp_guard::{Counters, InterpreterId, Registry};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

/// A named series.
pub struct Figure {
    pub name: &'static str,
    pub kind: &'static str,
    pub case: &'static str,
    pub interpreters: usize,
    pub times: Summary,
}

const MODES: [(&str, Counters); 2] =
    [("interp-guard/per-cpu", Counters::PerCpu), ("interp-guard/shared", Counters::Shared)];

fn membarrier() {
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    // SAFETY: takes no pointers. The process is registered: a per-CPU registry exists.
    unsafe { libc::syscall(libc::SYS_membarrier, PRIVATE_EXPEDITED, 0, 0) };
}

/// Register and finalize among `live` others, against a bare membarrier and an uncontended mutex pair.
pub fn finalize_idle(rounds: usize, live: usize) -> Vec<Figure> {
    const BATCH: usize = 16;
    let registries = MODES.map(|(name, mode)| {
        let registry: Registry<u64> = Registry::with_capacity(live + BATCH).counters(mode);
        for n in 0..live {
            registry.register(n as u64).expect("there is room");
        }
        (name, registry)
    });
    let mutex = Mutex::new(0_u64);
    let mut bare = Vec::with_capacity(rounds);
    let mut register = [(); 2].map(|()| Vec::with_capacity(rounds));
    let mut finalize = [(); 2].map(|()| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        let start = thread_cpu_ns();
        for _ in 0..BATCH {
            *black_box(&mutex).lock().expect("uncontended") += 1;
            membarrier();
            *black_box(&mutex).lock().expect("uncontended") += 1;
        }
        bare.push((thread_cpu_ns() - start) / BATCH as f64);
        for (at, (_, registry)) in registries.iter().enumerate() {
            let mut ids: [Option<InterpreterId>; BATCH] = [None; BATCH];
            let start = thread_cpu_ns();
            ids.fill_with(|| registry.register(0).ok());
            register[at].push((thread_cpu_ns() - start) / BATCH as f64);
            let start = thread_cpu_ns();
            for id in ids.into_iter().flatten() {
                black_box(registry.finalize(id, None).ok());
            }
            finalize[at].push((thread_cpu_ns() - start) / BATCH as f64);
        }
    }
    let figure = |name, kind, case, times: &mut Vec<f64>| Figure {
        name,
        kind,
        case,
        interpreters: live,
        times: Summary::of(times),
    };
    let mut figures = vec![figure("membarrier and a mutex, twice", "floor", "finalize-idle", &mut bare)];
    for (at, (name, _)) in registries.iter().enumerate() {
        figures.push(figure(name, "ours", "finalize-idle", &mut finalize[at]));
        figures.push(figure(name, "ours", "register", &mut register[at]));
    }
    figures
}

/// A thread that sleeps until something is given up, and says when it ran.
struct Sleeper {
    thread: AtomicU32,
    asleep_soon: AtomicBool,
    ran_at: AtomicU64,
    stop: AtomicBool,
}

impl Sleeper {
    fn new() -> Self {
        Self {
            thread: AtomicU32::new(0),
            asleep_soon: AtomicBool::new(false),
            ran_at: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// On the sleeping thread: `sleep` returns when woken.
    fn run(&self, mut sleep: impl FnMut()) {
        // SAFETY: takes no arguments.
        self.thread.store(unsafe { libc::gettid() } as u32, Ordering::Release);
        loop {
            self.asleep_soon.store(true, Ordering::Release);
            sleep();
            self.ran_at.store(ticks(), Ordering::Release);
            while self.ran_at.load(Ordering::Acquire) != 0 && !self.stop.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            if self.stop.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// On the waking thread: waits until the other sleeps, wakes it, and says how long that took in nanoseconds.
    fn wake(&self, last: bool, wake: impl FnOnce()) -> f64 {
        while !self.asleep_soon.swap(false, Ordering::AcqRel) {
            spin_loop();
        }
        let stat = format!("/proc/self/task/{}/stat", self.thread.load(Ordering::Acquire));
        let sleeps = || {
            let stat = std::fs::read_to_string(&stat).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
        };
        while !sleeps() {
            spin_loop();
        }
        self.stop.store(last, Ordering::Release);
        let start = ticks();
        wake();
        loop {
            let ran_at = self.ran_at.load(Ordering::Acquire);
            if ran_at != 0 {
                self.ran_at.store(0, Ordering::Release);
                return ran_at.saturating_sub(start) as f64 * tick_ns();
            }
            spin_loop();
        }
    }
}

/// From the last drop to the finalizer running, against a bare futex and a condition variable.
pub fn wake(rounds: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    // In turns, so that whatever else the machine does falls on all alike.
    let mut times = [(); 4].map(|()| Vec::new());
    for _ in 0..rounds.div_ceil(50) {
        times[0].extend(futex(50));
        times[1].extend(condvar(50));
        times[2].extend(last_drop(50, Counters::PerCpu));
        times[3].extend(last_drop(50, Counters::Shared));
    }
    let names = [
        ("bare futex", "floor"),
        ("condition variable", "floor"),
        (MODES[0].0, "ours"),
        (MODES[1].0, "ours"),
    ];
    for ((name, kind), times) in names.into_iter().zip(&mut times) {
        figures.push(Figure { name, kind, case: "wake", interpreters: 1, times: Summary::of(times) });
    }
    figures
}

fn last_drop(rounds: usize, mode: Counters) -> Vec<f64> {
    let registry: Registry<u64> = Registry::new().counters(mode);
    let next = Mutex::new(None);
    let sleeper = Sleeper::new();
    let fresh = || {
        let id = registry.register(0).expect("there is room");
        *next.lock().expect("nobody panics") = Some(id);
        registry.lookup(id).expect("live")
    };
    std::thread::scope(|scope| {
        let mut guard = fresh();
        scope.spawn(|| {
            sleeper.run(|| {
                let id = next.lock().expect("nobody panics").take().expect("one for each round");
                registry.finalize(id, None).map(drop).expect("drained");
            });
        });
        (0..rounds)
            .map(|round| {
                let last = round + 1 == rounds;
                // The next one is there before this one's finalizer goes on.
                let mut following = None;
                while next.lock().expect("nobody panics").is_some() {
                    std::thread::yield_now();
                }
                if !last {
                    following = Some(fresh());
                }
                let this =
                    std::mem::replace(&mut guard, following.unwrap_or_else(|| guard_placeholder(&registry)));
                sleeper.wake(last, || drop(this))
            })
            .collect()
    })
}

/// A guard of an interpreter of its own, to hold the place of the next one in the last round.
fn guard_placeholder(registry: &Registry<u64>) -> interp_guard::Guard<'_, u64> {
    registry.lookup(registry.register(0).expect("there is room")).expect("live")
}

fn futex(rounds: usize) -> Vec<f64> {
    let word = AtomicU32::new(0);
    let sleeper = Sleeper::new();
    let call = |operation: libc::c_int, value: u32| {
        // SAFETY: the word outlives the call, and there is no timeout.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                operation | libc::FUTEX_PRIVATE_FLAG,
                value,
                std::ptr::null::<u8>(),
            )
        }
    };
    std::thread::scope(|scope| {
        let sleeper = &sleeper;
        let (word, call) = (&word, &call);
        scope.spawn(move || {
            let mut seen = 0;
            sleeper.run(|| {
                while word.load(Ordering::Acquire) == seen {
                    call(libc::FUTEX_WAIT, seen);
                }
                seen += 1;
            });
        });
        (0..rounds)
            .map(|round| {
                sleeper.wake(round + 1 == rounds, || {
                    word.fetch_add(1, Ordering::AcqRel);
                    call(libc::FUTEX_WAKE, i32::MAX as u32);
                })
            })
            .collect()
    })
}

fn condvar(rounds: usize) -> Vec<f64> {
    let (count, changed) = (Mutex::new(0_usize), Condvar::new());
    let sleeper = Sleeper::new();
    std::thread::scope(|scope| {
        let (count, changed, sleeper) = (&count, &changed, &sleeper);
        scope.spawn(move || {
            let mut seen = 0;
            sleeper.run(|| {
                let mut now = count.lock().expect("nobody panics");
                while *now == seen {
                    now = changed.wait(now).expect("nobody panics");
                }
                seen = *now;
            });
        });
        (0..rounds)
            .map(|round| {
                sleeper.wake(round + 1 == rounds, || {
                    *count.lock().expect("nobody panics") += 1;
                    changed.notify_all();
                })
            })
            .collect()
    })
}
