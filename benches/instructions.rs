//! The paths whose instructions `.ci/steps/40-instructions` counts under callgrind: each a function of its own, called a
//! round number of times. Not a measurement of time.
//!
//! valgrind offers no restartable sequences, so these are the instructions of shared mode with a hashed stripe, the
//! longest of the paths; per-CPU mode issues about as many.

use interp_guard::{Guard, InterpreterId, LookupError, Registry};
use std::hint::black_box;

/// The script divides by this.
const CALLS: usize = 10_000;

type Looked<'r> = Result<Guard<'r, u64>, LookupError>;

#[inline(never)]
#[unsafe(no_mangle)]
fn count_lookup_hit(registry: &Registry<u64>, id: InterpreterId) -> Looked<'_> {
    registry.lookup(id)
}

#[inline(never)]
#[unsafe(no_mangle)]
fn count_lookup_miss(registry: &Registry<u64>, id: InterpreterId) -> Looked<'_> {
    registry.lookup(id)
}

#[inline(never)]
#[unsafe(no_mangle)]
fn count_lookup_closing(registry: &Registry<u64>, id: InterpreterId) -> Looked<'_> {
    registry.lookup(id)
}

#[inline(never)]
#[unsafe(no_mangle)]
fn count_drop(guard: Guard<'_, u64>) {
    drop(guard);
}

fn main() {
    if std::env::args().any(|argument| argument == "--help") {
        println!("Run by .ci/steps/40-instructions under callgrind.");
        return;
    }
    let registry = Registry::new();
    let live = registry.register(1).expect("there is room");
    let closing = registry.register(2).expect("there is room");
    let closed = registry.close(closing).expect("live");
    let nobody = InterpreterId::try_from(1 << 40).expect("an ID");
    for _ in 0..CALLS {
        count_drop(count_lookup_hit(black_box(&registry), black_box(live)).expect("live"));
        assert!(count_lookup_miss(black_box(&registry), black_box(nobody)).is_err());
        assert!(count_lookup_closing(black_box(&registry), black_box(closing)).is_err());
    }
    drop(closed);
}
