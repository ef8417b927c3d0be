// May import: nothing.
//! What an architecture does in its own way: a call's registers, and the code in front of it. One file each, with the same items.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::thunk;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::thunk;
