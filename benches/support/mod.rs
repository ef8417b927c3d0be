//! What `places` and `thread_state` have in common.

use interp_guard::{Counters, platform};

/// Every way of counting that this machine has; says so if one is missing.
pub fn modes() -> impl Iterator<Item = Counters> {
    let per_cpu = platform::missing_for_per_cpu().is_none().then_some(Counters::PerCpu);
    if per_cpu.is_none() {
        println!("per-cpu: not on this machine");
    }
    per_cpu.into_iter().chain([Counters::Shared])
}

/// The median of some values, not of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
