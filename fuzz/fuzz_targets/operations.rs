//! Two bytes are an operation: which, and on what. The first byte of all chooses the counters and the ledger.
//!
//! `cargo fuzz run operations`, or `.ci/steps/50-fuzz`, which needs neither cargo-fuzz nor a nightly compiler.
#![no_main]

use interp_guard::{Counters, platform};
use libfuzzer_sys::fuzz_target;
use operations::{Op, run};

#[path = "../../tests/model/operations.rs"]
mod operations;

/// Few IDs, and strides that collide, so that operations meet.
fn id(byte: u8) -> i64 {
    match byte % 16 {
        number @ 0..10 => number.into(),
        15 => i64::MAX - 1,
        number => i64::from(number - 9) * 17_711,
    }
}

fn op([which, what]: [u8; 2]) -> Op {
    match which % 10 {
        0 => Op::Register,
        1 => Op::RegisterWithId(id(what)),
        2 => Op::Lookup(id(what)),
        3 => Op::Clone(what.into()),
        4 => Op::Drop(what.into()),
        5 => Op::Close(id(what)),
        6 => Op::Abandon(what.into()),
        7 => Op::Drain(what.into()),
        8 => Op::Finalize(id(what)),
        _ => Op::SetMain(id(what)),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, rest)) = bytes.split_first() else { return };
    let counters = if how & 1 == 0 { platform::best_counters() } else { Counters::Shared };
    let (pairs, _) = rest.as_chunks::<2>();
    let ops: Vec<Op> = pairs.iter().map(|&pair| op(pair)).collect();
    run(counters, how & 2 != 0, &ops);
});
