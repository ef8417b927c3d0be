//! The examples of interp-guard, each a program of its own, run with `cargo run --example NAME`.
//!
//! A package apart from the library, so that running one builds thirty lines and not what the library's benches and tests want.
