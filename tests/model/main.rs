//! Random operations against a plain model: a map of what should be there.
#![allow(missing_docs)]

mod operations;

use interp_guard::{Counters, platform};
use operations::{Op, run};
use proptest::prelude::*;

fn op() -> impl Strategy<Value = Op> {
    // Few IDs, and strides that collide, so that operations meet.
    let id = prop_oneof![0_i64..12, (0_i64..6).prop_map(|n| n * 17_711), Just(i64::MAX - 1)];
    prop_oneof![
        3 => Just(Op::Register),
        3 => id.clone().prop_map(Op::RegisterWithId),
        6 => id.clone().prop_map(Op::Lookup),
        2 => any::<usize>().prop_map(Op::Clone),
        4 => any::<usize>().prop_map(Op::Drop),
        3 => id.clone().prop_map(Op::Close),
        1 => any::<usize>().prop_map(Op::Abandon),
        3 => any::<usize>().prop_map(Op::Drain),
        2 => id.clone().prop_map(Op::Finalize),
        1 => id.prop_map(Op::SetMain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shared_counters_agree_with_the_model(ops in prop::collection::vec(op(), 0..120)) {
        run(Counters::Shared, false, &ops);
    }

    #[test]
    fn the_best_counters_agree_with_the_model(ops in prop::collection::vec(op(), 0..120)) {
        run(platform::best_counters(), false, &ops);
    }

    #[test]
    fn recorded_guards_agree_with_the_model(ops in prop::collection::vec(op(), 0..120)) {
        run(platform::best_counters(), true, &ops);
    }
}
