//! The interpreter ID, and the one word in which a slot keeps its ID and its lifecycle.
//!
//! ```text
//! word : u64 =  0 (Vacant)  |  (id+1)<<1 (Live)  |  (id+1)<<1 | 1 (Closing)
//! ```
//!
//! ID and lifecycle change together or not at all, so "is it still this ID, and is it live" is one load and one
//! compare. Zero-filled memory is an empty table.
//!
//! ```text
//! Vacant --publish--> Live(id) --begin_close--> Closing(id) --vacate--> Vacant
//! ```

use bytemuck::NoUninit;
use core::fmt;
use static_assertions::const_assert;

/// Names one interpreter within its registry, for the life of the process. Never reused.
///
/// An ID is a number from 0 to `i64::MAX - 1`; `i64::MAX` is reserved. Fresh ones come from
/// [`Registry::register`](crate::Registry::register); a runtime that numbers its interpreters itself converts its
/// numbers with `try_from`.
///
/// Context: any, async-signal-safe.
///
/// ```
/// use interp_guard::InterpreterId;
///
/// let id = InterpreterId::try_from(7)?;
/// assert_eq!(i64::from(id), 7);
/// assert_eq!(id.to_string(), "7");
/// assert!(InterpreterId::try_from(-1).is_err());
/// assert!(InterpreterId::try_from(i64::MAX).is_err());
/// # Ok::<(), interp_guard::InvalidId>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct InterpreterId(i64);

impl InterpreterId {
    /// The ID as the unsigned number that words and hashes are made of.
    #[inline]
    pub(super) const fn bits(self) -> u64 {
        self.0 as u64
    }
}

impl TryFrom<i64> for InterpreterId {
    type Error = InvalidId;

    #[inline]
    fn try_from(raw: i64) -> Result<Self, InvalidId> {
        if raw >= 0 && raw != i64::MAX { Ok(Self(raw)) } else { Err(InvalidId(raw)) }
    }
}

impl From<InterpreterId> for i64 {
    #[inline]
    fn from(id: InterpreterId) -> i64 {
        id.0
    }
}

impl fmt::Display for InterpreterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number is negative, or `i64::MAX`, which is reserved: no interpreter can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidId(i64);

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not an interpreter ID: IDs run from 0 to {}", self.0, i64::MAX - 1)
    }
}

impl core::error::Error for InvalidId {}

/// The state of one slot as a value. See the module for its layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Word(u64);

// SAFETY: a transparent u64; every byte of it is always initialised.
unsafe impl NoUninit for Word {}

const CLOSING_BIT: u64 = 1;
const ID_SHIFT: u32 = CLOSING_BIT.trailing_ones();

impl Word {
    /// Nobody lives here.
    pub const VACANT: Self = Self(0);

    /// `id` lives here and may be guarded.
    #[inline]
    pub const fn live(id: InterpreterId) -> Self {
        Self((id.bits() + 1) << ID_SHIFT)
    }

    /// `id` lives here and gives out no more guards.
    #[inline]
    pub const fn closing(id: InterpreterId) -> Self {
        Self(Self::live(id).0 | CLOSING_BIT)
    }

    /// Is some interpreter, whichever, closing here?
    #[inline]
    pub const fn is_closing(self) -> bool {
        self.0 & CLOSING_BIT != 0
    }

    /// Is some interpreter, whichever, live here?
    #[inline]
    pub const fn is_live(self) -> bool {
        !self.is_closing() && self.0 != Self::VACANT.0
    }

    /// The interpreter that lives here, live or closing.
    #[inline]
    pub const fn id(self) -> Option<InterpreterId> {
        match (self.0 >> ID_SHIFT).checked_sub(1) {
            Some(bits) => Some(InterpreterId(bits as i64)),
            None => None,
        }
    }
}

// The largest ID keeps clear of the closing bit and of the top of the word, and the three states never coincide.
const LARGEST: InterpreterId = InterpreterId(i64::MAX - 1);
const_assert!(Word::live(LARGEST).0 == u64::MAX - 1);
const_assert!(Word::closing(LARGEST).0 == u64::MAX);
const_assert!(Word::live(InterpreterId(0)).0 == 2 && Word::closing(InterpreterId(0)).0 == 3);
