#![doc = include_str!("../README.md")]
#![cfg_attr(loom, allow(dead_code, unused_imports))]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!(
    "interp-guard supports Linux on x86-64 only: its system calls and restartable sequences are written for it"
);

// From the bottom up. Each room says in its first line which others it may import; `tests/rooms.rs` holds it to that.

mod signal_safe;

#[cfg(not(loom))]
pub mod platform;
#[cfg(not(loom))]
mod processes;
#[cfg(not(loom))]
mod threads;
#[cfg(not(loom))]
mod unwind;

#[cfg(not(loom))]
mod ledger;

#[cfg(not(loom))]
mod registry;

#[cfg(not(loom))]
pub mod thread_state;

#[cfg(not(loom))]
pub mod pending;

#[cfg(not(loom))]
mod ending;

#[cfg(not(loom))]
mod inspect;

#[cfg(not(loom))]
pub mod fork;
#[cfg(not(loom))]
pub mod gilstate;
#[cfg(not(loom))]
pub mod signal;

#[cfg(not(loom))]
pub mod bindings;

#[cfg(not(loom))]
pub use ending::{Closing, DrainError, DrainOptions, FinalizeError, Phase, Report, Undrained};
#[cfg(not(loom))]
pub use ledger::{Holder, Holders};
#[cfg(not(loom))]
pub use platform::Missing;
#[cfg(not(loom))]
pub use registry::{CloseError, Layout, RegisterError, Registry, SetupError, Stats};
pub use signal_safe::LookupError;
pub use signal_safe::counters::{Counters, UnknownCounters};
pub use signal_safe::guard::{Guard, View};
pub use signal_safe::ledger::{Place, Site};
pub use signal_safe::word::{InterpreterId, InvalidId};

/// Guards without their interpreter's type, as plain data: for bindings to other languages.
pub mod raw {
    pub use crate::signal_safe::guard::{GuardParts, OverRelease, RawGuard};
    /// How many guards a ledger can record at a time. A ticket that is not 0, modulo this, is a number that no other
    /// recorded guard of the registry has meanwhile.
    pub use crate::signal_safe::ledger::ENTRIES as LEDGER_ENTRIES;
    pub use crate::signal_safe::table::NotAtHome;
}
