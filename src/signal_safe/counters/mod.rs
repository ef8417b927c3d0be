// May import: signal_safe/arch, signal_safe/state, signal_safe/sync, signal_safe/sys.
//! Counting the guards that are out: two monotonic counters per stripe and slot.
//!
//! | file | concept |
//! |---|---|
//! | [`mode`] | the two ways of counting, per CPU or shared |
//! | [`cell`] | one slot's two counters on one stripe |
//! | [`per_cpu`], [`shared`] | adding one, in either way |
//! | [`stripes`] | all counters of a table: adding, summing, the heavy fence; why the sums are right |

pub mod cell;
pub mod mode;
mod per_cpu;
mod shared;
pub mod stripes;

pub use cell::{Cell, Side};
pub use mode::{Counters, UnknownCounters};
pub use stripes::{NO_RSEQ, Stripes};
