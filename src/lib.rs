// The first definition of a link counts: these are where README.md's own, which come later, cannot lead.
//! [architecture]: guide::architecture
//! [benchmarks]: guide::benchmarks
//! [c-vm]: guide::c_vm
//! [capi]: guide
//! [chart]: guide::benchmarks
//! [contexts]: guide::contexts
//! [contributing]: guide
//! [event-loops]: guide::event_loops
//! [fork-guide]: guide::fork
//! [handlers]: guide::handlers
//! [orderings]: guide::orderings
//! [own-runtime]: guide::own_runtime
//! [plugins]: guide::plugins
//! [proof]: guide::proof
//! [python]: guide
//! [python-extension]: guide::python_extension
//! [python-limits]: guide
//! [questions]: guide::questions
//! [shield]: guide::shield
//! [shutdown]: guide::shutdown
//! [vms]: guide::vms
//! [`Registry::finalize_all`]: Registry::finalize_all
//! [`Registry::on_close`]: Registry::on_close
//! [`fork`]: mod@fork
//! [`pending`]: pending
//! [`signal`]: signal
//! [`signal::in_handler`]: signal::in_handler
//! [`signal::on_signal`]: signal::on_signal
//! [`thread_state`]: thread_state
//!
#![doc = include_str!("../README.md")]

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_endian = "little",
    target_pointer_width = "64"
)))]
compile_error!(
    "interp-guard supports 64-bit Linux on x86-64 and on little-endian AArch64: its system calls and restartable sequences are \
     written for each"
);

// From the bottom up. Each room says in its first line which others it may import; `tests/rooms.rs` holds it to that.

mod signal_safe;

mod events;
pub mod platform;
mod processes;
mod sequences;
mod threads;
mod unwind;

mod symbols;

mod ledger;

mod registry;

pub mod thread_state;

pub mod locked;

pub mod pending;

pub mod bound;

mod ending;

mod inspect;

pub mod fork;
pub mod gilstate;
pub mod signal;

pub mod bindings;
#[doc(hidden)]
pub mod foreign;
pub mod guide;

pub use ending::{Closing, DrainError, DrainOptions, FinalizeError, Phase, Report, Undrained};
pub use ledger::{Holder, Holders};
pub use platform::Missing;
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
