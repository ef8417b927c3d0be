//! What `ig_lookup` and `ig_guard_close` cost from C, against the Rust calls: one process, interleaved rounds, medians.
//!
//! The C side is a loop compiled by `cc -O2` against the installed library, once linked with the static one (direct calls) and
//! once with the shared one (calls through the linkage table). `capi/README.md` says what was found.

// The workspace's way to measure.
#[allow(dead_code, unused_imports, reason = "the other benchmark uses more of it")]
#[path = "../../../benches/peers/arch/mod.rs"]
mod arch;
#[allow(dead_code, unused_imports, reason = "the other benchmark uses more of it")]
#[path = "../../../benches/peers/clock.rs"]
mod clock;
#[path = "../../../benches/peers/floors.rs"]
mod floors;
#[allow(dead_code, reason = "the tests use it")]
#[path = "../../tests/support/header.rs"]
mod header;
#[allow(dead_code, reason = "the other benchmark uses more of it")]
#[path = "../../../benches/peers/measure.rs"]
mod measure;
#[path = "../../../benches/peers/row.rs"]
mod row;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/installed/tools.rs"]
mod tools;

use clock::{answered, opaque};
use interp_guard::{Counters, Guard, InterpreterId, Registry};
use measure::{Effort, Task, compare};
use std::ffi::{CString, c_int, c_uint, c_void};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tools::{Link, installed};

/// What a registry is for here: an address.
struct Interpreter;

type Loop = unsafe extern "C" fn(*mut c_void, i64, u64) -> u64;

/// The C side, linked one way, with a registry of its own.
struct CSide {
    registry: *mut c_void,
    lookup_and_close: Loop,
    two_calls: Loop,
    miss: Loop,
}

// SAFETY: an `ig_registry` is for any thread, and loops are code.
unsafe impl Sync for CSide {}

/// A function of a library, by its type `F`.
///
/// # Safety
/// `F` is its type.
unsafe fn function<F: Copy>(library: *mut c_void, name: &str) -> F {
    let text = CString::new(name).unwrap();
    // SAFETY: `library` came from dlopen.
    let found = unsafe { libc::dlsym(library, text.as_ptr()) };
    assert!(!found.is_null(), "no {name}");
    // SAFETY: the caller's promise; function pointers are as wide as `found`.
    unsafe { std::mem::transmute_copy(&found) }
}

impl CSide {
    fn load(library: &Path, capacity: usize, interpreters: i64, counters: c_uint) -> Self {
        let path = CString::new(library.as_os_str().as_bytes()).unwrap();
        // SAFETY: the library's initialisers do nothing of note.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "{path:?} does not load");
        let mut registry: *mut c_void = std::ptr::null_mut();
        // SAFETY: the header's types, in this and in what follows.
        unsafe {
            type New = unsafe extern "C" fn(usize, c_uint, *mut *mut c_void) -> c_int;
            type Register = unsafe extern "C" fn(*mut c_void, i64, *mut c_void) -> c_int;
            let new: New = function(library, "ig_registry_new_with");
            let register: Register = function(library, "ig_register_with_id");
            assert_eq!(new(capacity, counters, &mut registry), 0);
            for id in 0..interpreters {
                assert_eq!(register(registry, id, library), 0);
            }
            let [lookup_and_close, two_calls, miss] =
                ["lookup_and_close", "two_calls", "miss"].map(|name| function(library, name));
            Self { registry, lookup_and_close, two_calls, miss }
        }
    }

    fn task<'a>(&'a self, name: &'static str, of: fn(&Self) -> Loop, id: i64) -> Task<'a> {
        let run = move |_: usize, n| {
            // SAFETY: the loop's type, and its registry.
            assert_eq!(unsafe { of(self)(self.registry, id, n) }, 0);
        };
        Task { name, kind: "C", run: Box::new(run) }
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = Effort { rounds: if quick { 60 } else { 300 }, attempts: 5, turn_ns: 200_000.0 };
    let linked = [Link::Static, Link::Shared].map(|link| installed().compile_plugin(calls(), "calls", link));
    println!("mode      case                         from                                ns   to Rust");
    for (mode, counters, wish) in [("per-cpu", Counters::PerCpu, 1), ("shared", Counters::Shared, 2)] {
        if mode == "per-cpu" && interp_guard::platform::missing_for_per_cpu().is_some() {
            println!("per-cpu   not on this machine");
            continue;
        }
        for interpreters in [1_i64, 1000] {
            let registry = Registry::with_capacity(1024).counters(counters);
            for id in 0..interpreters {
                registry.register_with_id(InterpreterId::try_from(id).unwrap(), Interpreter).unwrap();
            }
            let [archived, shared] =
                linked.each_ref().map(|library| CSide::load(library, 1024, interpreters, wish));
            let (hit, none) = (interpreters / 2, interpreters + 4711);
            let case = |name: &'static str| format!("{mode:<8}  {name}, {interpreters}");
            let of = |id: i64| InterpreterId::try_from(id).unwrap();
            let rust = |name, run: Box<dyn Fn(usize, u64) + Sync>| Task { name, kind: "Rust", run };
            let registry: &'static Registry<Interpreter> = Box::leak(Box::new(registry));
            let hits = [
                rust("Rust, inlined", Box::new(move |_, n| inlined(registry, of(hit), n))),
                rust("Rust, inlined, guard in memory", Box::new(move |_, n| in_memory(registry, of(hit), n))),
                rust("Rust, called, guard in memory", Box::new(move |_, n| called(registry, of(hit), n))),
                archived.task("C, two calls that do nothing", |side| side.two_calls, hit),
                archived.task("C, static library", |side| side.lookup_and_close, hit),
                shared.task("C, shared library", |side| side.lookup_and_close, hit),
            ];
            show(&case("lookup and close"), effort, &hits);
            let misses = [
                rust("Rust, inlined", Box::new(move |_, n| inlined_misses(registry, of(none), n))),
                archived.task("C, static library", |side| side.miss, none),
                shared.task("C, shared library", |side| side.miss, none),
            ];
            show(&case("miss"), effort, &misses);
        }
    }
}

/// One case, each row with its ratio to the first of the Rust rows.
fn show(case: &str, effort: Effort, tasks: &[Task<'_>]) {
    let rows = compare(case, 1, 1, effort, tasks);
    let ours = &rows[1..]; // without the floor
    for row in ours {
        println!(
            "{case:<37}  {:<32} {:>5.2}  {:>8.2}",
            row.name,
            row.ns,
            row.floor_ratio / ours[0].floor_ratio
        );
    }
}

fn calls() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cost/calls.c"))
}

/// The guard stays in registers.
#[inline(never)]
fn inlined(registry: &Registry<Interpreter>, id: InterpreterId, n: u64) {
    for _ in 0..n {
        answered(registry.lookup(opaque(id)).is_ok());
    }
}

/// The guard is where C has it: in a place of the caller's.
#[inline(never)]
fn in_memory(registry: &Registry<Interpreter>, id: InterpreterId, n: u64) {
    for _ in 0..n {
        let mut guard = registry.lookup(opaque(id)).expect("registered");
        clock::used(&raw const *black_box(&mut guard));
    }
}

/// As C has it: two functions that are called, and a guard that goes from one to the other through the caller's memory.
#[inline(never)]
fn called(registry: &'static Registry<Interpreter>, id: InterpreterId, n: u64) {
    type Place = MaybeUninit<Guard<'static, Interpreter>>;
    #[inline(never)]
    fn take(registry: &'static Registry<Interpreter>, id: InterpreterId, out: &mut Place) -> bool {
        match registry.lookup(id) {
            Ok(guard) => out.write(guard).id() == id,
            Err(_) => false,
        }
    }
    /// # Safety
    /// There is a guard.
    #[inline(never)]
    unsafe fn give_up(guard: &mut Place) {
        // SAFETY: the caller's promise.
        unsafe { guard.assume_init_drop() };
    }
    for _ in 0..n {
        let mut guard = Place::uninit();
        assert!(take(registry, opaque(id), &mut guard));
        // SAFETY: taken right above.
        unsafe { give_up(&mut guard) };
    }
}

#[inline(never)]
fn inlined_misses(registry: &Registry<Interpreter>, id: InterpreterId, n: u64) {
    for _ in 0..n {
        answered(registry.lookup(opaque(id)).is_ok());
    }
}
