//! Where Rust ends: no panic crosses into C.

use crate::status::ig_status;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of an export that may panic. A panic has been printed by then, and ends here as `IG_INTERNAL`.
///
/// Unwind safety: the registry says of itself that a panic cannot leave it half-changed, and the arguments are the
/// caller's, who is told.
pub fn contained(body: impl FnOnce() -> ig_status) -> ig_status {
    contained_or(ig_status::IG_INTERNAL, body)
}

/// [`contained`], where a panic means something else than a defect of ours.
pub fn contained_or(panicked: ig_status, body: impl FnOnce() -> ig_status) -> ig_status {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_as_a_status() {
        assert_eq!(contained(|| ig_status::IG_FULL), ig_status::IG_FULL);
        assert_eq!(contained(|| panic!("this panic belongs to a test")), ig_status::IG_INTERNAL);
    }
}
