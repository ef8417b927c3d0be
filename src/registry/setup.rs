//! From a registry's wishes to a published table: mode, sizes, memory.

use crate::platform::{self, Missing};
use crate::signal_safe::counters::{Cell, Counters, NO_RSEQ, Stripes};
use crate::signal_safe::ledger::Ledger;
use crate::signal_safe::state::State;
use crate::signal_safe::table::{Slot, Table, home};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest capacity: 2^20 interpreters.
pub(crate) const MAX_CAPACITY: usize = 1 << 20;

/// Chooses the mode where the builder did not: `per-cpu` or `shared`.
const COUNTERS_VARIABLE: &str = "INTERP_GUARD_COUNTERS";

/// Why a registry could not set itself up. Nothing was changed; where the cause can pass, the next registration tries
/// again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// The capacity asked for is 0 or above 2^20.
    Capacity(usize),
    /// Per-CPU counters were asked for, and this is what the machine lacks for them.
    Counters(Missing),
    /// An environment variable says something that cannot be understood.
    Variable {
        /// Its name.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
    /// The kernel would not map this many bytes; the error number says why.
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// The kernel's answer.
        errno: i32,
    },
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity(asked) => {
                write!(f, "a registry holds 1 to {MAX_CAPACITY} interpreters, not {asked}")
            }
            Self::Counters(missing) => {
                write!(f, "per-CPU counters were asked for, but this machine lacks {missing}")
            }
            Self::Variable { name, value, expected } => {
                write!(f, "{name} is set to {value:?}, but must be {expected}")
            }
            Self::Memory { bytes, errno } => write!(
                f,
                "no memory for the table ({bytes} bytes): {}",
                std::io::Error::from_raw_os_error(*errno)
            ),
        }
    }
}

impl std::error::Error for SetupError {}

/// Switches the ledger on where the builder did not decide: `1` or `0`.
const LEDGER_VARIABLE: &str = "INTERP_GUARD_LEDGER";

/// The memory behind a table: its slots and then its counters stripe by stripe; and its ledger, if it has one.
pub(crate) struct Mappings {
    _table: Mapping,
    _ledger: Option<Mapping>,
}

/// Zero-filled memory, lazily touched.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> Result<Self, SetupError> {
        let failed = |errno| SetupError::Memory { bytes, errno };
        let length = NonZeroUsize::new(bytes).ok_or_else(|| failed(libc::EINVAL))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice disturbs nothing.
        unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }
            .map(|start| Self { start: start.cast(), bytes })
            .map_err(|errno| failed(errno as i32))
    }
}

// SAFETY: a mapping is plain memory; the table that reads it is Sync.
unsafe impl Send for Mapping {}
// SAFETY: a shared one gives nothing away.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length. The registry that owned it is being dropped, or has been, so that no
        // borrow of the table, and hence no guard, is left; nor is the other head of it that `known` may have had.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}

/// How a table lies in memory, for operators and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layout {
    /// The counter mode in use.
    pub counters: Counters,
    /// Slots: a power of two, at least twice the capacity.
    pub slots: usize,
    /// Counter stripes that belong to a CPU; one spare stripe follows them.
    pub stripes: usize,
    /// Bytes of a slot, without its counters.
    pub bytes_per_slot: usize,
    /// Bytes of a slot's counters on one stripe.
    pub counter_bytes_per_slot: usize,
    /// Bytes of one stripe: what each CPU adds.
    pub bytes_per_stripe: usize,
    /// Address space of the whole table in bytes. Pages that nobody touched take no memory.
    pub mapped_bytes: usize,
}

const PAGE: usize = 4096;

/// Where in the mapping's first page the slots begin. Processors go by the low twelve bits of addresses when they guess
/// whether a load has to wait for a store: a slot whose word lies in its page where its counters lie in theirs can cost a
/// quarter more (`docs/benchmarks.md`, "Where things lie"). One in 256 slots is like that; it had better not be that of ID 0.
const SLOTS_AT: usize = 14 * 64;

const _: () = {
    assert!(SLOTS_AT.is_multiple_of(64)); // aligned, and two slots to a line
    // In no table, however large, one of the first 100 IDs.
    let mut bits = 1;
    while 1 << bits <= 2 * MAX_CAPACITY {
        let mut id = 0;
        while id < 100 {
            let slot = home(id, 64 - bits) as usize;
            let (word, counters) = (SLOTS_AT + slot * size_of::<Slot>(), slot * size_of::<Cell>());
            assert!(word % PAGE != counters % PAGE);
            id += 1;
        }
        bits += 1;
    }
};

/// The serial number of the next table that this process publishes. 0 is that of tables that are not published.
static TABLES: AtomicU64 = AtomicU64::new(1);

impl Layout {
    pub(crate) fn new(capacity: usize, counters: Counters) -> Self {
        let slots = (2 * capacity).next_power_of_two();
        let stripes = platform::possible_cpus() as usize;
        let bytes_per_stripe = (slots * size_of::<Cell>()).next_multiple_of(PAGE);
        let slot_bytes = (SLOTS_AT + slots * size_of::<Slot>()).next_multiple_of(PAGE);
        Self {
            counters,
            slots,
            stripes,
            bytes_per_slot: size_of::<Slot>(),
            counter_bytes_per_slot: size_of::<Cell>(),
            bytes_per_stripe,
            mapped_bytes: slot_bytes + (stripes + 1) * bytes_per_stripe,
        }
    }

    /// Maps the memory and publishes the table on it.
    ///
    /// # Safety
    /// 1. `table` is not published, and no other thread tries to.
    /// 2. The mappings are dropped after `table`.
    pub(super) unsafe fn publish(self, table: &Table, ledger: bool) -> Result<Mappings, SetupError> {
        let mapping = Mapping::new(self.mapped_bytes)?;
        let ledger = if ledger { Some(Mapping::new(size_of::<Ledger>())?) } else { None };
        let cells = self.mapped_bytes - (self.stripes + 1) * self.bytes_per_stripe;
        let hash_shift = 64 - self.slots.trailing_zeros();
        debug_assert!(self.bytes_per_stripe.is_power_of_two());
        let state = State::new(
            hash_shift,
            self.bytes_per_stripe.trailing_zeros(),
            self.stripes as u32,
            self.counters,
        );
        let stripes = Stripes {
            // SAFETY: the stripes end the mapping, so they begin inside it.
            cells: unsafe { mapping.start.add(cells) }.cast(),
            rseq: platform::rseq().map_or(NO_RSEQ, |rseq| rseq.offset),
        };
        if let Some(ledger) = &ledger {
            // SAFETY: (1) is ours; (2) zero-filled memory is an empty ledger, a page is aligned enough, and by (2) of
            // ours it outlives the table.
            unsafe { table.attach_ledger(ledger.start.cast()) };
        }
        // Relaxed: the numbers have to differ, nothing else.
        table.set_serial(TABLES.fetch_add(1, Ordering::Relaxed));
        // SAFETY: the slots end before the stripes, so they begin inside the mapping (aligned: see `SLOTS_AT`).
        let slots = unsafe { mapping.start.add(SLOTS_AT) }.cast();
        // SAFETY: (1) is ours; (2) zero-filled memory is vacant slots and zero counters, as many as the layout counted,
        // and by (2) of ours it outlives the table; (3) per-CPU mode is only chosen with the C library's registration.
        unsafe { table.publish(slots, stripes, state) };
        Ok(Mappings { _table: mapping, _ledger: ledger })
    }
}

/// The mode: the builder's, else the environment's, else the best the machine has.
pub(super) fn choose_counters(asked: Option<Counters>) -> Result<Counters, SetupError> {
    let asked = match (asked, std::env::var_os(COUNTERS_VARIABLE)) {
        (Some(asked), _) => asked,
        (None, None) => return Ok(platform::best_counters()),
        (None, Some(value)) => {
            let name = value.to_string_lossy();
            name.parse().map_err(|_| SetupError::Variable {
                name: COUNTERS_VARIABLE,
                value: name.into_owned(),
                expected: "`per-cpu` or `shared`",
            })?
        }
    };
    match (asked, platform::missing_for_per_cpu()) {
        (Counters::PerCpu, Some(missing)) => Err(SetupError::Counters(missing)),
        _ => Ok(asked),
    }
}

/// With a ledger or without: as the builder says, else the environment, else without.
pub(super) fn choose_ledger(asked: Option<bool>) -> Result<bool, SetupError> {
    let value = match (asked, std::env::var_os(LEDGER_VARIABLE)) {
        (Some(asked), _) => return Ok(asked),
        (None, None) => return Ok(false),
        (None, Some(value)) => value,
    };
    match value.to_str() {
        Some("1") => Ok(true),
        Some("0") => Ok(false),
        _ => Err(SetupError::Variable {
            name: LEDGER_VARIABLE,
            value: value.to_string_lossy().into_owned(),
            expected: "`1` or `0`",
        }),
    }
}
