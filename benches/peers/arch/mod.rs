//! What the benchmark has of the processor: one file for each architecture, with the same items.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as this;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

pub use this::{add_here, answered, flush, flushed, raw_ticks, ticks, two_adds, yardstick};
