//! Where the probe for an ID begins.

/// The hash: where the probe for an ID begins, in a table of `1 << (64 - shift)` slots.
///
/// Multiplying by the golden ratio spreads dense IDs evenly (displacement 0 or 1 for 0..n). Alone it piles up strides
/// that are Fibonacci numbers; folding the ID by eight bits first breaks them up. `docs/hash.md` has the measurements.
#[inline(always)]
pub const fn home(id: u64, shift: u32) -> u32 {
    ((id ^ (id >> 8)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (shift & 63)) as u32
}
