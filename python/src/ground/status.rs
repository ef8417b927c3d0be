//! The numbers that calls answer, those of the C interface.

use interp_guard::LookupError;
pub use interp_guard::foreign::status::*;
use std::ffi::{CStr, c_int};

/// Those of `pep788.h`, for the Python package.
pub const NAMED: [(&CStr, c_int); 8] = [
    (c"OK", OK),
    (c"NOT_FOUND", NOT_FOUND),
    (c"FINALIZING", FINALIZING),
    (c"INVALID", INVALID),
    (c"TIMEOUT", TIMEOUT),
    (c"WOULD_DEADLOCK", WOULD_DEADLOCK),
    (c"ALREADY_CLOSING", ALREADY_CLOSING),
    (c"INTERNAL", INTERNAL),
];

pub fn status_of(refused: LookupError) -> c_int {
    match refused {
        LookupError::NotFound => NOT_FOUND,
        LookupError::Finalizing => FINALIZING,
    }
}
