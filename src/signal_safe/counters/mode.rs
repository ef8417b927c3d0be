//! The two ways of counting guards.

use core::fmt;

/// How guards are counted, and which pair of fences goes with that.
///
/// Displayed and parsed as `per-cpu` and `shared`, as in `INTERP_GUARD_COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Counters {
    /// A plain increment in a restartable sequence on the lookup's side, `membarrier` on the finalizer's. Needs
    /// restartable sequences registered by the C library (glibc 2.35 or later), a kernel that aborts them, and `membarrier`.
    PerCpu = 0,
    /// An atomic add, which is its own fence. Works everywhere.
    Shared = 1,
}

impl Counters {
    /// `per-cpu` or `shared`.
    ///
    /// ```
    /// # use interp_guard::Counters;
    /// assert_eq!(Counters::PerCpu.name(), "per-cpu");
    /// assert_eq!(Counters::Shared.name().parse(), Ok(Counters::Shared));
    /// ```
    pub const fn name(self) -> &'static str {
        match self {
            Self::PerCpu => "per-cpu",
            Self::Shared => "shared",
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl core::str::FromStr for Counters {
    type Err = UnknownCounters;

    fn from_str(name: &str) -> Result<Self, UnknownCounters> {
        [Self::PerCpu, Self::Shared].into_iter().find(|mode| mode.name() == name).ok_or(UnknownCounters)
    }
}

/// Neither `per-cpu` nor `shared`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCounters;

impl fmt::Display for UnknownCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counters are `per-cpu` or `shared`")
    }
}

impl core::error::Error for UnknownCounters {}
