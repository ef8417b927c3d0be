//! What a finalizer asks of the runtime, for its own thread.

use super::owner::Owner;
use super::runtime::Runtime;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;

/// Is the calling thread attached to interpreter `id` of `table`, which is in slot `at`, and can no other be attached meanwhile?
pub(super) fn keeps_others_from_attaching<T: Runtime>(table: &Table, at: u32, id: InterpreterId) -> bool {
    // SAFETY: a table that a `Runtime` came through has payloads of that type. The callers see to it that `id` is in this slot
    // and stays there.
    let interpreter = unsafe { &*table.payload(at).cast::<T>() };
    is_attached_to(table, id, interpreter) && interpreter.is_exclusive()
}

/// Is the calling thread attached to `interpreter`, which is `id` of `table`? `false` if it cannot be told.
fn is_attached_to<T: Runtime>(table: &Table, id: InterpreterId, interpreter: &T) -> bool {
    let owner = T::attached().map(|state| Owner::of(table, state, Some((id, interpreter))));
    owner.is_some_and(|owner| owner.is_ok_and(|owner| owner.is(id)))
}
