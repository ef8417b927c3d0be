// May import: attach, ground, holding, inside, keeper, signals.
//! The end of an interpreter: closing it, waiting for who has it, and saying so.
//!
//! | file | concept |
//! |---|---|
//! | `hook` | the `atexit` callback: whether it is still there, and whether it is the end |
//! | `closing` | what the hook does |
//! | `wait` | one hook's waiting, and what it says meanwhile |
//! | `drain` | a drain from the outside |
//! | `retire` | an interpreter whose end nobody can wait for |
//! | `state` | how far the end has come |
//! | `on_close` | what is called when an interpreter closes |
//! | `late` | what the standard library is asked for while the end waits |
//! | `deadline` | how long an end may wait, where the application says so |
//! | `residents` | threads that had a guard and are still in the interpreter |
//! | `selfhold` | a wait that nobody could end |
//! | `interrupt` | Ctrl-C during a drain |
//! | `report` | what there is to say of guards that are out |

pub mod closing;
pub mod deadline;
pub mod drain;
pub mod hook;
pub mod interrupt;
mod late;
pub mod on_close;
pub mod report;
pub mod residents;
pub mod retire;
mod selfhold;
pub mod state;
pub mod wait;
