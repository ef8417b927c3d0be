//! How long the end of an interpreter may wait, where the application says so: `interp_guard.set_drain_timeout`, or
//! `INTERP_GUARD_DRAIN_TIMEOUT` in the environment. Without either it waits for as long as it takes.

use crate::ground::helpers::none;
use pyo3_ffi::{self as ffi, PyObject};
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const VARIABLE: &str = "INTERP_GUARD_DRAIN_TIMEOUT";

/// What comes after the report when the time is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The hook returns, and CPython goes on with guards out.
    GoOn,
    /// The process ends with status 1.
    Exit,
}

/// `(nanoseconds + 1) << 1 | exits`; 0: without limit.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// A century: more nanoseconds do not fit.
const LONGEST: Duration = Duration::from_secs(3_200_000_000);

fn set(limit: Option<(Duration, Then)>) {
    let bits = limit.map_or(0, |(timeout, then)| {
        let nanoseconds = timeout.min(LONGEST).as_nanos() as u64;
        (nanoseconds + 1) << 1 | u64::from(then == Then::Exit)
    });
    LIMIT.store(bits, Ordering::Relaxed); // one word, with nothing behind it
}

/// The limit of every wait, from its beginning, and what comes then; if there is one.
///
/// Context: any.
pub fn limit() -> Option<(Duration, Then)> {
    let bits = LIMIT.load(Ordering::Relaxed); // as in `set`
    let nanoseconds = (bits >> 1).checked_sub(1)?;
    Some((Duration::from_nanos(nanoseconds), if bits & 1 == 1 { Then::Exit } else { Then::GoOn }))
}

/// Reads the environment, once in the process; what it says that cannot be understood is an error each time.
pub fn read_environment() -> Result<(), String> {
    static READ: OnceLock<Result<(), String>> = OnceLock::new();
    let read = || match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        None => Ok(()),
        Some(value) => value.to_str().and_then(parse).map(|limit| set(Some(limit))).ok_or_else(|| {
            format!(
                "{VARIABLE} is {value:?}, but must be seconds and what comes then: `5`, `0.5:report` or \
                 `5:exit`"
            )
        }),
    };
    READ.get_or_init(read).clone()
}

/// `5`, `0.5:report`, `5:exit`.
fn parse(value: &str) -> Option<(Duration, Then)> {
    let (seconds, then) = value.split_once(':').unwrap_or((value, "report"));
    let then = match then {
        "report" => Then::GoOn,
        "exit" => Then::Exit,
        _ => return None,
    };
    // Rust's numbers may be `inf` and `1e3`, too: nobody asks for these, and digits are what the text says.
    let is_plain = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = seconds.parse().ok().filter(|_| is_plain)?;
    Some((Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST), then))
}

/// `set_drain_timeout(seconds, exits)`; a negative number: without limit.
///
/// # Safety
/// Called by Python, attached, with a tuple.
pub unsafe extern "C" fn set_drain_timeout(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut seconds, mut exits): (f64, c_int) = (0.0, 0);
    // SAFETY: attached, with a tuple; what is written fits the format.
    if unsafe { ffi::PyArg_ParseTuple(arguments, c"dp".as_ptr(), &raw mut seconds, &raw mut exits) } == 0 {
        return null_mut();
    }
    let then = if exits != 0 { Then::Exit } else { Then::GoOn };
    set((seconds >= 0.0).then(|| (Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST), then)));
    none()
}
