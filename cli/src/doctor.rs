//! `interp-guard doctor`: what this machine offers, and what the library makes of it.

use interp_guard::{RegisterError, Registry, foreign, platform};
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> ExitCode {
    let registry: Registry<u8> = Registry::new();
    let refused = registry.register(0).err();
    let report = report(&registry, refused.as_ref());
    if options.json {
        crate::print(&format!("{report}\n"));
    } else if let Value::Object(fields) = &report {
        for (name, value) in fields {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            crate::print(&format!("{:<36} {value}\n", name.replace('_', " ")));
        }
    }
    if refused.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(registry: &Registry<u8>, refused: Option<&RegisterError<u8>>) -> Value {
    let layout = registry.layout();
    let why = match refused {
        Some(RegisterError::Unavailable(_, why)) => why.to_string(),
        Some(refused) => refused.to_string(),
        None => foreign::why_counted_so(),
    };
    json!({
        "counters": layout.map_or("not available", |layout| layout.counters.name()),
        "counters_why": why,
        "rseq": foreign::rseq(),
        "membarrier": match platform::membarrier() {
            Ok(()) => "private expedited: registered".to_owned(),
            Err(errno) => format!("refused: {}", std::io::Error::from_raw_os_error(errno)),
        },
        "futex": futex(),
        "kernel": nix_release(),
        "c_library": c_library(),
        "possible_cpus": platform::possible_cpus(),
        "online_cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "stripes": layout.map_or(0, |layout| layout.stripes),
        "cache_line_bytes": cache_line(),
        "bytes_per_slot": layout.map_or(0, |layout| layout.bytes_per_slot),
        "counter_bytes_per_slot_and_stripe": layout.map_or(0, |layout| layout.counter_bytes_per_slot),
        "default_capacity": registry.capacity(),
        "slots_for_it": layout.map_or(0, |layout| layout.slots),
        "bytes_per_cpu_for_it": layout.map_or(0, |layout| layout.bytes_per_stripe),
        "mapped_bytes_for_it": layout.map_or(0, |layout| layout.mapped_bytes),
    })
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

fn nix_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

fn c_library() -> String {
    // SAFETY: the name is terminated; a null answer means that this C library is not glibc.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"gnu_get_libc_version".as_ptr()) };
    if symbol.is_null() {
        return "not glibc".to_owned();
    }
    // SAFETY: glibc declares `const char *gnu_get_libc_version(void)`.
    let version: extern "C" fn() -> *const libc::c_char = unsafe { std::mem::transmute(symbol) };
    // SAFETY: it returns a static, terminated string.
    let version = unsafe { std::ffi::CStr::from_ptr(version()) };
    format!("glibc {}", version.to_string_lossy())
}

fn cache_line() -> i64 {
    // SAFETY: sysconf takes no pointers.
    unsafe { libc::sysconf(libc::_SC_LEVEL1_DCACHE_LINESIZE) }
}
