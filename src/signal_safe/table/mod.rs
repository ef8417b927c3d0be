// May import: signal_safe/counters, signal_safe/gate, signal_safe/ledger, signal_safe/lookup_error, signal_safe/state,
// signal_safe/sync, signal_safe/sys, signal_safe/wake, signal_safe/word.
//! The table: a fixed number of slots, open addressing, linear probing, bounded for hits and misses.
//!
//! | file | concept |
//! |---|---|
//! | [`head`] | the table itself, its slots, how it is published |
//! | [`readers`] | acquire and exit; find, for any context |
//! | [`writers`] | the four transitions of a slot, and the sums that a drain reads |
//! | [`daemons`] | the way in for threads without a guard |
//! | [`hash`] | where a probe begins |
//!
//! # States of a slot
//!
//! ```text
//! Vacant --publish--> Live(id) --begin_close--> Closing(id) --vacate--> Vacant
//! ```
//!
//! Readers run in any context and only load. The four transitions are made by writers, in normal context, one at a time:
//! the registry's mutex is held. Entries never move, and readers never stop at a vacant slot, so there are no
//! tombstones and nothing to rehash.
//!
//! # Invariants
//!
//! - **T1** An ID is in at most one slot at a time, and never in a second one later: IDs are not reused.
//! - **T2** `slots[h].displacement` is at least the distance from `h` of every Live or Closing entry whose home is `h`.
//!   It is raised before such an entry is published and lowered only after one is vacated. So a reader who loads it
//!   once and looks no further misses no entry that was there before the reader began and is there when it ends.
//! - **T3** The payload is stored before the word becomes Live. A vacant slot's payload means nothing.
//! - **T4** The state, and where the counters lie, are written before `slots` becomes non-null, and never again, but for the state's
//!   fork generation. A reader sees null, which means that nothing was ever registered, or everything.
//! - **T5** The memory behind a published table lives until the `Table` is dropped.
//!
//! # Taking and giving up a guard
//!
//! ```text
//! acquire(slot, id)                              exit(slot)
//!  A1 word == Live(id)?  no: fail                 X1 released[stripe][slot] += 1    (Release)
//!  A2 acquired[stripe][slot] += 1                 X2 light fence
//!  A3 light fence                                 X3 word is Closing, of any ID?  notify the slot's wake word
//!  A4 word == Live(id)?  (Acquire)
//!     yes: guard; only now read the payload      close(slot)
//!     no:  exit(slot), fail                       C1 word = Closing(id)
//!                                                 C2 heavy fence
//! ```
//!
//! `docs/orderings.md` names the edges and gives the argument. In short: *no guard is missed*, since an acquire whose A4
//! saw Live is in the sums after C2, and one whose A4 comes later backs out. *A straggler is harmless*: stalled between
//! A1 and A2 while its slot is drained and reused, it finds another ID at A4. X3 tests Closing of *any* ID, because that
//! straggler must wake the finalizer of the slot's next tenant. A1 is there for progress: without it lookups of a closing
//! ID could keep the sums unequal for ever.
//!
//! # Progress
//!
//! `lookup` takes at most `displacement + 1` loads and two adds: wait-free, O(1), and re-entrant, since no step waits
//! for another party or keeps private state between steps.

pub mod daemons;
pub mod hash;
pub mod head;
pub mod readers;
pub mod writers;

pub use daemons::Blocks;
pub use hash::home;
pub use head::{Slot, Table};
pub use readers::{Acquired, NotAtHome};
