//! The broken twins: the library with one mistake built in, each of which some test must see.
//!
//! A mistake is a patch in `tests/broken_twins`. This test copies the sources, applies it to the copy, and builds that in
//! release; the twins share a target folder, and so what they depend on. Nothing of them is in `src`. `cargo test` has two of
//! them; `.ci/steps/45-twins`, which is `cargo test --test broken_twins -- --include-ignored`, all. Where a twin goes unnoticed, the test that
//! should have seen it proves nothing, and this fails. So it does where a patch no longer applies.
#![allow(missing_docs)]

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Copies and builds go one after another: two cores, one target folder.
static BUILDING: Mutex<()> = Mutex::new(());

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where twins are built: beside the folder that this test was built into, target/debug/deps/broken_twins-*.
fn target() -> PathBuf {
    let own = std::env::current_exe().expect("this executable");
    own.ancestors().nth(3).expect("a target folder").join("twins")
}

/// A cargo that builds the twin `mistake`; without one, the library as it is, the same way. Whoever calls it is `BUILDING`.
fn cargo(mistake: Option<&str>) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).env("CARGO_TARGET_DIR", target());
    if let Some(mistake) = mistake {
        let sources = sources(mistake);
        cargo.current_dir(&sources).env("RUSTC_WORKSPACE_WRAPPER", sources.join("rustc"));
    }
    for inherited in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "INTERP_GUARD_COUNTERS", "INTERP_GUARD_LEDGER"]
    {
        cargo.env_remove(inherited);
    }
    cargo
}

/// The sources with the mistake in them, in a folder of the twin's own.
fn sources(mistake: &str) -> PathBuf {
    let folder = target().join("sources").join(mistake);
    let made = Command::new(root().join("tests/broken_twins/twin"))
        .args(["make", mistake])
        .arg(&folder)
        .output()
        .expect("bash is there");
    assert!(made.status.success(), "{}", text(&made));
    folder
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Builds the command with `mistake` and runs its stress until it reports violations: within seconds, on a busy machine later.
fn the_stress_sees(mistake: &str) {
    let building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let built = cargo(Some(mistake))
        .args(["build", "--release", "-p", "interp-guard-cli"])
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", text(&built));
    let command = target().join("release/interp-guard");
    let twin = command.with_file_name(format!("interp-guard-{mistake}"));
    // A link, not a copy: a child that another test starts meanwhile would inherit the descriptor, and what is open for writing cannot run.
    let _ = std::fs::remove_file(&twin);
    std::fs::hard_link(&command, &twin).expect("linked");
    drop(building);
    for seconds in ["1", "4", "25", "60", "120"] {
        let stress = Command::new(&twin)
            .args([
                "stress",
                "--json",
                "--seconds",
                seconds,
                "--interpreters",
                "8",
                "--timer-us",
                "50",
                "--seed",
                seconds,
            ])
            .output()
            .expect("the stress runs");
        if stress.status.code() == Some(1) {
            let text = text(&stress);
            assert!(!text.contains("\"violations\":0"), "exit status 1 without a violation: {text}");
            return println!("{mistake}: seen by the stress");
        }
        assert_eq!(stress.status.code(), Some(0), "{mistake}: {}", text(&stress));
    }
    panic!("{mistake}: 210 seconds of stress saw nothing");
}

/// The test target `target`, built with `mistake`: once, however often it is run.
fn build(mistake: Option<&str>, target: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<(Option<String>, String), PathBuf>> = Mutex::new(BTreeMap::new());
    let key = (mistake.map(str::to_owned), target.to_owned());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(executable) = built.get(&key) {
        return executable.clone();
    }
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let output = cargo(mistake)
        .args(["test", "--release", "--no-run", "--message-format=json", "--test", target])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable = messages
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .unwrap_or_else(|| panic!("cargo named no executable for {target}: {said}"));
    built.insert(key, executable.clone());
    executable
}

/// Runs `test` of the test target `target`, built with `mistake`. Says whether it passed, and what it printed.
fn run(mistake: Option<&str>, target: &str, test: &str) -> (bool, String) {
    let ran = Command::new(build(mistake, target))
        .args(["--exact", test, "--nocapture"])
        .current_dir(root())
        .env_remove("INTERP_GUARD_COUNTERS")
        .env_remove("INTERP_GUARD_LEDGER")
        .output()
        .expect("the test runs");
    let text = text(&ran);
    assert!(text.contains("running 1 test"), "{target} has no test {test}: {text}");
    (ran.status.success(), text)
}

/// The test passes without any mistake, built the same way. Asked once of each.
fn passes_without(target: &str, test: &str) {
    static ASKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let name = format!("{target}::{test}");
    if ASKED.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
        let (passed, text) = run(None, target, test);
        assert!(passed, "{name} fails without any mistake: {text}");
    }
}

/// The test sees the mistake, and passes without it.
fn the_test_sees(mistake: &str, target: &str, test: &str) {
    // A race that the mistake opens need not be lost every time: it may show within five runs. Without it, never.
    let seen = (0..5).any(|_| !run(Some(mistake), target, test).0);
    assert!(seen, "{mistake}: {target}::{test} saw nothing in five runs");
    passes_without(target, test);
    println!("{mistake}: seen by {target}::{test}");
}

/// A patch says where it belongs by the lines around it, and git takes the nearest place that has them. So there is one.
#[test]
fn each_patch_fits_in_one_place() {
    let runs = ["tests/broken_twins.rs", "tests/signal_safe_audit/main.rs", ".ci/steps/50-loom"]
        .map(|path| std::fs::read_to_string(root().join(path)).unwrap_or_default());
    let mut patches = 0;
    for folder in ["tests/broken_twins", "tests/signal_safe_audit/twins"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "patch") {
                continue;
            }
            patches += 1;
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
            assert!(runs.iter().any(|text| text.contains(name)), "no test builds the twin {name}");
            let patch = std::fs::read_to_string(&path).expect("text");
            let (mut file, mut hunks) = (String::new(), Vec::new());
            for line in patch.lines() {
                if let Some(path) = line.strip_prefix("+++ b/") {
                    file = std::fs::read_to_string(root().join(path)).unwrap_or_default();
                } else if line.starts_with("@@ ") {
                    hunks.push((file.clone(), String::new()));
                } else if let Some(old) = line.strip_prefix([' ', '-'])
                    && !line.starts_with("--- ")
                    && let Some((_, lines)) = hunks.last_mut()
                {
                    *lines += &format!("{old}\n");
                }
            }
            assert!(!hunks.is_empty(), "{name} changes nothing");
            for (file, lines) in hunks {
                let places = file.matches(&lines).count();
                assert_eq!(
                    places, 1,
                    "{name}: places for this, which the code had (`tests/broken_twins/twin renew {name}`):\n{lines}"
                );
            }
        }
    }
    println!("{patches} patches");
}

#[test]
fn no_second_look_at_the_word() {
    the_stress_sees("no_a4");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn no_drain() {
    the_stress_sees("no_drain");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn displacement_lowered_before_vacating() {
    the_stress_sees("displacement_early");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn no_heavy_fence() {
    if interp_guard::platform::missing_for_per_cpu().is_some() {
        return println!("this machine has no per-CPU counters, and so no heavy fence to leave out");
    }
    // As `protocol` asks before it pins its two threads; `available_parallelism` counts a quota of CPU time too.
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("sched_getaffinity");
    if (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).count() == 1 {
        return println!("one CPU sees its own stores in order: there is no such race here");
    }
    the_test_sees("no_heavy_fence", "protocol", "a_guard_taken_as_the_interpreter_closes_is_waited_for");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn sums_in_the_wrong_order() {
    the_test_sees("sums_reversed", "protocol", "a_guard_handed_on_is_never_missed");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn sums_far_apart_in_the_right_order_are_no_mistake() {
    let (passed, text) = run(Some("pause_between_sums"), "protocol", "a_guard_handed_on_is_never_missed");
    assert!(passed, "{text}");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn fork_generation_not_checked_in_the_child() {
    the_test_sees(
        "generation_unchecked",
        "fork",
        "a_kept_guard_holds_its_finalizer_and_an_inherited_one_does_not",
    );
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn push_not_woken() {
    the_test_sees("push_not_woken", "pending", "a_push_wakes_the_worker");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn system_calls_by_way_of_the_c_library() {
    the_test_sees("errno_touched", "handlers", "errno_is_preserved");
    the_test_sees("errno_touched", "signal_ledger", "errno_is_preserved");
    the_test_sees("errno_touched", "pending_signals", "errno_is_preserved_by_a_push");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn sections_that_the_kernel_does_not_abort() {
    if interp_guard::platform::missing_for_per_cpu().is_some() {
        return println!("this machine has no restartable sequences to leave out");
    }
    the_test_sees("rseq_no_abort", "rseq_fire", "interrupted_sections_are_seen_to_abort");
    the_test_sees("rseq_no_abort", "rseq_fire", "per_cpu");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn sections_that_dawdle_are_no_mistake() {
    if interp_guard::platform::missing_for_per_cpu().is_some() {
        return println!("this machine has no restartable sequences to draw out");
    }
    let (passed, text) = run(Some("rseq_delay"), "rseq_fire", "per_cpu");
    assert!(passed, "{text}");
    println!("{text}");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn counters_that_wrap_are_no_mistake() {
    let (passed, text) = run(Some("counters_near_wrap"), "edges", "guards_across_the_wrap");
    assert!(passed, "{text}");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn sums_that_do_not_wrap() {
    the_test_sees("sums_saturate", "edges", "guards_across_the_wrap");
}

#[test]
fn guard_dropped_before_restoring() {
    the_test_sees("guard_before_restore", "thread_state_nesting", "guards_are_given_up_after_restoring");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn daemon_flag_of_an_outer_level_changed() {
    the_test_sees(
        "daemon_flag_outer",
        "thread_state_daemon",
        "ensure_and_set_daemon_leave_the_levels_around_alone",
    );
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn destroyed_what_ensure_did_not_create() {
    the_test_sees(
        "destroy_borrowed",
        "thread_state_nesting",
        "the_threads_own_detached_state_is_found_again",
    );
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn displacement_lowered_early_under_the_stepper() {
    the_test_sees("displacement_early", "every_instruction", "signal_at_each_instruction_shared");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn no_second_look_under_the_stepper() {
    the_test_sees("no_a4", "every_instruction", "interpreter_taken_away_at_each_instruction_shared");
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn a_cell_freed_before_it_is_read_under_the_stepper() {
    the_test_sees(
        "freed_early",
        "every_instruction",
        "signal_at_each_instruction_of_ledger_push_and_fork_shared",
    );
}

#[test]
#[ignore = "a release build each: .ci/steps/45-twins runs it"]
fn a_ledger_entry_given_away_too_early_under_the_stepper() {
    the_test_sees(
        "bit_cleared_early",
        "every_instruction",
        "signal_at_each_instruction_of_ledger_push_and_fork_shared",
    );
}
