//! The two races that decide whether a guard is ever missed, made as likely as a test can make them.
//!
//! Each has a broken twin, built in release by `tests/broken_twins.rs`, that fails here.
#![allow(missing_docs)]

use interp_guard::{Counters, DrainError, InterpreterId, Registry, platform};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A drain that takes this long was never woken.
const FAILURE_DEADLINE: Option<Duration> = Some(Duration::from_secs(30));

/// In a debug build a fifth of them: its own instructions take up most of a race's window anyway.
const ROUNDS: u64 = if cfg!(debug_assertions) { 2_000 } else { 10_000 };

/// Of each outcome; a machine that runs the two sides one after the other most of the time has to go on until then.
const AT_LEAST: u64 = 100;

/// The tests one at a time: neither is a race where the other's threads keep one side from running.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a side says instead of a round, when there are no more.
const OVER: u64 = u64::MAX;

/// Every way of counting that this machine has.
fn modes() -> impl Iterator<Item = Counters> {
    let per_cpu = platform::missing_for_per_cpu().is_none().then_some(Counters::PerCpu);
    per_cpu.into_iter().chain([Counters::Shared])
}

/// The first and the last CPU that this process may use; `None` where that is the same one.
fn two_cpus() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap());
    Some([cpus.next()?, cpus.next_back()?])
}

fn pin_to(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

/// Waits until `word` has come to `value`. Says whether that came while awake, within what the other side takes if it runs.
fn meet(word: &AtomicU64, value: u64) -> bool {
    let mut turns = 0_u32;
    while word.load(Ordering::Acquire) < value {
        turns += 1;
        match turns % 4096 {
            0 => thread::yield_now(),
            _ => std::hint::spin_loop(),
        }
    }
    turns < 4096
}

/// Some nanoseconds.
fn wait(turns: u64) {
    (0..turns).for_each(|turn| _ = black_box(turn));
}

/// A word on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// However a side ends, the other one waits for no more rounds.
struct OverInTheEnd<'l, const LINES: usize>([&'l Line; LINES]);

impl<const LINES: usize> Drop for OverInTheEnd<'_, LINES> {
    fn drop(&mut self) {
        self.0.iter().for_each(|line| line.0.store(OVER, Ordering::Release));
    }
}

/// Stores to lines that no cache has. Stores leave a CPU in order, so these keep what is stored next in the CPU's store
/// buffer for as long as memory takes, unseen by the other CPU unless a fence brings it out.
#[derive(Default)]
struct SlowStores([Line; 32]);

impl SlowStores {
    fn prepare(&self) {
        for line in &self.0 {
            // SAFETY: flushing a line that is there loses nothing.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                std::arch::x86_64::_mm_clflush(std::ptr::from_ref(line).cast())
            };
            // SAFETY: as above; Linux lets every program do it.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                std::arch::asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags))
            };
        }
        fence(Ordering::SeqCst);
    }

    fn begin(&self, count: u64) {
        for line in self.0.iter().take(count as usize) {
            line.0.store(1, Ordering::Relaxed);
        }
    }
}

/// What came of the rounds of one race.
#[derive(Debug, Default)]
struct Outcome {
    /// Lookups that came before the close.
    guarded: u64,
    /// Lookups that came after it.
    refused: u64,
    /// Guards under which the finalizer returned.
    missed: u64,
}

/// Close against lookup, store against load: an acquire that still saw the interpreter live (A4) must be in the sums of
/// the finalizer (D2), although nothing on its own side makes the increment (A2) visible.
#[test]
fn a_guard_taken_as_the_interpreter_closes_is_waited_for() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some([readers_cpu, finalizers_cpu]) = two_cpus() else {
        return println!("one CPU sees its own stores in order: there is no such race here");
    };
    for mode in modes() {
        // Where the memory happens to lie makes the race likelier or not: several tables.
        for _ in 0..6 {
            let outcome = close_against_lookup(mode, readers_cpu, finalizers_cpu);
            assert_eq!(outcome.missed, 0, "{mode}: finalized with a guard out: {outcome:?}");
            assert!(
                outcome.guarded.min(outcome.refused) >= AT_LEAST,
                "{mode}: there was no race: {outcome:?}"
            );
        }
    }
}

fn id_of(round: u64) -> InterpreterId {
    InterpreterId::try_from(round as i64).unwrap()
}

fn close_against_lookup(mode: Counters, readers_cpu: usize, finalizers_cpu: usize) -> Outcome {
    let registry = &Registry::with_capacity(1).counters(mode);
    let [asked, answered, lookup_waits, looked, guarded, returned] = &<[Line; 6]>::default();
    thread::scope(|scope| {
        let finalizer = scope.spawn(move || {
            let _over = OverInTheEnd([asked]);
            pin_to(finalizers_cpu);
            // How much longer than the lookup the close waits: steered to where both outcomes are as likely.
            let mut delay = 100_i64;
            for round in 1.. {
                let id = id_of(round);
                registry.register_with_id(id, round).unwrap();
                lookup_waits.0.store((-delay).max(0) as u64, Ordering::Relaxed);
                asked.0.store(round, Ordering::Release);
                let both_run = meet(&answered.0, round);
                if answered.0.load(Ordering::Acquire) == OVER {
                    break;
                }
                wait(delay.max(0) as u64 + round % 128);
                registry.finalize(id, FAILURE_DEADLINE).map_err(|error| error.to_string())?;
                returned.0.store(round, Ordering::SeqCst);
                meet(&looked.0, round);
                if both_run {
                    delay += if guarded.0.load(Ordering::Relaxed) == round { -1 } else { 1 };
                }
            }
            Ok::<_, String>(())
        });
        let reader = scope.spawn(move || {
            let _over = OverInTheEnd([answered, looked]);
            pin_to(readers_cpu);
            let (mut outcome, slow_stores) = (Outcome::default(), SlowStores::default());
            for round in 1.. {
                slow_stores.prepare();
                meet(&asked.0, round);
                if asked.0.load(Ordering::Acquire) == OVER {
                    break;
                }
                let raced = outcome.guarded.min(outcome.refused) >= AT_LEAST;
                if round > ROUNDS && (raced || round > 10 * ROUNDS) {
                    break;
                }
                answered.0.store(round, Ordering::Release);
                // The answer takes that long to arrive, and some of `finalize` comes before its C1.
                wait(300 + lookup_waits.0.load(Ordering::Relaxed));
                slow_stores.begin(round % 33);
                let id = id_of(round);
                if let Ok(guard) = registry.lookup(id) {
                    // Long enough for a finalizer that missed it to come back. The interpreter may be gone then: it is
                    // not touched.
                    (0..300).for_each(|_| std::hint::spin_loop());
                    outcome.missed += u64::from(returned.0.load(Ordering::SeqCst) == round);
                    outcome.guarded += 1;
                    guarded.0.store(round, Ordering::Relaxed);
                    drop(guard);
                } else {
                    outcome.refused += 1;
                }
                looked.0.store(round, Ordering::Release);
            }
            outcome
        });
        let outcome = reader.join().unwrap();
        finalizer.join().unwrap().expect("the last drop wakes the finalizer, who finds the sums equal");
        outcome
    })
}

/// Two guards, each handed on without end by clone and drop, from any CPU to any other: whoever sums sees both of them,
/// or what was there before them and after them too, but never fewer.
#[test]
fn a_guard_handed_on_is_never_missed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for mode in modes() {
        let registry = &Registry::new().counters(mode);
        let id = registry.register("an interpreter").unwrap();
        let guards = [(); 2].map(|()| registry.lookup(id).unwrap());
        let mut closing = registry.close(id).unwrap();
        let stop = &AtomicBool::new(false);
        let unexpected = thread::scope(|scope| {
            for mut guard in guards {
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        guard = guard.clone();
                    }
                });
            }
            let mut unexpected = None;
            for _ in 0..1_000 {
                match closing.drain(Some(Duration::ZERO)) {
                    Err(DrainError::Timeout(timeout)) if timeout.outstanding() >= 2 => {
                        closing = timeout.into_closing();
                    }
                    outcome => {
                        unexpected = Some(format!("{outcome:?}"));
                        break;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            unexpected
        });
        assert_eq!(unexpected, None, "{mode}: two guards were out");
        assert_eq!(registry.finalize(id, Some(Duration::ZERO)).unwrap(), "an interpreter");
    }
}
