// May import: nothing.
//! What an architecture does in its own way: a call's registers, and the code in front of it. One file each, with the same items.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as this;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

pub(super) use this::thunk;
pub use this::*;
