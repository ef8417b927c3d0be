//! What would a finalizer on this thread wait for that only this thread can end?
//!
//! Asked before an interpreter is closed by `finalize`, and before a drain waits. Whoever keeps a guard that no other thread can
//! give up has an answer to add here.

use crate::pending;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use crate::thread_state::{self, Runtime, levels};

/// Does the calling thread itself keep interpreter `id` of `table` from finalizing, in a way that no other thread can
/// end? A raw guard is none: any thread may drop it.
pub(crate) fn this_thread_blocks(table: &Table, id: InterpreterId) -> bool {
    pending::this_thread_runs_a_call_of(table, id) || levels::guard_of(table, id).is_some()
}

/// Is the calling thread attached to interpreter `id` of `table`, which is in slot `at`, and can no other be attached meanwhile?
pub(crate) fn keeps_others_from_attaching<T: Runtime>(table: &Table, at: u32, id: InterpreterId) -> bool {
    // SAFETY: a table that a `Runtime` came through has payloads of that type. The callers see to it that `id` is in this slot
    // and stays there.
    let interpreter = unsafe { &*table.interpreter(at).cast::<T>() };
    thread_state::is_attached_to(table, id, interpreter) && interpreter.is_exclusive()
}
