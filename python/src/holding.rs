// May import: attach, ground.
//! What of the calling thread keeps an interpreter from finalizing: its levels, and the calls of `calls::callbacks` that
//! it is in.

use crate::attach;
use crate::ground::registry;
use interp_guard::InterpreterId;
use std::cell::Cell;

thread_local! {
    /// How many calls on this thread have a guard of the main interpreter.
    static CALLS_WITH_GUARDS: Cell<u32> = const { Cell::new(0) };
}

/// A call begins that has a guard of the main interpreter, and is in no level.
#[inline]
pub fn begin_call() {
    CALLS_WITH_GUARDS.with(|calls| calls.set(calls.get() + 1));
}

/// Such a call ends.
#[inline]
pub fn end_call() {
    CALLS_WITH_GUARDS.with(|calls| calls.set(calls.get().saturating_sub(1)));
}

/// Is the calling thread inside a level, or a callback, that keeps interpreter `id` from finalizing?
pub fn holds(id: InterpreterId) -> bool {
    attach::holds(id) || Some(id) == registry::main_id() && CALLS_WITH_GUARDS.get() > 0
}

/// In a forked child: the guards of the calls that this thread is in count no longer.
pub fn after_fork_child() {
    CALLS_WITH_GUARDS.set(0);
}
