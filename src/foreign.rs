// May import: platform.
//! What the interfaces to other languages have in common: the numbers they answer, how a caller's address gets to them, and what
//! their doctors say of the machine. For the packages of this workspace, and not kept stable for others.

use crate::platform;

/// The numbers that calls answer: `ig_status` in C, `INTERP_GUARD_..` in `pep788.h`.
///
/// ```
/// use interp_guard::foreign::status;
/// assert_eq!((status::OK, status::INTERNAL), (0, 11));
/// ```
pub mod status {
    /// Done.
    pub const OK: i32 = 0;
    /// No interpreter has this ID.
    pub const NOT_FOUND: i32 = 1;
    /// The interpreter is closing.
    pub const FINALIZING: i32 = 2;
    /// There is no room left.
    pub const FULL: i32 = 3;
    /// An interpreter with this ID is registered.
    pub const DUPLICATE_ID: i32 = 4;
    /// An interpreter had this ID and is gone.
    pub const RETIRED_ID: i32 = 5;
    /// An argument means nothing, or the call does not fit the state of things.
    pub const INVALID: i32 = 6;
    /// The time is over.
    pub const TIMEOUT: i32 = 7;
    /// The calling thread itself is what the call would wait for.
    pub const WOULD_DEADLOCK: i32 = 8;
    /// Somebody else has closed the interpreter, or drains it.
    pub const ALREADY_CLOSING: i32 = 9;
    /// The machine lacks what was asked for.
    pub const UNAVAILABLE: i32 = 10;
    /// A defect of this library.
    pub const INTERNAL: i32 = 11;
}

/// The body of a naked function that is another one with one more argument: its caller's address, for the ledger.
///
/// It goes into the named register. On entry the return address is at the top of the stack; the other function is entered as if it had
/// been called directly.
///
/// ```
/// /// Where this was called from.
/// #[unsafe(naked)]
/// unsafe extern "C" fn called_from() -> usize {
///     interp_guard::jump_with_caller!("rdi", as_it_is)
/// }
///
/// extern "C" fn as_it_is(caller: usize) -> usize {
///     caller
/// }
///
/// // SAFETY: it fits `as_it_is`.
/// let (here, there) = unsafe { (called_from(), called_from()) };
/// assert!(here != 0 && here != there);
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! jump_with_caller {
    ($register:literal, $body:path) => {
        ::core::arch::naked_asm!(concat!("mov ", $register, ", [rsp]"), "jmp {body}", body = sym $body)
    };
}

/// Why guards are counted as they are, in a registry that was not told how.
///
/// Context: normal.
///
/// ```
/// assert!(!interp_guard::foreign::why_counted_so().is_empty());
/// ```
pub fn why_counted_so() -> String {
    match (std::env::var("INTERP_GUARD_COUNTERS"), platform::missing_for_per_cpu()) {
        (Ok(asked), _) => format!("INTERP_GUARD_COUNTERS={asked}"),
        (Err(_), None) => "the machine has all that per-CPU counting needs".to_owned(),
        (Err(_), Some(missing)) => format!("this machine lacks {missing}"),
    }
}

/// What became of restartable sequences.
///
/// Context: normal.
///
/// ```
/// assert!(interp_guard::foreign::rseq().contains("by the C library"));
/// ```
pub fn rseq() -> String {
    platform::rseq().map_or("not registered by the C library".to_owned(), |rseq| {
        format!("registered by the C library at thread pointer {:+}, {} bytes", rseq.offset, rseq.size)
    })
}
