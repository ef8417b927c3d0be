//! What every lookup and every drop must know of its table, packed into one word: one load instead of six.
//!
//! ```text
//! state : u64 =  generation (32)  |  CPU stripes (16)  |  stripe shift (8)  |  shared (1)  |  records (1)  |  hash shift (6)
//! ```
//!
//! A lookup and its drop are bound by how many instructions and memory accesses they issue, not by any one of them
//! (`docs/benchmarks.md`), and the fields are needed together. The rightmost byte serves as the processor's shift count
//! and as the test of the mode at once. All but the generation is fixed before the table is published.

use super::counters::mode::Counters;
use bytemuck::NoUninit;
use static_assertions::const_assert;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(u64);

// SAFETY: a transparent u64; every byte of it is always initialised.
unsafe impl NoUninit for State {}

const RECORDS: u64 = 1 << 6;
const SHARED: u64 = 1 << 7;
const STRIPE_SHIFT_AT: u32 = 8;
const CPUS_AT: u32 = 16;
const GENERATION_AT: u32 = 32;

impl State {
    /// The state of a table that is not published, in generation 0.
    pub const UNPUBLISHED: Self = Self(0);

    /// The state of a table of `1 << (64 - hash_shift)` slots whose counters lie `1 << stripe_shift` bytes apart.
    ///
    /// The shifts are taken modulo 64, as a 64-bit shift takes them.
    pub const fn new(hash_shift: u32, stripe_shift: u32, cpus: u32, mode: Counters) -> Self {
        let (hash_shift, stripe_shift) = (hash_shift as u64 & 63, stripe_shift as u64 & 63);
        // CPUs beyond the field's range count on the spare stripe.
        let cpus = if cpus > u16::MAX as u32 { u16::MAX as u64 } else { cpus as u64 };
        let shared = match mode {
            Counters::PerCpu => 0,
            Counters::Shared => SHARED,
        };
        Self(cpus << CPUS_AT | stripe_shift << STRIPE_SHIFT_AT | shared | hash_shift)
    }

    /// The same table with its guards recorded in a ledger, or not.
    pub const fn with_records(self, records: bool) -> Self {
        Self(if records { self.0 | RECORDS } else { self.0 & !RECORDS })
    }

    /// The same table in another fork generation.
    pub const fn with_generation(self, generation: u32) -> Self {
        Self((generation as u64) << GENERATION_AT | self.0 & ((1 << GENERATION_AT) - 1))
    }

    /// How often this process's ancestors have forked around the table, wrapping.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> GENERATION_AT) as u32
    }

    /// The hash's shift: 64 less the binary logarithm of the number of slots.
    #[inline(always)]
    pub const fn hash_shift(self) -> u32 {
        self.0 as u32 & 63
    }

    /// The binary logarithm of the distance of two stripes in bytes, in the lowest six bits: what the processor looks at
    /// in a shift count.
    #[inline(always)]
    pub const fn stripe_shift_count(self) -> u64 {
        self.0 >> STRIPE_SHIFT_AT
    }

    /// Stripes that belong to a CPU; also the number of the spare one, which follows them.
    #[inline(always)]
    pub const fn cpus(self) -> u32 {
        (self.0 >> CPUS_AT) as u16 as u32
    }

    /// Shared rather than per-CPU?
    #[inline(always)]
    pub const fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    /// How guards are counted.
    pub const fn counters(self) -> Counters {
        if self.is_shared() { Counters::Shared } else { Counters::PerCpu }
    }

    /// The number of slots less one.
    #[inline(always)]
    pub const fn mask(self) -> u32 {
        (u64::MAX >> self.hash_shift()) as u32
    }

    /// Are guards recorded in a ledger?
    #[inline(always)]
    pub const fn records(self) -> bool {
        self.0 & RECORDS != 0
    }
}

// Every field reads back as it was put in, at the ends of its range too.
const fn reads_back(
    hash_shift: u32,
    stripe_shift: u32,
    cpus: u32,
    mode: Counters,
    records: bool,
    generation: u32,
) -> bool {
    let state = State::new(hash_shift, stripe_shift, cpus, mode);
    let state = state.with_generation(u32::MAX).with_records(!records);
    let state = state.with_generation(generation).with_records(records);
    state.hash_shift() == hash_shift
        && state.stripe_shift_count() & 63 == stripe_shift as u64
        && state.cpus() == cpus
        && state.is_shared() == matches!(mode, Counters::Shared)
        && state.counters() as u32 == mode as u32
        && state.records() == records
        && state.generation() == generation
}
const_assert!(State::new(53, 15, 1, Counters::Shared).mask() == 2047);
const_assert!(reads_back(43, 25, 1, Counters::PerCpu, true, 0));
const_assert!(reads_back(63, 12, 0xffff, Counters::Shared, false, u32::MAX));
const_assert!(reads_back(0, 63, 0, Counters::Shared, true, 1));
