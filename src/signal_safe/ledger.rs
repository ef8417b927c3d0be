//! The ledger: who holds each guard, written down where the guard is taken. Off unless asked for.
//!
//! # Theory of operation
//!
//! A fixed number of entries, and a bitmap of those that are in use. To record a guard, a thread claims a clear bit,
//! fills in the entry behind it, and gives the guard a [`Ticket`]: the entry's place and its *sequence number*. The
//! number is even while the entry is free and odd while it stands for a guard; it only counts up, and so no two guards
//! ever have the same ticket.
//!
//! ```text
//! record                                         forget(ticket)
//!  R1 set a clear bit            (Acquire)        F1 sequence: the ticket's -> the next, even   (AcqRel)
//!  R2 Release fence; the facts   (Relaxed)           it was another: released already
//!  R3 sequence: even -> odd      (Release)        F2 clear the bit                              (Release)
//! ```
//!
//! # Invariants
//!
//! - **L1** Between R1 and R3, and between F1 and F2, one thread alone has the entry: whoever set its bit, and whoever
//!   made F1's exchange succeed. R1 pairs with F2.
//! - **L2** F1 succeeds once per ticket. A second release through a bitwise copy of a guard fails there, also when the
//!   entry has a new tenant.
//! - **L3** A reader that finds the same odd number before and after reading the facts has read one guard's facts: R2's
//!   fence comes after the number became even and before any new fact, and pairs with the reader's Acquire fence.
//!
//! # Progress
//!
//! Wait-free: recording looks at each word of the bitmap once and tries a bounded number of its bits; forgetting is one
//! exchange and one bit. Re-entrant: a handler that interrupts either finds an entry in use that shows nothing yet.
//! When no bit can be claimed, the guard gets [`Ticket::NONE`]: it counts as any other, and is not recorded.

use super::sync::{self, Atomic, Ordering, fence};
use super::sys;
use super::word::InterpreterId;
use core::panic::Location;

const INDEX_BITS: u32 = 14;

/// How many guards a ledger can record at a time.
pub const ENTRIES: usize = 1 << INDEX_BITS;

const BITS: usize = u64::BITS as usize;
const WORDS: usize = ENTRIES / BITS;

/// How many bits of one word a thread tries before it leaves that word to the others that are claiming there.
const CLAIMS_PER_WORD: u32 = 8;

/// Where a guard was taken: a place in Rust source, a code address, or a name that a binding gave it. One word, so that
/// recording it is one store.
///
/// Context: any, async-signal-safe.
///
/// ```
/// use interp_guard::{Place, Site};
///
/// let Place::Source(location) = Site::caller().place() else { unreachable!() };
/// assert_eq!(location.file(), file!());
/// assert_eq!(Site::code(0x1000).place(), Place::Code(0x1000));
/// static NAME: &str = "worker.py:12";
/// assert_eq!(Site::named(&NAME).place(), Place::Named("worker.py:12"));
/// assert_eq!(Site::default().place(), Place::Unknown);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Site(u64);

/// A [`Site`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody said.
    Unknown,
    /// A place in Rust source.
    Source(&'static Location<'static>),
    /// An address in the program's code: a C caller's return address.
    Code(usize),
    /// What a binding calls it: a place in another language's source.
    Named(&'static str),
}

/// Set for code addresses. A `Location` and a `&str` are aligned, so that their addresses have this bit clear, and the next.
const CODE_BIT: u64 = 1;
/// Set for names, with `CODE_BIT` clear.
const NAME_BIT: u64 = 2;
const _: () = assert!(align_of::<Location<'static>>() > 2 && align_of::<&'static str>() > 2);

impl Site {
    /// The place from which the calling `#[track_caller]` function was called.
    ///
    /// ```
    /// # use interp_guard::{Place, Site};
    /// #[track_caller]
    /// fn asked_from() -> Site {
    ///     Site::caller()
    /// }
    /// let Place::Source(location) = asked_from().place() else { unreachable!() };
    /// assert_eq!(location.line(), line!() - 1);
    /// ```
    #[inline(always)]
    #[track_caller]
    pub fn caller() -> Self {
        Self(core::ptr::from_ref(Location::caller()).expose_provenance() as u64)
    }

    /// A place in Rust source.
    ///
    /// ```
    /// # use interp_guard::{Place, Site};
    /// let here = std::panic::Location::caller();
    /// assert_eq!(Site::source(here).place(), Place::Source(here));
    /// ```
    #[inline]
    pub fn source(location: &'static Location<'static>) -> Self {
        Self(core::ptr::from_ref(location).expose_provenance() as u64)
    }

    /// An address in the program's code. Addresses of user space leave the top bit free.
    ///
    /// ```
    /// # use interp_guard::{Place, Site};
    /// let address = libc::getpid as *const () as usize;
    /// assert_eq!(Site::code(address).place(), Place::Code(address));
    /// ```
    #[inline]
    pub const fn code(address: usize) -> Self {
        Self((address as u64) << 1 | CODE_BIT)
    }

    /// A name. Whoever makes names as the program runs has to keep them for good.
    ///
    /// ```
    /// # use interp_guard::Site;
    /// assert_eq!(Site::named(&"worker.py:12").to_string(), "worker.py:12");
    /// ```
    #[inline]
    pub fn named(name: &'static &'static str) -> Self {
        Self(core::ptr::from_ref(name).expose_provenance() as u64 | NAME_BIT)
    }

    /// What the word stands for.
    ///
    /// ```
    /// # use interp_guard::{Place, Registry};
    /// let registry = Registry::new().ledger(true);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let holders = registry.holders(id).unwrap();
    /// let Place::Source(location) = holders.iter().next().unwrap().site.place() else { unreachable!() };
    /// assert_eq!(location.file(), file!());
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    #[inline]
    pub fn place(self) -> Place {
        if self.0 & CODE_BIT != 0 {
            return Place::Code((self.0 >> 1) as usize);
        }
        if self.0 & NAME_BIT != 0 {
            let name = core::ptr::with_exposed_provenance::<&'static str>((self.0 & !NAME_BIT) as usize);
            // SAFETY: only `named` sets this bit with the code bit clear, on the address of a `&'static &'static str` whose
            // provenance was exposed.
            return Place::Named(unsafe { *name });
        }
        let location = core::ptr::with_exposed_provenance::<Location<'static>>(self.0 as usize);
        // SAFETY: without either bit the word is zero, which makes a null pointer, or the address of a `&'static
        // Location` whose provenance was exposed: no other constructor makes one.
        unsafe { location.as_ref() }.map_or(Place::Unknown, Place::Source)
    }
}

/// Says which entry of the ledger stands for a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Ticket(u64);

impl Ticket {
    /// The guard is not recorded: the ledger is off, or was full.
    pub const NONE: Self = Self(0);

    /// Is there an entry for the guard?
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != Self::NONE.0
    }

    /// The ticket as a number, for bindings that store it.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The ticket that has this number. A number that was never a ticket is harmless: it names no guard.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    const fn new(index: usize, sequence: u64) -> Self {
        Self(sequence << INDEX_BITS | index as u64)
    }

    const fn index(self) -> usize {
        self.0 as usize & (ENTRIES - 1)
    }

    const fn sequence(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

/// What the ledger knows of one guard.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The guarded interpreter's ID, as a number.
    pub id: i64,
    /// When the guard was taken: nanoseconds on the monotonic clock.
    pub since: u64,
    /// Where it was taken.
    pub site: Site,
    /// The kernel's ID of the thread that took it.
    pub thread: u32,
    /// That thread's name, padded with zeros.
    pub name: [u8; 16],
    /// Was it taken on an alternate signal stack? Then by a signal handler.
    pub on_signal_stack: bool,
}

/// One guard's facts, a cache line of its own. Zero-filled memory is a free entry.
#[repr(C, align(64))]
struct Entry {
    /// Even: free. Odd: stands for a guard.
    sequence: Atomic<u64>,
    id: Atomic<i64>,
    since: Atomic<u64>,
    site: Atomic<u64>,
    name: [Atomic<u64>; 2],
    thread: Atomic<u32>,
    on_signal_stack: Atomic<u32>,
    /// The fork generation in which the guard was counted.
    generation: Atomic<u32>,
}

/// See the module. Zero-filled memory is an empty ledger.
#[repr(C)]
pub struct Ledger {
    /// A bit per entry, set while it is in use.
    used: [Atomic<u64>; WORDS],
    entries: [Entry; ENTRIES],
    /// How often a guard was struck out that was not there, since somebody last asked.
    twice: Atomic<u64>,
}

impl Ledger {
    /// Writes down that the calling thread takes a guard. [`Ticket::NONE`] if no entry is free.
    ///
    /// Context: any, async-signal-safe, wait-free. Makes four system calls.
    pub fn record(&self, id: InterpreterId, site: Site, generation: u32) -> Ticket {
        // Threads begin at different words, so that they seldom meet.
        let start = (sys::thread_pointer() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        for turn in 0..WORDS {
            let word = (start as usize).wrapping_add(turn) % WORDS;
            let Some(bit) = self.used.get(word).and_then(claim) else { continue };
            let index = word * BITS + bit as usize;
            let Some(entry) = self.entries.get(index) else { continue };
            // Relaxed: F1 of the last tenant happened before (L1, through R1).
            let sequence = entry.sequence.load(Ordering::Relaxed) | 1;
            // R2. Pairs with the Acquire fence in `Entry::read` (L3, edge L-torn).
            fence(Ordering::Release);
            // Relaxed, all of them: this thread alone has the entry (L1), and R3 publishes them.
            entry.id.store(id.bits() as i64, Ordering::Relaxed);
            entry.since.store(sys::monotonic_nanos(), Ordering::Relaxed);
            entry.site.store(site.0, Ordering::Relaxed);
            entry.thread.store(sys::gettid(), Ordering::Relaxed);
            entry.name_thread(sys::thread_name());
            entry.on_signal_stack.store(u32::from(sys::on_signal_stack()), Ordering::Relaxed);
            entry.generation.store(generation, Ordering::Relaxed);
            // R3. Release: pairs with the Acquire in `Entry::read` (edge L-facts).
            entry.sequence.store(sequence, Ordering::Release);
            return Ticket::new(index, sequence);
        }
        Ticket::NONE
    }

    /// Strikes out the guard with this ticket. `false` if that has happened before, or no guard ever had it.
    ///
    /// Context: any, async-signal-safe, wait-free.
    #[must_use]
    pub fn forget(&self, ticket: Ticket) -> bool {
        let entry = self.entries.get(ticket.index()).filter(|_| ticket.sequence() & 1 == 1);
        let struck_out = entry.is_some_and(|entry| entry.retire(ticket.sequence()));
        if struck_out {
            self.release_bit(ticket.index());
        } else {
            // Relaxed: a number, for people.
            self.twice.fetch_add(1, Ordering::Relaxed);
        }
        struck_out
    }

    /// How often [`forget`](Self::forget) said `false`, since this was asked last: to be told in normal context, wherever it
    /// was found out.
    pub fn take_twice(&self) -> u64 {
        self.twice.swap(0, Ordering::Relaxed) // Relaxed: a number, by which nothing is read
    }

    /// Calls `f` with what is known of each guard that is recorded when its entry is looked at.
    ///
    /// Context: any, async-signal-safe if `f` is. O([`ENTRIES`] / 64 + guards).
    pub fn for_each(&self, mut f: impl FnMut(Record)) {
        self.for_each_used(|_, entry| {
            if let Some(record) = entry.read() {
                f(record);
            }
        });
    }

    /// In a forked child: the guard with this ticket is kept. It is the calling thread's now, the only one left.
    ///
    /// Context: normal, the single thread of a forked child.
    pub fn keep(&self, ticket: Ticket, generation: u32) {
        let Some(entry) = self.entries.get(ticket.index()) else { return };
        // Relaxed, all of them: there is no other thread.
        if entry.sequence.load(Ordering::Relaxed) == ticket.sequence() {
            entry.thread.store(sys::gettid(), Ordering::Relaxed);
            entry.generation.store(generation, Ordering::Relaxed);
        }
    }

    /// In a forked child: frees every entry that is not of this fork generation, those of guards that nobody kept and
    /// those that a vanished thread was in the middle of.
    ///
    /// Context: normal, the single thread of a forked child.
    pub fn sweep(&self, generation: u32) {
        self.for_each_used(|index, entry| {
            // Relaxed, all of them: there is no other thread.
            let sequence = entry.sequence.load(Ordering::Relaxed);
            let stands = sequence & 1 == 1;
            if !stands || entry.generation.load(Ordering::Relaxed) != generation {
                // Up to the next even number. A thread that vanished before R3 left the even one.
                entry.sequence.store(sequence.wrapping_add(1) & !1, Ordering::Relaxed);
                self.release_bit(index);
            }
        });
    }

    /// Calls `f` with every entry whose bit is set, and its index.
    fn for_each_used(&self, mut f: impl FnMut(usize, &Entry)) {
        for (at, (word, entries)) in self.used.iter().zip(self.entries.chunks_exact(BITS)).enumerate() {
            // Relaxed: a hint where to look; what is found there has its own edges.
            let mut used = word.load(Ordering::Relaxed);
            while used != 0 {
                let bit = used.trailing_zeros() as usize;
                used &= used.wrapping_sub(1);
                if let Some(entry) = entries.get(bit) {
                    f(at * BITS + bit, entry);
                }
            }
        }
    }

    /// Lets the next guard have the entry (F2).
    fn release_bit(&self, index: usize) {
        if let Some(word) = self.used.get(index / BITS) {
            // Release: pairs with R1 (L1, edge L-entry).
            word.fetch_and(!1_u64.wrapping_shl(index as u32), Ordering::Release);
        }
    }
}

/// A bit of `word` that this thread has set and that was clear (R1).
fn claim(word: &Atomic<u64>) -> Option<u32> {
    // Relaxed: a hint; the read-modify-write below decides.
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..CLAIMS_PER_WORD {
        let bit = seen.trailing_ones();
        if bit == u64::BITS {
            return None;
        }
        // Acquire: pairs with F2 (L1, edge L-entry).
        let before = word.fetch_or(1_u64.wrapping_shl(bit), Ordering::Acquire);
        if before.wrapping_shr(bit) & 1 == 0 {
            return Some(bit);
        }
        seen = before;
    }
    None
}

impl Entry {
    /// Strikes the entry out, if it still stands for the guard with this number (F1).
    fn retire(&self, sequence: u64) -> bool {
        // AcqRel: Acquire pairs with R3 (edge L-facts), of whichever thread took the guard; Release hands the entry on
        // through F2. Relaxed when it fails: nothing is read on the strength of it.
        let (was, next) = (sequence, sequence.wrapping_add(1));
        self.sequence.compare_exchange(was, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn name_thread(&self, name: [u8; 16]) {
        let name = u128::from_ne_bytes(name);
        let [low, high] = &self.name;
        // Relaxed: facts as the others in `record`.
        low.store(name as u64, Ordering::Relaxed);
        high.store((name >> 64) as u64, Ordering::Relaxed);
    }

    fn name(&self) -> [u8; 16] {
        // Relaxed: as the other facts in `read`.
        let [low, high] = self.name.each_ref().map(|half| u128::from(half.load(Ordering::Relaxed)));
        (high << 64 | low).to_ne_bytes()
    }

    /// The facts, if they are those of one guard throughout (L3).
    fn read(&self) -> Option<Record> {
        // Acquire: pairs with R3 (edge L-facts).
        let before = self.sequence.load(Ordering::Acquire);
        // Relaxed, all of them and the number once more: ordered by the Acquire above and the fence below (L3).
        let record = Record {
            id: self.id.load(Ordering::Relaxed),
            since: self.since.load(Ordering::Relaxed),
            site: Site(self.site.load(Ordering::Relaxed)),
            thread: self.thread.load(Ordering::Relaxed),
            name: self.name(),
            on_signal_stack: self.on_signal_stack.load(Ordering::Relaxed) != 0,
        };
        // Pairs with R2's fence (edge L-torn): had one of the facts been a later guard's, the number would be seen to have
        // changed.
        fence(Ordering::Acquire);
        (before & 1 == 1 && self.sequence.load(Ordering::Relaxed) == before).then_some(record)
    }
}

static_assertions::const_assert!(align_of::<Location<'static>>() > CODE_BIT as usize);
static_assertions::assert_impl_all!(Ledger: Send, Sync);
sync::layout! {
    static_assertions::const_assert_eq!(size_of::<Entry>(), 64);
}
