//! The pending queue's push: a handler leaves a guard, a function and a word of data for a normal thread to run.
//!
//! # States of a cell
//!
//! ```text
//! Free --P2 claim--> Busy(ticket) --P4 publish--> Ready(ticket) --R3 take--> Busy(ticket) --R5 release--> Free
//! ```
//!
//! A push draws a ticket and tries the cells from `ticket` on, each once, until it claims a free one:
//!
//! ```text
//! push                                            run
//!  P1 ticket = tickets++                           R0 eventfd = 0
//!  P2 the first Free cell from ticket on: Busy     R1 horizon = tickets
//!     none in a whole round: full                  R2 cells that are Ready(ticket), ticket < horizon; by ticket:
//!  P3 write the call                               R3 Ready(ticket) -> Busy(ticket); changed meanwhile: not ours
//!  P4 Ready(ticket)                                R4 read the call
//!  P5 the interpreter is closing? wake its drain   R5 Free
//!  P6 eventfd += 1                                 run it
//! ```
//!
//! # Invariants
//!
//! - **Q1** Who changed a cell to Busy, and nobody else, touches its call, until it changes the cell again. So a call is
//!   read by one runner, whole, and each is taken once: a ticket is never drawn twice, and so R3 cannot mistake one call
//!   for another.
//! - **Q2** A cell that is Busy is in nobody's way: pushes and runs pass it. So a push that is interrupted anywhere, for
//!   however long, costs one cell meanwhile and holds up nobody, least of all a push by the handler that interrupted it.
//! - **Q3** If one push has returned before another begins, the first has the smaller ticket and is Ready before the other
//!   draws: a run whose horizon covers the second sees the first. So one runner runs them in that order.
//! - **Q4** No wake-up is lost: a push that R2 did not see writes to the eventfd after R0, and leaves it readable.
//! - **Q5** No process writes to another's eventfd: a forked child has none until it has one of its own. What is pushed until
//!   then waits, and whoever gives the ring an eventfd makes that readable.
//!
//! # Progress
//!
//! A push is wait-free: one add, at most one pass over the cells, each tried once, one `write`. It answers *full* only
//! if it found every cell in use, each at the time when it looked at it.

use super::guard::raw::{GuardParts, RawGuard};
use super::sync::{Atomic, Ordering, Plain, fence};
use super::sys;
use super::word::InterpreterId;
use core::num::NonZeroU64;
use core::ptr::NonNull;

/// A cell's state as a value: two bits of phase, and the ticket of the call that is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const FREE: Self = Self(0);

    const fn busy(ticket: u64) -> Self {
        Self(ticket << 2 | 1)
    }

    const fn ready(ticket: u64) -> Self {
        Self(ticket << 2 | 2)
    }

    const fn ready_ticket(self) -> Option<u64> {
        if self.0 & 3 == 2 { Some(self.0 >> 2) } else { None }
    }
}

static_assertions::const_assert!(matches!(State::ready(7).ready_ticket(), Some(7)));
static_assertions::const_assert!(State::busy(7).ready_ticket().is_none());
static_assertions::const_assert!(State::FREE.ready_ticket().is_none());

/// What a push leaves. The function's type is known to who runs it.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The guard, taken apart: whoever takes the entry owes it.
    pub guard: GuardParts,
    /// What to call.
    pub call: *const (),
    /// What to tell it.
    pub data: usize,
}

/// Room for one call.
pub struct Cell {
    state: Atomic<u64>,
    /// Whose call it is, for who looks without taking.
    id: Atomic<i64>,
    entry: Plain<Entry>,
}

impl Default for Cell {
    fn default() -> Self {
        Self { state: Atomic::new(State::FREE.0), id: Atomic::new(-1), entry: Plain::uninit() }
    }
}

// SAFETY: `entry` is touched only by who made the cell Busy (Q1), handed over by P4 and R5; the rest is atomic. An
// `Entry` belongs to no thread: guards are Send, and so are function pointers and numbers.
unsafe impl Sync for Cell {}
// SAFETY: as above.
unsafe impl Send for Cell {}

/// Where a call is that can be taken: see R2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    ticket: u64,
    cell: usize,
}

/// The queue: cells, and an eventfd to wake whoever runs them.
pub struct Ring {
    cells: NonNull<[Cell]>,
    len: NonZeroU64,
    tickets: Atomic<u64>,
    /// Or [`sys::NO_EVENTFD`].
    eventfd: Atomic<libc::c_int>,
}

// SAFETY: a shared slice of Sync cells, and atomics.
unsafe impl Sync for Ring {}
// SAFETY: as above.
unsafe impl Send for Ring {}

impl Ring {
    /// A queue over these cells.
    ///
    /// # Safety
    /// `cells` lives, shared with nobody but this ring, and `eventfd` is an open non-blocking eventfd, for as long as the
    /// ring.
    pub unsafe fn new(cells: NonNull<[Cell]>, len: NonZeroU64, eventfd: libc::c_int) -> Self {
        Self { cells, len, tickets: Atomic::new(0), eventfd: Atomic::new(eventfd) }
    }

    /// Has it an eventfd of this process's own?
    pub fn has_eventfd(&self) -> bool {
        // Relaxed: whoever needs to know changes it, or comes after.
        self.eventfd.load(Ordering::Relaxed) != sys::NO_EVENTFD
    }

    /// In a forked child, before anybody can push: the eventfd is the parent's.
    pub fn forget_eventfd(&self) {
        // Relaxed: the only thread.
        self.eventfd.store(sys::NO_EVENTFD, Ordering::Relaxed);
    }

    /// Gives it an eventfd, under the promise made to [`new`](Self::new), and makes that readable: calls may wait.
    pub fn set_eventfd(&self, eventfd: libc::c_int) {
        self.eventfd.store(eventfd, Ordering::Relaxed);
        // SeqCst: pairs with the fence of P5 (edge Q-own): either P6 finds this eventfd, or what was pushed is Ready for whoever
        // is woken here.
        fence(Ordering::SeqCst);
        self.wake();
    }

    fn cells(&self) -> &[Cell] {
        // SAFETY: promised to `new`.
        unsafe { self.cells.as_ref() }
    }

    /// Leaves a call (P1 to P6). `Err`, with the guard, if the queue is full.
    ///
    /// Context: any, async-signal-safe, wait-free, re-entrant.
    ///
    /// # Complexity
    /// One cell, or as many as there are in use from its ticket on.
    pub fn push<'t>(&self, guard: RawGuard<'t>, call: *const (), data: usize) -> Result<(), RawGuard<'t>> {
        // AcqRel: pairs with the Acquire in `horizon` and with itself (edge Q-order): whoever sees this ticket drawn sees
        // what was Ready before it was (Q3).
        let ticket = self.tickets.fetch_add(1, Ordering::AcqRel); // P1
        let Some(cell) = self.claim(ticket) else { return Err(guard) };
        let (table, id) = (guard.table(), guard.id());
        let guard = guard.into_parts();
        // Relaxed: published by P4.
        cell.id.store(id.into(), Ordering::Relaxed);
        // P3. SAFETY: this push made the cell Busy (Q1).
        unsafe { cell.entry.write(Entry { guard, call, data }) };
        // P4. Release: pairs with the Acquire in `ready` and of R3 (edge Q-call).
        cell.state.store(State::ready(ticket).0, Ordering::Release);
        // P5. The call may have run and the interpreter may be gone: the table is still there, and a needless wake-up
        // is harmless. SeqCst: pairs with the heavy fence of close (edge Q-close): either this sees Closing, or the
        // drain, which looks at the queue after that fence, sees Ready. And with the fence in `set_eventfd` (edge Q-own).
        fence(Ordering::SeqCst);
        if let (true, Some(wake)) = (table.is_closing(guard.slot), table.wake(guard.slot)) {
            wake.notify();
        }
        self.wake(); // P6 (edge Q-wake)
        Ok(())
    }

    /// Makes the first free cell from the ticket's on this push's own (P2).
    fn claim(&self, ticket: u64) -> Option<&Cell> {
        let first = (ticket % self.len) as usize;
        let (before, from) = self.cells().split_at_checked(first)?;
        from.iter().chain(before).find(|cell| {
            // Relaxed load: a guess. Acquire: pairs with R5 (edge Q-free), so that the taker's read of the last call is
            // over; Relaxed when it fails: the cell is passed by.
            cell.state.load(Ordering::Relaxed) == State::FREE.0
                && cell
                    .state
                    .compare_exchange(
                        State::FREE.0,
                        State::busy(ticket).0,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    )
                    .is_ok()
        })
    }

    /// Wakes whoever waits on the eventfd.
    ///
    /// Context: any, async-signal-safe.
    pub fn wake(&self) {
        // Relaxed: ordered by the fence of P5 (edge Q-own).
        sys::eventfd_add_one(self.eventfd.load(Ordering::Relaxed));
    }

    /// Calls with tickets below this are due (R1).
    pub fn horizon(&self) -> u64 {
        // Acquire: pairs with the AcqRel of P1 (Q3, edge Q-order).
        self.tickets.load(Ordering::Acquire)
    }

    /// The calls with tickets below `horizon` that can be taken, of one interpreter or of all; in no order (R2).
    pub fn ready(&self, horizon: u64, of: Option<InterpreterId>) -> impl Iterator<Item = Found> + '_ {
        self.cells().iter().enumerate().filter_map(move |(at, cell)| {
            // Acquire: pairs with P4 (edge Q-call), for the ID.
            let ticket = State(cell.state.load(Ordering::Acquire)).ready_ticket()?;
            // Relaxed: may be a later call's by now; then R3 fails.
            let theirs = of.is_none_or(|id| i64::from(id) == cell.id.load(Ordering::Relaxed));
            (ticket < horizon && theirs).then_some(Found { ticket, cell: at })
        })
    }

    /// Takes a call out, unless somebody else has (R3 to R5). Whoever gets it owes its guard.
    pub fn take(&self, found: Found) -> Option<Entry> {
        let cell = self.cells().get(found.cell)?;
        // Acquire: pairs with P4 (edge Q-call), for the call.
        let (ready, busy) = (State::ready(found.ticket).0, State::busy(found.ticket).0);
        cell.state.compare_exchange(ready, busy, Ordering::Acquire, Ordering::Relaxed).ok()?; // R3
        // R4. SAFETY: this made the cell Busy (Q1), and it was Ready, so P3 wrote it.
        let entry = unsafe { cell.entry.read() };
        // R5. Release: pairs with the Acquire of P2 (edge Q-free).
        cell.state.store(State::FREE.0, Ordering::Release);
        Some(entry)
    }

    /// Frees every cell, whatever is in it and whoever was at work there. The guards are not given up.
    ///
    /// # Safety
    /// No other thread exists and this one is in no push or take: a forked child.
    pub unsafe fn clear(&self) {
        for cell in self.cells() {
            // Relaxed: the only thread; whatever it starts later happens after.
            cell.state.store(State::FREE.0, Ordering::Relaxed);
        }
    }
}
