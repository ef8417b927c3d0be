//! A small runtime to test interp-guard's thread states against.
//!
//! It has what a real one has: a lock per interpreter with a switch interval (or none, to stand for a runtime without a
//! global lock), thread states, objects that belong to an interpreter, an end. And it has what a real one has not: every
//! misuse is *detected* and noted as a [violation](Probe::violations), where a real one would corrupt memory or hang.
//! For that, the memory of interpreters and thread states is never freed.

mod interpreter;
mod lock;
mod object;
mod own;
mod state;

pub use interpreter::{Interpreter, Probe};
pub use object::Object;
pub use own::Own;
pub use state::{Ended, Native, ThreadState, attached, checkpoint};
