//! What is counted and measured, by handlers too: static, atomic, spread over the threads' own lines.

use hdrhistogram::Histogram;
use interp_guard::LookupError;
use interp_guard::signal::Counts;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Everything that must never happen. See the README for what each means.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Violation {
    DeadCanary,
    WrongId,
    LiveNotFound,
    LiveFinalizing,
    ClosingNotFound,
    GuardAfterClose,
    GoneFinalizing,
    GuardOfNobody,
    GuardOutAfterFinalize,
    DrainFailed,
    ErrnoChanged,
    PendingLost,
    Leak,
    TwoInside,
    WrongThread,
    Refused,
}

pub const VIOLATIONS: [&str; 16] = [
    "a guard's canary was dead or another's",
    "a guard had another ID than the one looked up",
    "a live interpreter was not found",
    "a live interpreter was said to be finalizing",
    "a closing interpreter was not found",
    "a guard was obtained after close had returned",
    "a finalized interpreter was said to be finalizing",
    "a guard was obtained of an ID that nobody has",
    "finalize returned with a guard out",
    "a drain did not end, or was refused",
    "a lookup changed errno",
    "a pending call was lost, or ran twice",
    "something was left over at the end",
    "two threads had a VM at a time",
    "a VM was on another thread than its own",
    "a VM was refused for a reason that there was not",
];

const BUCKETS: usize = 64 * SUB;
/// Buckets per power of two: values are kept to within 1/16.
const SUB: usize = 16;

/// One thread's counts. Handlers of that thread, nested ones too, add to the same ones.
#[repr(align(128))]
struct Thread {
    random: AtomicU64,
    counts: [AtomicU64; COUNTS],
    lookup: [AtomicU64; BUCKETS],
}

const THREADS: usize = 256;
const COUNTS: usize = 10;
#[derive(Clone, Copy)]
enum Count {
    Signals,
    Nested,
    Hits,
    Finalizing,
    NotFound,
    Registered,
    Finalized,
    Pushed,
    HandedBack,
    PendingRun,
}

static TALLY: [Thread; THREADS] = [const {
    Thread {
        random: AtomicU64::new(0),
        counts: [const { AtomicU64::new(0) }; COUNTS],
        lookup: [const { AtomicU64::new(0) }; BUCKETS],
    }
}; THREADS];
static DRAIN: [AtomicU64; BUCKETS] = [const { AtomicU64::new(0) }; BUCKETS];
static VIOLATED: [AtomicU64; VIOLATIONS.len()] = [const { AtomicU64::new(0) }; VIOLATIONS.len()];
static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Constant initialiser and no destructor: a plain thread-local of this executable, safe to read in a handler.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// Gives the calling thread lines of its own. Place 0 is for all others.
pub fn enroll(seed: u64) {
    let place = NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % (THREADS - 1) + 1;
    TALLY[place].random.store(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place as u64, Ordering::Relaxed);
    PLACE.set(place);
}

fn mine() -> &'static Thread {
    // `PLACE` is always below THREADS; place 0 serves if it were not.
    TALLY.get(PLACE.get()).unwrap_or(&TALLY[0])
}

fn add(count: Count, by: u64) {
    if let Some(count) = mine().counts.get(count as usize) {
        count.fetch_add(by, Ordering::Relaxed);
    }
}

/// A SIGUSR1 was delivered. Async-signal-safe, as all of these.
pub fn signal() {
    add(Count::Signals, 1);
}

pub fn nested_signal() {
    add(Count::Nested, 1);
}

pub fn registered(by: u64) {
    add(Count::Registered, by);
}

pub fn finalized(by: u64) {
    add(Count::Finalized, by);
}

/// A pending call was left, or handed back since the queue was full.
pub fn pushed(accepted: bool) {
    add(if accepted { Count::Pushed } else { Count::HandedBack }, 1);
}

/// What handlers that the library installed have looked up and left.
pub fn left_by_handlers(counts: Counts) {
    add(Count::Hits, counts.left + counts.full);
    add(Count::Finalizing, counts.finalizing);
    add(Count::NotFound, counts.not_found);
    add(Count::Pushed, counts.left);
    add(Count::HandedBack, counts.full);
}

pub fn pending_run() {
    add(Count::PendingRun, 1);
}

/// Where a lookup is made.
#[derive(Clone, Copy)]
pub enum Context {
    Handler,
    Normal,
}

/// A lookup that began at `began` has answered. Its latency is kept if it was made in a handler; elsewhere whole handlers
/// come in between.
pub fn lookup<G>(context: Context, began: u64, answer: &Result<G, LookupError>) {
    let took = now().wrapping_sub(began);
    if let (Context::Handler, Some(bucket)) = (context, mine().lookup.get(bucket(took))) {
        bucket.fetch_add(1, Ordering::Relaxed);
    }
    add(
        match answer {
            Ok(_) => Count::Hits,
            Err(LookupError::Finalizing) => Count::Finalizing,
            Err(LookupError::NotFound) => Count::NotFound,
        },
        1,
    );
}

pub fn drained(took: Duration) {
    if let Some(bucket) = DRAIN.get(bucket(took.as_nanos() as u64)) {
        bucket.fetch_add(1, Ordering::Relaxed);
    }
}

pub fn violation(what: Violation) {
    if let Some(count) = VIOLATED.get(what as usize) {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

pub fn check(holds: bool, what: Violation) {
    if !holds {
        violation(what);
    }
}

/// The next number of the calling thread's own sequence (xorshift64*). Nested handlers only shuffle it further.
pub fn random() -> u64 {
    let state = &mine().random;
    let mut x = state.load(Ordering::Relaxed) | 1;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    state.store(x, Ordering::Relaxed);
    x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
}

/// The processor's clock: cheap enough to time one lookup in a handler.
#[cfg(target_arch = "x86_64")]
pub fn now() -> u64 {
    // SAFETY: every x86-64 has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The processor's clock, of which a tick may be as long as a lookup or longer.
#[cfg(target_arch = "aarch64")]
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: Linux lets every program read it.
    unsafe {
        core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags))
    };
    ticks
}

/// The clock's ticks against the wall clock, over the whole run.
pub struct Clock(Instant, u64);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now(), now())
    }
    /// Nanoseconds per tick.
    pub fn stop(self) -> f64 {
        self.0.elapsed().as_nanos() as f64 / now().wrapping_sub(self.1).max(1) as f64
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros() as usize;
    (exponent - 3) * SUB + ((value >> (exponent - 4)) as usize & (SUB - 1))
}

/// The middle of a bucket.
fn value(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let exponent = bucket / SUB + 3;
    ((SUB + bucket % SUB) as u64) << (exponent - 4)
}

/// p50, p99 and the largest, in nanoseconds.
#[derive(Clone, Copy, Default)]
pub struct Quantiles {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

fn quantiles(buckets: impl Iterator<Item = u64>, unit: f64) -> Quantiles {
    let Ok(mut histogram) = Histogram::<u64>::new(3) else { return Quantiles::default() };
    for (index, count) in buckets.enumerate().filter(|&(_, count)| count > 0) {
        let _ = histogram.record_n(value(index), count); // grows as it must
    }
    let nanoseconds = |value: u64| (value as f64 * unit).round() as u64;
    let at = |quantile| nanoseconds(histogram.value_at_quantile(quantile));
    Quantiles { p50: at(0.5), p99: at(0.99), max: nanoseconds(histogram.max()) }
}

fn sum(count: Count) -> u64 {
    TALLY
        .iter()
        .filter_map(|thread| thread.counts.get(count as usize))
        .map(|count| count.load(Ordering::SeqCst))
        .sum()
}

/// Everything counted so far.
pub struct Totals {
    pub signals: u64,
    pub nested_signals: u64,
    pub hits: u64,
    pub finalizing: u64,
    pub not_found: u64,
    pub registered: u64,
    pub finalized: u64,
    pub pushed: u64,
    pub handed_back: u64,
    pub pending_run: u64,
    pub violations: [u64; VIOLATIONS.len()],
}

pub fn totals() -> Totals {
    Totals {
        signals: sum(Count::Signals),
        nested_signals: sum(Count::Nested),
        hits: sum(Count::Hits),
        finalizing: sum(Count::Finalizing),
        not_found: sum(Count::NotFound),
        registered: sum(Count::Registered),
        finalized: sum(Count::Finalized),
        pushed: sum(Count::Pushed),
        handed_back: sum(Count::HandedBack),
        pending_run: sum(Count::PendingRun),
        violations: std::array::from_fn(|index| VIOLATED[index].load(Ordering::SeqCst)),
    }
}

/// Latencies of lookups in handlers, in nanoseconds, given the length of a tick.
pub fn lookup_quantiles(ns_per_tick: f64) -> Quantiles {
    let sums = (0..BUCKETS)
        .map(|bucket| TALLY.iter().map(|thread| thread.lookup[bucket].load(Ordering::SeqCst)).sum());
    quantiles(sums, ns_per_tick)
}

/// Latencies of drains, in nanoseconds.
pub fn drain_quantiles() -> Quantiles {
    quantiles(DRAIN.iter().map(|count| count.load(Ordering::SeqCst)), 1.0)
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, bucket, value};

    #[test]
    fn every_value_falls_into_a_bucket_within_a_sixteenth_of_it() {
        for shift in 0..64_u32 {
            for offset in [0_u64, 1, 3] {
                let v = (1_u64 << shift).saturating_add(offset << shift.max(6).saturating_sub(6));
                let index = bucket(v);
                assert!(index < BUCKETS, "{v}");
                let middle = value(index);
                assert!(middle <= v && v - middle <= v / 16, "{v} fell to {middle}");
            }
        }
    }
}
