// May import: attach, c, calls, end, ground, registering, shield, signals.
//! What is under the Python package `interp_guard`.
//!
//! | file | concept |
//! |---|---|
//! | `module` | its functions, and what an import does |
//! | `guards` | guards as Python objects |
//! | `holders` | who holds them |
//! | `machine` | what the machine offers |
//! | `stress` | the native part of `python -m interp_guard stress` |
//! | `only_copy` | one table per process |

mod guards;
mod holders;
mod machine;
pub mod module;
mod only_copy;
mod stress;
