//! Status numbers, the same as `ig_status` of the C interface.

use interp_guard::LookupError;
use std::ffi::c_int;

pub const OK: c_int = 0;
pub const NOT_FOUND: c_int = 1;
pub const FINALIZING: c_int = 2;
pub const INVALID: c_int = 6;
pub const TIMEOUT: c_int = 7;
pub const WOULD_DEADLOCK: c_int = 8;
pub const ALREADY_CLOSING: c_int = 9;
pub const INTERNAL: c_int = 11;

pub fn status_of(refused: LookupError) -> c_int {
    match refused {
        LookupError::NotFound => NOT_FOUND,
        LookupError::Finalizing => FINALIZING,
    }
}
