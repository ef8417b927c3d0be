//! Which process this is: a number that a forked child never shares with what it inherits.
//!
//! A PID cannot say that. It is used again, and in a new PID namespace parent and child are both 1. So the number lies on a
//! page that the kernel clears in a forked child (`MADV_WIPEONFORK`), and whoever finds it cleared draws the next one. Where
//! the kernel cannot do that, the C library's `fork` clears it: [`forget`], which `crate::fork` sees to.
//!
//! The counter that numbers are drawn from is copied by a fork like all other memory. So a child's number is larger than all
//! that its ancestors drew before they forked it. Two siblings may have the same one, but neither has anything of the other's.

use super::sync::{Atomic, Ordering};

/// A page of its own, all of it zero in a file just loaded and in a child just forked.
#[repr(C, align(4096))]
pub struct Page {
    number: Atomic<u64>,
    rest: [u8; 4096 - size_of::<u64>()],
}

static_assertions::const_assert_eq!(size_of::<Page>(), 4096);

static PAGE: Page = Page { number: Atomic::new(0), rest: [0; 4096 - size_of::<u64>()] };

/// The last number that was drawn. Not on the page.
static DRAWN: Atomic<u64> = Atomic::new(0);

/// What the kernel, or [`forget`], is to clear in a forked child. Until then a child goes by its parent's number.
pub fn page() -> &'static Page {
    &PAGE
}

/// The number of this process: not 0, and the same for as long as it lives.
///
/// Context: any, async-signal-safe, wait-free.
pub fn number() -> u64 {
    // Relaxed, all: the numbers are only compared, and nothing is read on the strength of one.
    match PAGE.number.load(Ordering::Relaxed) {
        0 => {
            let drawn = DRAWN.fetch_add(1, Ordering::Relaxed) + 1;
            // Two threads, or a thread and its handler, may draw at once: one of the numbers is nobody's.
            let first = PAGE.number.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed);
            first.err().unwrap_or(drawn)
        }
        number => number,
    }
}

/// Clears the page, in a forked child whose kernel has not done so.
pub fn forget() {
    // Relaxed: the only thread of the process.
    PAGE.number.store(0, Ordering::Relaxed);
}
