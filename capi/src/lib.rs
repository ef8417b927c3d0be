//! The C interface of interp-guard: `include/interp_guard.h`, which cbindgen writes from the comments in here.
//!
//! This package translates and decides nothing: names, status codes, null checks. Two rules hold for every export.
//!
//! - What may run in a signal handler (`guard.rs`) is made of calls of the signal-safe core alone. It cannot panic or
//!   unwind: `tests/installed/exports.rs` walks its machine code.
//! - Everything else runs inside `boundary::contained`, where a panic ends as `IG_INTERNAL`.
//!
//! The library is built as `libinterp_guard_c`, so that it does not collide with the Rust library in the target folder,
//! and installed as `libinterp_guard` (`Makefile`).

#![allow(non_camel_case_types)]

mod boundary;
mod fork;
mod guard;
mod pending;
mod registry;
mod status;
mod thread_state;

pub use fork::{ig_after_fork_child, ig_after_fork_parent, ig_before_fork};
pub use guard::{
    ig_for_each_live, ig_guard, ig_guard_close, ig_guard_dup, ig_guard_id, ig_guard_interpreter,
    ig_guard_is_closing, ig_lookup, ig_main,
};
pub use pending::{
    ig_pending, ig_pending_fd, ig_pending_free, ig_pending_new, ig_pending_push, ig_pending_run,
    ig_pending_start_worker, ig_pending_stop_worker, ig_ran,
};
pub use registry::{
    ig_close, ig_drain, ig_finalize, ig_finalize_all, ig_on_close, ig_outstanding, ig_register,
    ig_register_named, ig_register_with_id, ig_registry, ig_registry_free, ig_registry_new,
    ig_registry_new_with, ig_report, ig_set_main, ig_set_name, ig_statistics, ig_stats,
};
pub use status::{ig_status, ig_status_message, ig_version};
pub use thread_state::{
    ig_allow_threads_begin, ig_allow_threads_end, ig_current_id, ig_ensure, ig_ensure_id, ig_is_daemon,
    ig_release, ig_runtime, ig_runtime_set, ig_set_daemon,
};
