// May import: platform, registry, signal_safe.
//! What the interfaces to other languages have in common: the numbers they answer, how a caller's address gets to them, and what
//! their doctors say of the machine. For the packages of this workspace, and not kept stable for others.
//!
//! # A caller's address
//!
//! `jump_with_caller!(number, other)` is the body of a naked function that is another one with one more argument: its caller's address, for
//! the ledger. `number` is how many arguments stand before it, at most three, all of them integers or pointers. The other function is
//! entered as if it had been called directly.
//!
//! ```
//! /// Where this was called from.
//! #[unsafe(naked)]
//! unsafe extern "C" fn called_from() -> usize {
//!     interp_guard::jump_with_caller!(0, as_it_is)
//! }
//!
//! extern "C" fn as_it_is(caller: usize) -> usize {
//!     caller
//! }
//!
//! // SAFETY: it fits `as_it_is`.
//! let (here, there) = unsafe { (called_from(), called_from()) };
//! assert!(here != 0 && here != there);
//! ```

use crate::platform::{self, Missing};
use crate::registry::{Layout, Registry};
use crate::signal_safe::counters::Counters;
use std::fmt;

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

/// What a doctor says: of a registry, which is set up if it was not yet, and of the machine.
///
/// Displayed, it is a text for a person: the verdict, and the sections one below the other.
///
/// ```
/// use interp_guard::{Registry, foreign};
/// let found = foreign::examine(&Registry::<String>::new());
/// assert!(found.is_well && found.verdict.starts_with("OK: "));
/// assert!(found.to_string().contains(found.sections[1].title.as_str()));
/// ```
#[derive(Clone, Debug)]
pub struct Findings {
    /// Can interpreters be registered here?
    pub is_well: bool,
    /// In one line: how guards are counted, or why nothing can be registered.
    pub verdict: String,
    /// The facts, the same ones in every case.
    pub sections: Vec<Section>,
}

/// Facts of one kind.
#[derive(Clone, Debug)]
pub struct Section {
    /// What kind.
    pub title: String,
    /// The facts, by names that make keys: `possible_cpus`.
    pub facts: Vec<(&'static str, Fact)>,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// In words.
    Words(String),
    /// A number.
    Number(u64),
    /// There is nothing to say of it: without a table, or where the system does not tell.
    Unknown,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Number(number) => number.fmt(f),
            Self::Unknown => f.write_str("not known"),
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verdict)?;
        let names = self.sections.iter().flat_map(|section| section.facts.iter().map(|(name, _)| name.len()));
        let width = names.max().unwrap_or(0);
        for section in &self.sections {
            writeln!(f, "\n{}", section.title)?;
            for (name, fact) in &section.facts {
                let name = name.replace('_', " ");
                writeln!(f, "{name:width$}  {fact}")?;
            }
        }
        Ok(())
    }
}

/// Examines the machine, and what the library makes of it in `registry`.
///
/// Context: normal.
///
/// ```
/// use interp_guard::{Registry, foreign};
/// let registry: Registry<String> = Registry::with_capacity(0); // which none can have
/// let found = foreign::examine(&registry);
/// assert!(!found.is_well && found.verdict.starts_with("NOT AVAILABLE: "));
/// ```
pub fn examine<T: Send + Sync + 'static>(registry: &Registry<T>) -> Findings {
    let refused = registry.be_known().err();
    let layout = registry.layout();
    let missing = platform::missing_for_per_cpu();
    let why = match &refused {
        Some(refused) => refused.to_string(),
        None => why_counted_so(missing),
    };
    let verdict = match layout.map(|layout| layout.counters) {
        Some(Counters::PerCpu) => "OK: per-CPU counters".to_owned(),
        Some(Counters::Shared) => "OK: shared counters".to_owned(),
        None => format!("NOT AVAILABLE: {why}"),
    };
    let words = |words: &str| Fact::Words(words.to_owned());
    let of_layout =
        |number: fn(Layout) -> usize| layout.map_or(Fact::Unknown, |layout| count(number(layout)));
    let verdict_facts = vec![
        ("counters", words(layout.map_or("not available", |layout| layout.counters.name()))),
        ("counters_why", Fact::Words(why)),
    ];
    let machine = vec![
        ("rseq", Fact::Words(rseq())),
        ("membarrier", Fact::Words(membarrier())),
        ("futex", Fact::Words(futex())),
        ("kernel", Fact::Words(kernel())),
        ("c_library", Fact::Words(c_library())),
        ("possible_cpus", Fact::Number(platform::possible_cpus().into())),
        ("online_cpus", std::thread::available_parallelism().map_or(Fact::Unknown, |cpus| count(cpus.get()))),
        ("cache_line_bytes", cache_line()),
    ];
    let memory = vec![
        ("capacity", count(registry.capacity())),
        ("slots", of_layout(|layout| layout.slots)),
        ("stripes", of_layout(|layout| layout.stripes)),
        ("bytes_per_slot", of_layout(|layout| layout.bytes_per_slot)),
        ("counter_bytes_per_slot_and_stripe", of_layout(|layout| layout.counter_bytes_per_slot)),
        ("bytes_per_cpu", of_layout(|layout| layout.bytes_per_stripe)),
        ("mapped_bytes", of_layout(|layout| layout.mapped_bytes)),
    ];
    let sections = vec![
        Section { title: "Verdict".into(), facts: verdict_facts },
        Section { title: "Machine".into(), facts: machine },
        Section {
            title: format!("Memory at a capacity of {} interpreters", registry.capacity()),
            facts: memory,
        },
    ];
    Findings { is_well: layout.is_some(), verdict, sections }
}

fn count(number: usize) -> Fact {
    Fact::Number(number as u64)
}

/// Why guards are counted as they are, in a registry that was not told how.
fn why_counted_so(missing: Option<Missing>) -> String {
    match (std::env::var("INTERP_GUARD_COUNTERS"), missing) {
        (Ok(asked), _) => format!("INTERP_GUARD_COUNTERS={asked}"),
        (Err(_), None) => "the machine has all that per-CPU counting needs".to_owned(),
        (Err(_), Some(missing)) => format!("this machine lacks {missing}"),
    }
}

/// What became of restartable sequences.
fn rseq() -> String {
    platform::rseq().map_or("not registered by the C library".to_owned(), |rseq| {
        let (offset, size, sequences) = (rseq.offset, rseq.size, platform::sequences());
        format!("registered by the C library at thread pointer {offset:+}, {size} bytes; {sequences}")
    })
}

fn membarrier() -> String {
    match platform::membarrier() {
        Ok(()) => "private expedited: registered".to_owned(),
        Err(errno) => format!("refused: {}", std::io::Error::from_raw_os_error(errno)),
    }
}

/// Waits on a word that does not hold what is expected: the kernel answers at once, if it lets us ask.
fn futex() -> String {
    let word = 0_u32;
    // SAFETY: FUTEX_WAIT on a live word, without a timeout to read; the value differs, so it returns at once.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            &word,
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            1,
            std::ptr::null::<u8>(),
        )
    };
    let error = std::io::Error::last_os_error();
    if result == -1 && error.raw_os_error() == Some(libc::EAGAIN) {
        "private wait and wake: available".to_owned()
    } else {
        format!("unexpected answer: {result}, {error}")
    }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

/// Not asked for by name at run time: in a program that glibc is linked into, `dlsym` finds nothing.
fn c_library() -> String {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: no arguments; it returns a static, terminated string.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        format!("glibc {}", version.to_string_lossy())
    }
    #[cfg(not(target_env = "gnu"))]
    "not glibc".to_owned()
}

/// Where the C library does not know, it says 0 or -1.
fn cache_line() -> Fact {
    #[cfg(target_env = "gnu")]
    // SAFETY: sysconf takes no pointers.
    let bytes = unsafe { libc::sysconf(libc::_SC_LEVEL1_DCACHE_LINESIZE) };
    #[cfg(not(target_env = "gnu"))]
    let bytes = 0; // not a question of POSIX
    u64::try_from(bytes).ok().filter(|&bytes| bytes != 0).map_or(Fact::Unknown, Fact::Number)
}
