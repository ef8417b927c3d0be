//! The signal-safe path calls nothing it may not: read off the machine code.
//!
//! Builds `tests/fixtures/core_only` (the core by path, under `#![no_std]`) in release into a target folder of its own,
//! decodes its object file, and walks it from the exported lookup, clone, drop, push and readers, restartable sequences' abort
//! addresses included. Each broken twin is the same fixture with one forbidden thing on the path, by a patch of `twins`; the
//! audit must object. It decodes x86-64 only.
#![cfg(target_arch = "x86_64")]

mod code;
mod paths;
mod walk;

use code::{Code, Place};
use paths::{Mode, Outcome, Path, paths};
use std::path::PathBuf;
use std::process::Command;

/// Everything that a handler may call.
const ROOTS: [&str; 8] = [
    "probe_lookup",
    "probe_clone",
    "probe_drop",
    "probe_push",
    "probe_is_closing",
    "probe_payload",
    "probe_main",
    "probe_for_each_live",
];

/// Where the signal-safe path may go outside the core: nowhere.
const ALLOWED_TARGETS: [&str; 0] = [];

/// What the core's object file may leave undefined: formatting, for `Display` and `Debug` in normal context. That no
/// root reaches it is checked by the walk. `docs/contexts.md` has the list as it is.
fn may_be_undefined(symbol: &str) -> bool {
    symbol.contains("core::fmt")
}

/// Builds the fixture, with the broken twin `twin` if one is named, and decodes it.
fn build(twin: Option<&str>) -> Code {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("core_only");
    let mut cargo = Command::new(env!("CARGO"));
    // Twins in a folder of their own: tests run side by side and must not overwrite each other's object file.
    let target = target.join(if twin.is_some() { "twins" } else { "sound" });
    let sources = twin.map_or(root.clone(), |twin| {
        let folder = target.join("sources").join(twin);
        let make =
            Command::new(root.join("tests/broken_twins/twin")).args(["make", twin]).arg(&folder).status();
        assert!(make.expect("bash is there").success(), "no sources of {twin}");
        cargo.env("RUSTC_WORKSPACE_WRAPPER", folder.join("rustc"));
        folder
    });
    cargo.args(["rustc", "--release", "--locked", "--quiet", "--lib", "--target-dir"]).arg(&target);
    cargo.arg("--manifest-path").arg(sources.join("tests/fixtures/core_only/Cargo.toml"));
    // Flags meant for the crate under test, coverage or a sanitizer say, would change the code that is read here.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    assert!(cargo.status().expect("cargo starts").success(), "the core does not build by itself");
    Code::read(&target.join("release/libcore_only.rlib"))
}

fn roots(code: &Code) -> Vec<Place> {
    ROOTS.iter().map(|root| code.function(root)).collect()
}

/// All that the audit objects to.
fn objections(code: &Code) -> Vec<String> {
    let mut objections = walk::walk(code, roots(code), &ALLOWED_TARGETS).objections;
    objections.extend(per_cpu_locks(code));
    objections.extend(loops(code));
    objections
}

/// Locked instructions on a per-CPU path, outside the spare-stripe code and the wake.
fn per_cpu_locks(code: &Code) -> Vec<String> {
    let mut objections = Vec::new();
    for root in ["probe_lookup", "probe_clone", "probe_drop"] {
        let all = paths(code, code.function(root), 1);
        let per_cpu = all.iter().filter(|path| path.mode == Some(Mode::PerCpu));
        if let Some(path) = per_cpu.clone().find(|path| path.locks > 0) {
            objections.push(format!("a locked instruction on a per-CPU path of {root}: {path:?}"));
        }
        if !per_cpu.clone().any(|path| path.sequences > 0 && path.spares == 0) {
            objections.push(format!("no per-CPU path in {root}"));
        }
        if let Some(path) = all.iter().find(|p| p.mode == Some(Mode::Shared) && p.sequences > 0) {
            objections.push(format!("a restartable sequence in shared mode in {root}: {path:?}"));
        }
    }
    objections
}

/// Clone and drop have no loop at all, and a lookup's path grows by the same few instructions for each slot further.
fn loops(code: &Code) -> Vec<String> {
    let mut objections = Vec::new();
    for root in ["probe_clone", "probe_drop"] {
        let [once, twice] = [1, 2].map(|limit| paths(code, code.function(root), limit).len());
        if once != twice {
            objections.push(format!("a loop in {root}"));
        }
    }
    let [two, three, four] =
        [2, 3, 4].map(|limit| longest(&paths(code, code.function("probe_lookup"), limit)));
    if four - three != three - two {
        objections.push(format!("a lookup's path does not grow evenly: {two}, {three}, {four}"));
    }
    objections
}

fn longest<'p>(paths: impl IntoIterator<Item = &'p Path>) -> u32 {
    paths.into_iter().map(|path| path.instructions).max().unwrap_or(0)
}

#[test]
fn the_signal_safe_path_stays_inside_the_core() {
    let code = build(None);
    let reached = walk::walk(&code, roots(&code), &ALLOWED_TARGETS);
    println!(
        "{} instructions reached from {} roots and {} abort addresses; {} locked, {} system-call site",
        reached.places.len(),
        ROOTS.len(),
        code.sequences.len(),
        reached.locks.len(),
        reached.system_calls.len(),
    );
    let mut functions: Vec<_> = reached.places.iter().map(|&at| code.name(at)).collect();
    functions.dedup();
    println!("in: {}", functions.join(", "));
    assert_eq!(reached.system_calls.len(), 1, "the wake is on the path, so the walk must have come to it");
    assert_eq!(objections(&code), [""; 0]);
}

#[test]
fn every_restartable_sequence_keeps_the_kernels_contract() {
    let code = build(None);
    assert!(!code.sequences.is_empty());
    for sequence in &code.sequences {
        assert_eq!(sequence.start.section, sequence.abort.section);
        let section = sequence.start..sequence.end;
        assert!(!section.contains(&sequence.abort), "the abort address lies outside the section");
        let mut at = sequence.start;
        let mut last = String::new();
        while at < sequence.end {
            let step = code.step(at);
            last = code.show(at);
            assert!(!step.locks(), "a locked instruction in a restartable sequence: {last}");
            let flow = step.flow();
            use iced_x86::FlowControl::{ConditionalBranch, Next};
            assert!(matches!(flow, Next | ConditionalBranch), "{last}");
            at.offset = step.instruction.next_ip();
        }
        assert_eq!(at, sequence.end, "the section ends between two instructions");
        assert!(last.contains("inc"), "the last instruction commits: {last}");
    }
    println!("{} restartable sequences", code.sequences.len());
}

#[test]
fn undefined_symbols_are_formatting_only() {
    let code = build(None);
    for symbol in &code.undefined {
        println!("{symbol}");
    }
    let rest: Vec<_> = code.undefined.iter().filter(|symbol| !may_be_undefined(symbol)).collect();
    assert_eq!(rest, [&""; 0]);
}

#[test]
fn longest_paths() {
    let code = build(None);
    let of = |root: &str, limit| paths(&code, code.function(root), limit);
    // A hit counts once; what fails counts not at all, or in and out again when it backs out.
    let cases = [
        ("hit", Outcome::Hit, 1),
        ("not found", Outcome::NotFound, 0),
        ("finalizing", Outcome::Finalizing, 0),
        ("not found, backs out", Outcome::NotFound, 2),
        ("finalizing, backs out", Outcome::Finalizing, 2),
    ];
    println!("instructions of a lookup, shortest and longest path; d is the displacement of the ID's home:");
    for mode in [Mode::PerCpu, Mode::Shared] {
        for (name, outcome, counts) in cases {
            for aborts in [false, true] {
                let class = |path: &Path| {
                    let counted = if mode == Mode::PerCpu { path.sequences } else { path.locks };
                    path.outcome == Some(outcome)
                        && path.mode.is_none_or(|of| of == mode)
                        && counted == counts
                        && (path.wakes == 0 || counts == 2)
                        && (path.spares > 0) == aborts
                };
                let lengths = |limit| {
                    let all = of("probe_lookup", limit);
                    all.iter().filter(|path| class(path)).map(|path| path.instructions).collect::<Vec<_>>()
                };
                let (near, far) = (lengths(2), lengths(3));
                if let (Some(least), Some(near), Some(far)) =
                    (near.iter().min(), near.iter().max(), far.iter().max())
                {
                    let how = if aborts { ", sequence aborted" } else { "" };
                    let slope = far - near;
                    println!("  {mode:?}, {name}{how}: {least} to {} + {slope} d", near - slope);
                    assert!(slope > 0, "a probe takes instructions");
                }
            }
        }
    }
    for root in ["probe_clone", "probe_drop"] {
        for mode in [Mode::PerCpu, Mode::Shared] {
            let paths = of(root, 1);
            let quiet = |path: &&Path| path.mode == Some(mode) && path.wakes == 0 && path.spares == 0;
            let waking = |path: &&Path| path.mode == Some(mode) && path.wakes > 0;
            print!("  {root}, {mode:?}: {}", longest(paths.iter().filter(quiet)));
            match longest(paths.iter().filter(waking)) {
                0 => println!(),
                wake => println!("; {wake} when it wakes a finalizer"),
            }
        }
    }
}

/// Each twin puts one forbidden thing on the path; the words are what the audit must say of it.
#[test]
fn broken_twins_are_caught() {
    for (twin, complaint) in [
        ("audit_call", "leads out of the core to `malloc`"),
        ("audit_panic", "core::panicking"),
        ("audit_indirect", "leads who knows where"),
        ("audit_lock", "a locked instruction on a per-CPU path"),
        ("audit_syscall", "more than one system-call site"),
        ("audit_thread_local", "__tls_get_addr"),
        ("audit_loop", "a loop in probe_clone"),
        ("audit_trap", "traps"),
    ] {
        let objections = objections(&build(Some(twin)));
        println!("{twin}: {objections:?}");
        assert!(objections.iter().any(|said| said.contains(complaint)), "{twin}: {objections:?}");
    }
}
