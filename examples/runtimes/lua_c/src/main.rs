//! Lua in C: `lua.c` and `common.c` are the program, and have its `main`. This file only has cargo build and run it.
//!
//! In `examples/runtimes`: `cargo run --release -p lua_c`

#![no_main]
#![forbid(unsafe_code)]
