// May import: nothing.
//! Everything that may run in a signal handler.
//!
//! The code in this folder refers only to itself and to `core`, `libc` (constants and types), `atomic`, `bytemuck` and
//! `static_assertions`; `tests/fixtures/core_only` takes it in by path under `#![no_std]`, which makes that a compile
//! error to break. It may load, store, do atomic operations and make the few system calls in [`sys`]. It may not
//! allocate, lock, panic, format, unwind, initialise lazily, or drop anything of a user's.
//!
//! | file | concept |
//! |---|---|
//! | [`word`] | the interpreter ID; a slot's ID and lifecycle as one value |
//! | [`state`] | what every lookup and drop must know of its table, as one word |
//! | [`table`] | slots, probing, the four transitions of a slot, acquire and exit |
//! | [`LookupError`] | why there is no guard |
//! | [`counters`] | guards that are out, counted per CPU or shared, and the fences that go with it |
//! | [`guard`] | what a lookup hands out |
//! | [`ledger`] | who holds each guard, where that is asked for |
//! | [`pending`] | work that a handler leaves for a normal thread: the push |
//! | [`wake`] | the word a finalizer sleeps on |
//! | [`gate`] | how a thread without a guard gets in while it attaches |
//! | [`process`] | which process this is: told apart from the one that forked it |
//! | [`this_thread`] | what is attached on the calling thread |
//! | [`sys`] | the raw system call |
//! | [`arch`] | what is written in assembly, one file per architecture |
//! | [`sync`] | the atomics |

#![deny(clippy::std_instead_of_core, clippy::alloc_instead_of_core, clippy::indexing_slicing)]
#![deny(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

pub mod arch;
pub mod counters;
pub mod gate;
pub mod guard;
pub mod ledger;
mod lookup_error;
pub mod pending;
pub mod process;
pub mod state;
pub mod sync;
pub mod sys;
pub mod table;
pub mod this_thread;
pub mod wake;
pub mod word;

pub use lookup_error::LookupError;
