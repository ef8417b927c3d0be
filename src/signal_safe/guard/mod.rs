// May import: signal_safe/ledger, signal_safe/lookup_error, signal_safe/state, signal_safe/table, signal_safe/word.
//! What a lookup hands out: a counted guard, without the interpreter's type ([`raw`]) and with it ([`typed`]).

pub mod raw;
pub mod typed;

pub use raw::{GuardParts, OverRelease, RawGuard};
pub use typed::{Guard, View};
