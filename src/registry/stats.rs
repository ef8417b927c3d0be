//! Counters for operators: what the finalizers have done. Nothing is counted on the hot path.

use std::time::Duration;

/// What a registry's finalizers have done, since the process began or was forked.
///
/// ```
/// # use interp_guard::Registry;
/// # use std::time::Duration;
/// let registry = Registry::new();
/// let id = registry.register("an interpreter").unwrap();
/// let guard = registry.lookup(id)?;
/// let late = registry.finalize(id, Some(Duration::from_millis(1))).unwrap_err();
/// let stats = registry.stats();
/// assert_eq!((stats.closings, stats.drains, stats.timeouts), (1, 0, 1));
/// # Ok::<(), interp_guard::LookupError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Interpreters that were closed.
    pub closings: u64,
    /// Interpreters that were drained and handed back.
    pub drains: u64,
    /// Drains that gave up at their deadline. An interpreter that is drained again afterwards may be counted again.
    pub timeouts: u64,
    /// How long the drains that ended with `drains` took together, from the call to the handing back. In a `finalize_all`
    /// every one begins when the waiting does.
    pub drain_time: Duration,
    /// How long the longest of them took.
    pub longest_drain: Duration,
}

impl Stats {
    pub(crate) fn drained(&mut self, took: Duration) {
        self.drains += 1;
        self.drain_time = self.drain_time.saturating_add(took);
        self.longest_drain = self.longest_drain.max(took);
    }
}
