//! The lookup path allocates nothing, counted by the allocator itself.
#![allow(missing_docs)]

use interp_guard::{Counters, InterpreterId, Registry, platform};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system allocator, with a count beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn hit_miss_closing_clone_drop_view_and_walk_allocate_nothing() {
    for ledger in [false, true] {
        for counters in [platform::best_counters(), Counters::Shared] {
            let registry = Registry::with_capacity(64).counters(counters).ledger(ledger);
            let live = registry.register(1).expect("registered");
            let closed = registry.register(2).expect("registered");
            let held = registry.lookup(closed).expect("live");
            let closing = registry.close(closed).expect("live");
            let never = InterpreterId::try_from(1 << 40).expect("an ID");
            let before = CALLS.get();
            for _ in 0..1_000 {
                let guard = registry.lookup(live).expect("live");
                drop(guard.clone());
                let _ = guard.view().guard();
                drop(held.clone()); // wakes a finalizer
                assert!(registry.lookup(closed).is_err() && registry.lookup(never).is_err());
                registry.for_each_live(|_| {});
                let _ = registry.main();
            }
            assert_eq!(CALLS.get(), before, "{counters}: the lookup path called the allocator");
            drop(held);
            assert!(closing.drain(None).is_ok());
            assert!(CALLS.get() > before, "the count counts: draining unboxes");
        }
    }
}
