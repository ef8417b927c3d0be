// May import: events, ledger, pending, registry, signal_safe, thread_state, threads, unwind.
//! The end of an interpreter: closing it, draining its guards, handing it back.
//!
//! | file | concept |
//! |---|---|
//! | [`closing`] | the right to drain: who gets it, who has it |
//! | [`on_close`] | what is to be done when it closes |
//! | [`drain`] | the wait until no guard is out, and the hand-over |
//! | [`finalize`] | close and drain in one call |
//! | [`all`] | the same for a whole registry |
//! | [`blockers`] | what a drain would wait for in vain |
//! | [`options`] | how long to wait, what may interrupt it, who watches |
//! | [`report`] | how things stand with an interpreter that is waited for |
//! | [`undrained`], [`error`] | what a drain that did not finish leaves behind, and why it did not |

// In the order in which the documentation of `Registry` shows what they give it.
mod finalize;

mod all;

mod on_close;

mod blockers;
mod closing;
mod drain;
mod error;
mod options;
mod report;
mod undrained;

pub use closing::Closing;
pub use error::{DrainError, FinalizeError};
pub use options::{DrainOptions, Phase};
pub use report::Report;
pub use undrained::Undrained;

pub(crate) use closing::TakeUp;
