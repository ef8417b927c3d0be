//! What would a finalizer on this thread wait for that only this thread can end?
//!
//! Asked before an interpreter is closed by `finalize`, and before a drain waits. Whoever keeps a guard that no other thread can
//! give up has an answer to add here. What keeps others from attaching, the runtime is asked:
//! [`is_kept_from_attaching_here`](crate::signal_safe::table::Table::is_kept_from_attaching_here).

use crate::pending;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use crate::thread_state::levels;

/// Does the calling thread itself keep interpreter `id` of `table` from finalizing, in a way that no other thread can
/// end? A raw guard is none: any thread may drop it.
pub(super) fn this_thread_blocks(table: &Table, id: InterpreterId) -> bool {
    pending::this_thread_runs_a_call_of(table, id) || levels::guard_of(table, id).is_some()
}
