//! Status codes, and how the library's errors become them.

use interp_guard::foreign::status;
use interp_guard::pending::QueueError;
use interp_guard::{CloseError, DrainError, FinalizeError, LookupError, RegisterError};
use std::ffi::{CStr, c_char, c_uint};

/// What a call says. The numbers are stable; new ones are only added at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ig_status {
    /// Done.
    IG_OK = 0,
    /// No interpreter has this ID: it was never registered, or it has been finalized.
    IG_NOT_FOUND = 1,
    /// The interpreter is closing and gives out no more guards. From registering: ig_finalize_all is running.
    IG_FINALIZING = 2,
    /// As many interpreters are registered as the registry has capacity for, or as many calls wait as the queue has.
    IG_FULL = 3,
    /// An interpreter with this ID is registered.
    IG_DUPLICATE_ID = 4,
    /// An interpreter had this ID and is gone; IDs are never reused.
    IG_RETIRED_ID = 5,
    /// An argument is null, zeroed or out of range, or the call does not fit the state of things.
    IG_INVALID = 6,
    /// The time is over, and guards are still out or daemons attaching. The interpreter is closed and otherwise untouched.
    IG_TIMEOUT = 7,
    /// The calling thread itself is what the call would wait for: it is inside an ensure or a pending call. A guard from
    /// ig_lookup that the thread holds is not noticed so, and is waited for.
    IG_WOULD_DEADLOCK = 8,
    /// The interpreter is closed already: ig_drain goes on with it. From ig_drain: another thread is draining it.
    IG_ALREADY_CLOSING = 9,
    /// The machine lacks what was asked for: memory, a counter mode, a memory barrier.
    IG_UNAVAILABLE = 10,
    /// A defect of this library, caught at its boundary. A message is on standard error.
    IG_INTERNAL = 11,
}

use ig_status::*;

const ALL: [ig_status; 12] = [
    IG_OK,
    IG_NOT_FOUND,
    IG_FINALIZING,
    IG_FULL,
    IG_DUPLICATE_ID,
    IG_RETIRED_ID,
    IG_INVALID,
    IG_TIMEOUT,
    IG_WOULD_DEADLOCK,
    IG_ALREADY_CLOSING,
    IG_UNAVAILABLE,
    IG_INTERNAL,
];

// The numbers that the other interfaces answer, too.
const _: () = {
    assert!(IG_OK as i32 == status::OK);
    assert!(IG_NOT_FOUND as i32 == status::NOT_FOUND);
    assert!(IG_FINALIZING as i32 == status::FINALIZING);
    assert!(IG_FULL as i32 == status::FULL);
    assert!(IG_DUPLICATE_ID as i32 == status::DUPLICATE_ID);
    assert!(IG_RETIRED_ID as i32 == status::RETIRED_ID);
    assert!(IG_INVALID as i32 == status::INVALID);
    assert!(IG_TIMEOUT as i32 == status::TIMEOUT);
    assert!(IG_WOULD_DEADLOCK as i32 == status::WOULD_DEADLOCK);
    assert!(IG_ALREADY_CLOSING as i32 == status::ALREADY_CLOSING);
    assert!(IG_UNAVAILABLE as i32 == status::UNAVAILABLE);
    assert!(IG_INTERNAL as i32 == status::INTERNAL);
};

impl ig_status {
    const fn message(self) -> &'static CStr {
        match self {
            IG_OK => c"done",
            IG_NOT_FOUND => c"no interpreter has this ID: it was never registered, or it has been finalized",
            IG_FINALIZING => c"the interpreter is finalizing and gives out no more guards",
            IG_FULL => c"there is no room left",
            IG_DUPLICATE_ID => c"an interpreter with this ID is already registered",
            IG_RETIRED_ID => c"this ID is retired; IDs are never reused",
            IG_INVALID => {
                c"an argument is null, zeroed or out of range, or the call does not fit the state of things"
            }
            IG_TIMEOUT => c"the time is over; guards are still out, or daemons are still attaching",
            IG_WOULD_DEADLOCK => c"the call would wait for its own thread",
            IG_ALREADY_CLOSING => {
                c"the interpreter is closed already: ig_drain goes on with it, unless another thread does"
            }
            IG_UNAVAILABLE => c"the machine lacks what was asked for",
            IG_INTERNAL => {
                c"a defect of interp-guard, caught at its boundary; a message is on standard error"
            }
        }
    }
}

/// A status as C passes it: any number at all.
#[repr(transparent)]
pub struct any_status(c_uint);

/// What a status means, in a sentence for people.
///
/// Context: any, async-signal-safe.
/// Returns: text that lives as long as the library; never null, also for a number that is no status.
/// Touches: nothing.
#[unsafe(no_mangle)]
pub extern "C" fn ig_status_message(status: any_status) -> *const c_char {
    let known = ALL.iter().find(|known| **known as c_uint == status.0);
    known.map_or(c"not a status of interp-guard", |status| status.message()).as_ptr()
}

/// The version of the library that runs, such as "0.1.0". The header's own is IG_VERSION_MAJOR, _MINOR, _PATCH.
///
/// Context: any, async-signal-safe.
/// Returns: text that lives as long as the library.
/// Touches: nothing.
#[unsafe(no_mangle)]
pub extern "C" fn ig_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

impl From<LookupError> for ig_status {
    #[inline]
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFound => IG_NOT_FOUND,
            LookupError::Finalizing => IG_FINALIZING,
        }
    }
}

impl<T> From<RegisterError<T>> for ig_status {
    fn from(error: RegisterError<T>) -> Self {
        match error {
            RegisterError::RegistryFull(_) => IG_FULL,
            RegisterError::DuplicateId(_) => IG_DUPLICATE_ID,
            RegisterError::RetiredId(_) => IG_RETIRED_ID,
            RegisterError::ShuttingDown(_) => IG_FINALIZING,
            RegisterError::Unavailable(..) => IG_UNAVAILABLE,
        }
    }
}

impl From<CloseError> for ig_status {
    fn from(error: CloseError) -> Self {
        match error {
            CloseError::NotFound => IG_NOT_FOUND,
            CloseError::AlreadyClosing => IG_ALREADY_CLOSING,
        }
    }
}

impl From<QueueError> for ig_status {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Capacity(_) => IG_INVALID,
            QueueError::EventFd(_) | QueueError::Registry(_) => IG_UNAVAILABLE,
            _ => IG_INTERNAL,
        }
    }
}

impl<T: Send + Sync> From<DrainError<'_, T>> for ig_status {
    fn from(error: DrainError<'_, T>) -> Self {
        match error {
            DrainError::Timeout(_) => IG_TIMEOUT,
            DrainError::WouldDeadlock(_) => IG_WOULD_DEADLOCK,
            DrainError::Unbalanced(_) => IG_INVALID,
            DrainError::FenceFailed(_) => IG_UNAVAILABLE,
            DrainError::Superseded(_) => IG_ALREADY_CLOSING,
            _ => IG_INTERNAL,
        }
    }
}

impl<T: Send + Sync> From<FinalizeError<'_, T>> for ig_status {
    fn from(error: FinalizeError<'_, T>) -> Self {
        match error {
            FinalizeError::NotFound => IG_NOT_FOUND,
            FinalizeError::AlreadyClosing => IG_ALREADY_CLOSING,
            FinalizeError::WouldDeadlock(_) => IG_WOULD_DEADLOCK,
            FinalizeError::Drain(unfinished) => unfinished.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_count_up_from_zero_and_each_has_its_own_message() {
        let mut seen = std::collections::HashSet::new();
        for (number, status) in ALL.into_iter().enumerate() {
            assert_eq!(status as usize, number);
            assert!(seen.insert(status.message()), "{status:?} shares its message");
        }
    }

    #[test]
    fn a_number_that_is_no_status_has_a_message_too() {
        for number in [12, 4711, c_uint::MAX] {
            // SAFETY: `ig_status_message` returns terminated text.
            let text = unsafe { CStr::from_ptr(ig_status_message(any_status(number))) };
            assert_eq!(text, c"not a status of interp-guard");
        }
    }
}
