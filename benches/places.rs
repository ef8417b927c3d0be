//! What it costs that a slot and its counters lie at the same place in their pages: `SLOTS_AT` in `registry/setup.rs`.
//!
//! `cargo bench --bench places`, best on one CPU that nobody else uses (`taskset -c 1`). Many tables, in each the same IDs
//! looked up in turn, each against the median of its table.

mod support;

use interp_guard::{InterpreterId, Registry};
use std::hint::black_box;
use std::time::Instant;
use support::{median, modes};

/// As many memory places.
const TABLES: usize = 400;

/// In a table of 2,048 slots the last three are the first ones whose slot and counters lie at the same place.
const IDS: [i64; 12] = [0, 1, 2, 3, 4, 5, 37, 74, 500, 290, 612, 938];

/// Slower than this, against the table's median, is not chance.
const SLOW: f64 = 1.12;

fn main() {
    for counters in modes() {
        println!(
            "{counters}: tables of {TABLES} in which an ID takes more than {SLOW} of the median, and then how much"
        );
        let ids = IDS.map(|id| InterpreterId::try_from(id).expect("an ID"));
        // All at once, so that each lies somewhere else.
        let registries: Vec<Registry<i64>> = std::iter::repeat_with(|| {
            let registry = Registry::with_capacity(1024).counters(counters);
            for (raw, id) in IDS.into_iter().zip(ids) {
                registry.register_with_id(id, raw).expect("room");
            }
            registry
        })
        .take(TABLES)
        .collect();
        let ratios: Vec<[f64; IDS.len()]> =
            registries.iter().map(|registry| of_median(registry, ids)).collect();
        for (at, id) in IDS.iter().enumerate() {
            let slow: Vec<f64> = ratios.iter().map(|row| row[at]).filter(|&ratio| ratio > SLOW).collect();
            let tables = slow.len();
            let how_much = if tables == 0 { String::new() } else { format!("{:.2}", median(slow)) };
            println!("  ID {id:>3}  {tables:>3} tables  {how_much}");
        }
    }
}

/// What each ID takes, as a ratio to the median of all of them.
fn of_median(registry: &Registry<i64>, ids: [InterpreterId; IDS.len()]) -> [f64; IDS.len()] {
    let mut best = [f64::INFINITY; IDS.len()];
    for _ in 0..8 {
        for (best, id) in best.iter_mut().zip(ids) {
            *best = best.min(turn(registry, id));
        }
    }
    let median = median(best.to_vec());
    best.map(|ns| ns / median)
}

/// Nanoseconds for some thousand lookups and drops.
fn turn(registry: &Registry<i64>, id: InterpreterId) -> f64 {
    let start = Instant::now();
    for _ in 0..3000 {
        if let Ok(guard) = registry.lookup(id) {
            black_box(std::ptr::from_ref(&*guard));
        }
    }
    start.elapsed().as_nanos() as f64
}
