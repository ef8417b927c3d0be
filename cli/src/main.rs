//! The `interp-guard` command.

fn main() {}
