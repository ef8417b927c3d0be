// May import: events, platform, processes, signal_safe, threads.
//! The registry: keeps the table in sync, in normal context, under one mutex. Closing and finalizing are built on it:
//! [`ending`](crate::ending).
//!
//! | file | concept |
//! |---|---|
//! | [`set`] | the registry itself: built, set up, dropped |
//! | [`register`] | registering |
//! | [`lookup`] | what any context may call |
//! | [`book`] | what the mutex guards: the interpreters, the IDs that were used, who drains what |
//! | [`queues`] | what the book knows of a pending queue |
//! | [`setup`] | from a registry's wishes to a published table |
//! | [`forking`] | the mutex across a fork |
//! | [`entering`] | threads without a guard, on their way in |
//! | [`known`] | all registries of the process |
//! | [`error`], [`stats`] | refusals; what the finalizers have done |

// In the order in which the documentation of `Registry` shows what they give it.
mod set;

mod register;

mod lookup;

mod book;
pub(crate) mod entering;
mod error;
pub(crate) mod forking;
pub(crate) mod known;
pub(crate) mod queues;
mod setup;
mod stats;

pub use error::{CloseError, RegisterError};
pub use set::Registry;
pub use setup::{Layout, SetupError};
pub use stats::Stats;

pub(crate) use book::{Book, OnClose};
