//! A handler at *every instruction*: the operations are single-stepped, and at each boundary a real SIGUSR1 is taken,
//! whose handler looks up every ID that matters and checks each answer against what is allowed at that point.
//!
//! In a release build, whose instructions are those that users get, every boundary is visited. A debug build visits a
//! sample of its many more.
//!
//! While stepped, a restartable sequence always aborts, so per-CPU mode counts on the spare stripe; in the children the
//! sequence that the fork interrupted goes on and commits. `rseq_fire` has the sequences at full speed.
#![allow(missing_docs)]

mod arch;
#[path = "../harness/mod.rs"]
mod harness;
mod shared;
mod stepped;
mod tracer;

use interp_guard::Counters::{self, PerCpu, Shared as SharedCounters};
use shared::Shared;
use std::process::ExitCode;
use std::sync::atomic::Ordering::SeqCst;
use tracer::{Plan, trace};

fn main() -> ExitCode {
    let scenarios: &[harness::Scenario] = &[
        ("signal_at_each_instruction_per_cpu", || signal_at_each(PerCpu)),
        ("signal_at_each_instruction_shared", || signal_at_each(SharedCounters)),
        ("child_at_each_instruction_per_cpu", || child_at_each(PerCpu)),
        ("child_at_each_instruction_shared", || child_at_each(SharedCounters)),
        ("last_guard_dropped_at_each_instruction_of_a_drain_per_cpu", || waiting(PerCpu)),
        ("last_guard_dropped_at_each_instruction_of_a_drain_shared", || waiting(SharedCounters)),
        ("interpreter_taken_away_at_each_instruction_per_cpu", || intruded(stepped::intruded, PerCpu)),
        ("interpreter_taken_away_at_each_instruction_shared", || intruded(stepped::intruded, SharedCounters)),
        ("the_same_under_a_lookup_in_halves_per_cpu", || intruded(stepped::intruded_in_halves, PerCpu)),
        ("the_same_under_a_lookup_in_halves_shared", || {
            intruded(stepped::intruded_in_halves, SharedCounters)
        }),
        ("signal_at_each_instruction_of_ledger_push_and_fork_per_cpu", || beside(PerCpu)),
        ("signal_at_each_instruction_of_ledger_push_and_fork_shared", || beside(SharedCounters)),
        ("child_at_each_instruction_of_ledger_push_and_fork_per_cpu", || child_beside(PerCpu)),
        ("child_at_each_instruction_of_ledger_push_and_fork_shared", || child_beside(SharedCounters)),
    ];
    // A tracer and its tracee take turns, so two scenarios keep two cores busy.
    harness::main_with_threads(2, scenarios)
}

/// Each boundary; of a debug build's many more, each `debug`th, unless the long form is asked for.
fn each(debug: u64) -> u64 {
    if cfg!(debug_assertions) && !harness::long_form() { debug } else { 1 }
}

fn run(plan: Plan, work: fn(&'static Shared, Counters), counters: Counters) {
    let page = Shared::map();
    let covered = trace(page, plan, || work(page, counters));
    println!(
        "{counters}: {} operations, {} boundaries, {} stretches with the signal blocked, {} children, {} signalled asleep; {} phases, {} boundaries of their \
         handlers; {} handlers, {} checks",
        covered.operations.len(),
        covered.boundaries,
        covered.blocked,
        covered.children,
        covered.sleepers,
        covered.phases,
        covered.nested,
        page.handlers.load(SeqCst),
        page.checks.load(SeqCst),
    );
    assert!(covered.boundaries > 0 && page.handlers.load(SeqCst) >= covered.boundaries);
    match plan {
        Plan::Signal { .. } => assert!(covered.phases > 0 && covered.nested > 0, "no handler was stepped"),
        Plan::Child { .. } => assert!(covered.children > 0, "no child went on"),
    }
}

fn signal_at_each(counters: Counters) {
    let plan = Plan::Signal { nth: each(97), phase: each(7), nested: each(307) };
    run(plan, stepped::every_operation, counters);
}

fn beside(counters: Counters) {
    let plan = Plan::Signal { nth: each(101), phase: each(11), nested: each(307) };
    run(plan, stepped::recorded_pushed_forked, counters);
}

fn child_beside(counters: Counters) {
    run(Plan::Child { nth: each(1009) }, stepped::recorded_pushed_forked, counters);
}

fn child_at_each(counters: Counters) {
    run(Plan::Child { nth: each(1009) }, stepped::every_operation, counters);
}

fn waiting(counters: Counters) {
    run(Plan::Child { nth: each(211) }, stepped::waiting, counters);
}

fn intruded(work: fn(&'static Shared, Counters), counters: Counters) {
    run(Plan::Child { nth: each(31) }, work, counters);
}
