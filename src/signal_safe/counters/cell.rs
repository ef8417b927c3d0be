//! One slot's two counters on one stripe.

use super::super::sync::Atomic;

/// One slot's counters on one stripe.
#[derive(Default)]
#[repr(C)]
pub struct Cell {
    acquired: Atomic<u64>,
    released: Atomic<u64>,
}

/// Which of the two counters of a cell.
#[derive(Clone, Copy)]
pub enum Side {
    /// Guards taken: acquire and clone.
    Acquired = core::mem::offset_of!(Cell, acquired) as isize,
    /// Guards given up, attempts that backed out included.
    Released = core::mem::offset_of!(Cell, released) as isize,
}
