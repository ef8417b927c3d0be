//! The result of a run, for people and for programs.

use super::tally::{self, Quantiles, Totals, VIOLATIONS, Violation};
use super::{Options, Runtime};
use interp_guard::{Counters, Registry};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// What the times of the drains have in them.
const ABOUT_DRAINS: &str = "
  A drain is timed from the end of close until the interpreter is handed back. p99 and max have in them, besides the
  drain's own work: the handlers that interrupt the thread that drains; the guards that other threads hold, which may
  be waiting for a CPU themselves; calls that wait for the worker; and the turns of other threads on this CPU.
";

/// One line on what has happened so far.
pub fn progress() -> String {
    let totals = tally::totals();
    format!(
        "{} signals, {} lookups, {} finalized, {} violations",
        grouped(totals.signals),
        grouped(totals.hits + totals.finalizing + totals.not_found),
        grouped(totals.finalized),
        totals.violations.iter().sum::<u64>()
    )
}

pub struct Result {
    totals: Totals,
    took: Duration,
    counters: Counters,
    lookup: Quantiles,
    drain: Quantiles,
    options: Options,
}

impl Result {
    /// To be called when all threads have ended and nothing should be left.
    pub fn collect<T: Send + Sync + 'static>(
        registry: &Registry<T>,
        took: Duration,
        ns_per_tick: f64,
        options: &Options,
    ) -> Self {
        let totals = tally::totals();
        tally::check(totals.registered == totals.finalized, Violation::Leak);
        tally::check(registry.is_empty(), Violation::Leak);
        tally::check(totals.pushed == totals.pending_run, Violation::PendingLost);
        Self {
            totals: tally::totals(),
            took,
            counters: registry.layout().map_or(Counters::Shared, |layout| layout.counters),
            lookup: tally::lookup_quantiles(ns_per_tick),
            drain: tally::drain_quantiles(),
            options: options.clone(),
        }
    }

    pub fn violations(&self) -> u64 {
        self.totals.violations.iter().sum()
    }

    fn lookups(&self) -> u64 {
        self.totals.hits + self.totals.finalizing + self.totals.not_found
    }

    /// The keys are fixed by the design.
    pub fn json(&self) -> Value {
        let quantiles = |q: Quantiles| json!({ "p50": q.p50, "p99": q.p99, "max": q.max });
        json!({
            "signals": self.totals.signals,
            "nested_signals": self.totals.nested_signals,
            "lookups": self.lookups(),
            "hits": self.totals.hits,
            "finalizing": self.totals.finalizing,
            "not_found": self.totals.not_found,
            "pending_run": self.totals.pending_run,
            "pending_handed_back": self.totals.handed_back,
            "registered": self.totals.registered,
            "finalized": self.totals.finalized,
            "violations": self.violations(),
            "runtime": self.options.runtime.name(),
            "counters": self.counters.name(),
            "ledger": self.options.ledger,
            "lookup_ns": quantiles(self.lookup),
            "drain_ns": quantiles(self.drain),
            "seconds": self.took.as_secs_f64(),
        })
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<36} {value}");
        };
        row(
            "counters",
            self.counters.to_string() + if self.options.ledger { ", with the ledger" } else { "" },
        );
        row("runtime", self.options.runtime.name().to_owned());
        row("threads, interpreters", format!("{}, {}", self.options.threads, self.options.interpreters));
        row("seconds", format!("{:.1}", self.took.as_secs_f64()));
        row("SIGUSR1 delivered", grouped(self.totals.signals));
        row("SIGUSR2 delivered inside it", grouped(self.totals.nested_signals));
        row("lookups", grouped(self.lookups()));
        row("  guard", grouped(self.totals.hits));
        row("  finalizing", grouped(self.totals.finalizing));
        row("  not found", grouped(self.totals.not_found));
        row("pending calls run", grouped(self.totals.pending_run));
        row("  handed back, the queue was full", grouped(self.totals.handed_back));
        row("interpreters registered", grouped(self.totals.registered));
        row("interpreters finalized", grouped(self.totals.finalized));
        if self.options.runtime == Runtime::Reference {
            row("lookup in a handler, p50 / p99 / max", nanoseconds(self.lookup));
        }
        row("close to drained, p50 / p99 / max", nanoseconds(self.drain));
        row("violations", grouped(self.violations()));
        for (count, what) in self.totals.violations.iter().zip(VIOLATIONS).filter(|(count, _)| **count > 0) {
            row("", format!("{count} x {what}"));
        }
        text + ABOUT_DRAINS
    }

    /// The last line.
    pub fn verdict(&self) -> String {
        verdict(self.violations(), self.lookups(), self.totals.signals, self.took)
    }
}

fn verdict(violations: u64, lookups: u64, signals: u64, took: Duration) -> String {
    let (found, plural) = match violations {
        0 => ("PASS", "s"),
        1 => ("FAIL", ""),
        _ => ("FAIL", "s"),
    };
    format!(
        "{found}: {} violation{plural} in {} lookups under {} signals, {:.1} s",
        grouped(violations),
        grouped(lookups),
        grouped(signals),
        took.as_secs_f64()
    )
}

fn nanoseconds(q: Quantiles) -> String {
    format!("{} / {} / {} ns", grouped(q.p50), grouped(q.p99), grouped(q.max))
}

/// 1234567 as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_violation_fails_and_is_counted() {
        let verdict =
            |violations| super::verdict(violations, 12_345, 678, std::time::Duration::from_millis(1_500));
        assert_eq!(verdict(0), "PASS: 0 violations in 12,345 lookups under 678 signals, 1.5 s");
        assert_eq!(verdict(1), "FAIL: 1 violation in 12,345 lookups under 678 signals, 1.5 s");
        assert_eq!(verdict(2_000), "FAIL: 2,000 violations in 12,345 lookups under 678 signals, 1.5 s");
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(super::grouped(0), "0");
        assert_eq!(super::grouped(999), "999");
        assert_eq!(super::grouped(1_000), "1,000");
        assert_eq!(super::grouped(12_345_678), "12,345,678");
    }
}
