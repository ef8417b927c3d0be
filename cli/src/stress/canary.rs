//! The interpreter under stress: a canary, in memory that is never given back.
//!
//! A broken table could hand out a guard of an interpreter that is gone. The memory of a finalized interpreter is
//! therefore kept for good and marked dead, by this program's allocator: such a guard then reads a dead canary and is
//! reported, where otherwise the process might crash, or worse, might not.

use interp_guard::InterpreterId;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

const ALIVE: u64 = 0x5AFE_CAFE_5AFE_CAFE;
const DEAD: u64 = 0xDEAD_DEAD_DEAD_DEAD;

/// No other type of this program has this size and alignment; that is how the allocator knows it.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Interpreter {
    canary: AtomicU64,
    /// `u64::MAX` until its ID is known.
    id: AtomicU64,
    /// Guards that say they are in use right now.
    holders: AtomicU64,
}

impl Interpreter {
    pub fn new(id: Option<InterpreterId>) -> Self {
        let id = id.map_or(u64::MAX, |id| i64::from(id) as u64);
        Self { canary: AtomicU64::new(ALIVE), id: AtomicU64::new(id), holders: AtomicU64::new(0) }
    }

    /// Tells a freshly registered interpreter its ID.
    pub fn name(&self, id: InterpreterId) {
        self.id.store(i64::from(id) as u64, Ordering::SeqCst);
    }

    /// Is this the interpreter `id`, and alive? Async-signal-safe.
    pub fn is(&self, id: InterpreterId) -> bool {
        let known = self.id.load(Ordering::SeqCst);
        self.canary.load(Ordering::SeqCst) == ALIVE && (known == i64::from(id) as u64 || known == u64::MAX)
    }

    /// A guard's holder begins to use it. Async-signal-safe.
    pub fn enter(&self) {
        self.holders.fetch_add(1, Ordering::SeqCst);
    }

    /// A guard's holder is about to drop the guard. Async-signal-safe.
    pub fn leave(&self) {
        self.holders.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many holders were inside when it was handed back. Zero, if drains are right.
    pub fn holders(&self) -> u64 {
        self.holders.load(Ordering::SeqCst)
    }
}

/// The system allocator, except that interpreters are never freed and die when they would be.
struct KeepInterpreters;

#[global_allocator]
static ALLOCATOR: KeepInterpreters = KeepInterpreters;

// SAFETY: everything is the system allocator's, or is kept, which an allocator may do.
unsafe impl GlobalAlloc for KeepInterpreters {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout == Layout::new::<Interpreter>() {
            // SAFETY: the block is the caller's, as large as an interpreter, and begins with the canary. Atomic, since
            // the reader that this exists to catch may be reading.
            unsafe { (*block.cast::<AtomicU64>()).store(DEAD, Ordering::SeqCst) };
        } else {
            // SAFETY: the caller's promise is passed on.
            unsafe { System.dealloc(block, layout) }
        }
    }
}
