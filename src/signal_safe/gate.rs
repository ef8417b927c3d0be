//! The gate through which a thread without a guard (a daemon) comes in while it attaches.
//!
//! Such a thread must know that the interpreter is not taken out from under its attaching, and must not be able to put
//! off the end for ever. So it does not count as a guard: it enters here, attaches, and leaves. The finalizer seals the
//! gate once no guard is out, and takes the interpreter when nobody is inside any more.
//!
//! ```text
//! enter                                          the finalizer, when the sums said zero
//!  GE1 sealed?  yes: Finalizing                   G1 sealed = true
//!  GE2 inside += 1; sealed by now?  yes: leave    G2 inside == 0?  no: wait, look again
//!  GE3 the word is of another ID?  yes: leave     G3 word = Vacant
//!     closing, and no guard is out?  yes: leave
//!     attach                                      G4 sealed = false
//! leave
//!  L1 inside -= 1;  sealed?  notify the wake word
//! ```
//!
//! - *Nobody is overlooked.* GE2 and G1 are updates of one word. GE2 first: G2 sees it. G1 first: GE2 sees the seal; or, if
//!   it comes after G4, which it then synchronises with, GE3 sees that the ID has gone, and IDs are not reused.
//! - *No wake-up is lost.* The finalizer reads the wake word before G2; L1 comes before the notification.
//! - *Progress.* Once sealed, nobody adds to `inside` but those who were between GE1 and GE2. So the wait is for threads
//!   that are attaching, each once.

use super::sync::{Atomic, Ordering};

/// See the module. Zero: open, nobody inside.
#[derive(Default)]
pub struct Gate {
    /// Who is inside, and the seal.
    word: Atomic<u32>,
    /// Of those inside, who has been let in and attaches now: for reports, and for a finalizer that may itself be what they
    /// wait for. The rest are being turned back.
    attaching: Atomic<u32>,
}

const SEALED: u32 = 1 << 31;
const ONE_LESS: u32 = u32::MAX;

impl Gate {
    /// Lets the calling thread in, unless the gate is sealed (GE1, GE2). `true`: inside; [`leave`](Self::leave) is owed.
    pub fn enter(&self, sealed_while_entering: impl FnOnce()) -> bool {
        // Relaxed: a shortcut, for progress; GE2 decides.
        if self.word.load(Ordering::Relaxed) & SEALED != 0 {
            return false;
        }
        // GE2. AcqRel: pairs with G1 (edge Gate-in: the finalizer sees this thread) and with G4 (edge Gate-next: this
        // thread sees the word of G3).
        let inside = self.word.fetch_add(1, Ordering::AcqRel) & SEALED == 0;
        if !inside && self.leave() {
            sealed_while_entering();
        }
        inside
    }

    /// Lets it out (L1). Does a finalizer wait? Then the caller notifies the slot's wake word.
    #[must_use]
    pub fn leave(&self) -> bool {
        // AcqRel: pairs with the Acquire of G2 (edge Gate-out): what was done inside happened before the interpreter is
        // taken out.
        self.word.fetch_add(ONE_LESS, Ordering::AcqRel) & SEALED != 0
    }

    /// Lets nobody in any more. Is nobody inside, for good? (G1, G2.) The one finalizer only, when no guard is out.
    pub fn seal(&self) -> bool {
        // Relaxed: only the finalizer changes this bit.
        if self.word.load(Ordering::Relaxed) & SEALED == 0 {
            // G1. AcqRel: pairs with GE2 (edge Gate-in).
            self.word.fetch_add(SEALED, Ordering::AcqRel);
        }
        self.inside() == 0 // G2
    }

    /// Whoever is inside begins to attach, which may take as long as others let it.
    pub fn begin_attaching(&self) {
        // Release: pairs with the Acquire in `attaching` (edge Gate-tell).
        self.attaching.fetch_add(1, Ordering::Release);
    }

    /// It has attached, or given up. Before [`leave`](Self::leave).
    pub fn end_attaching(&self) {
        // Relaxed: nobody concludes from it that the thread has left. Whoever is attached where one thread can be sees it for all
        // who were before, through the runtime's lock.
        self.attaching.fetch_add(ONE_LESS, Ordering::Relaxed);
    }

    /// How many threads are attaching.
    pub fn attaching(&self) -> u32 {
        // Acquire: pairs with the Release in `begin_attaching` (edge Gate-tell).
        self.attaching.load(Ordering::Acquire)
    }

    /// How many threads are inside.
    pub fn inside(&self) -> u32 {
        // G2. Acquire: pairs with L1 (edge Gate-out).
        self.word.load(Ordering::Acquire) & !SEALED
    }

    /// Opens it for the slot's next tenant (G4). Whoever is just being refused stays counted until it has left.
    pub fn unseal(&self) {
        // Relaxed: as in `seal`.
        if self.word.load(Ordering::Relaxed) & SEALED != 0 {
            // AcqRel: pairs with GE2 (edge Gate-next), so that who enters from here on sees the word of G3.
            self.word.fetch_add(SEALED, Ordering::AcqRel);
        }
    }

    /// In a forked child: the threads that were inside do not exist.
    pub fn forget_inside(&self) {
        // Relaxed: the only thread of the process.
        let sealed = self.word.load(Ordering::Relaxed) & SEALED;
        self.word.store(sealed, Ordering::Relaxed);
        self.attaching.store(0, Ordering::Relaxed);
    }

    /// After that, for a thread that was inside and attaching, and that the child has.
    pub fn be_inside_again(&self) {
        // Relaxed: as above.
        self.word.fetch_add(1, Ordering::Relaxed);
        self.attaching.fetch_add(1, Ordering::Relaxed);
    }
}
