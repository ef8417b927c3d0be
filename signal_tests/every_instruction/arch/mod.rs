//! What stepping has of the processor: one file for each architecture, with the same items.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as this;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

pub use this::{
    call_ahead, calls_sigreturn, forget_call, fork_site, forking, is_call, place, step_over_stop, stop,
};
