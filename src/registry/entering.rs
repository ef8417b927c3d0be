//! Threads without a guard, on their way in to attach. Each knows which interpreters keep it waiting: the runtime's code that
//! attaches may fork, and then its copy goes on attaching in the child.

use crate::signal_safe::LookupError;
use crate::signal_safe::table::{Blocks, Table};
use crate::signal_safe::word::InterpreterId;
use std::cell::Cell;
use std::ptr;

/// One interpreter that this thread attaches to, in the frame of [`enter`].
struct Entering {
    table: u64,
    slot: u32,
    /// What it was attaching to when it began with this.
    outer: *const Entering,
}

thread_local! {
    /// The latest.
    static ENTERING: Cell<*const Entering> = const { Cell::new(ptr::null()) };
}

/// Calls `attach` with the payload of `id`, while that is kept from being taken out of the table. `blocks` is as for
/// [`Entry::attaches`](crate::signal_safe::table::daemons::Entry::attaches).
///
/// # Errors
/// As [`Table::enter`].
pub(crate) fn enter<R>(
    table: &Table,
    id: InterpreterId,
    blocks: Blocks,
    attach: impl FnOnce(*mut ()) -> R,
) -> Result<R, LookupError> {
    struct Left(*const Entering);
    impl Drop for Left {
        fn drop(&mut self) {
            ENTERING.set(self.0);
        }
    }
    let entry = table.enter(id)?.attaches(blocks);
    let outer = ENTERING.get();
    let entering = Entering { table: table.serial(), slot: entry.slot(), outer };
    ENTERING.set(&entering);
    let left = Left(outer); // also where `attach` unwinds
    let result = attach(entry.payload());
    drop(left);
    drop(entry);
    Ok(result)
}

/// In a forked child, whose table has forgotten who was on the way in: this thread still is.
pub(crate) fn enter_again(table: &Table) {
    let mut next = ENTERING.get();
    // SAFETY: null, or in a frame of this thread that has not returned; here, its copy.
    while let Some(entering) = unsafe { next.as_ref() } {
        if entering.table == table.serial() {
            table.enter_again(entering.slot);
        }
        next = entering.outer;
    }
}
