//! What the command says, to people and to programs, and how it ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Output, Stdio};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interp-guard"));
    command.args(arguments).env_remove("INTERP_GUARD_COUNTERS").env_remove("INTERP_GUARD_LEDGER");
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the command starts")
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

/// Standard output is one JSON object and nothing else.
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What a stress of that many seconds says, standard error included, and that its numbers agree.
fn stress(seconds: &str, ledger: Option<&str>) -> (Output, Value) {
    let mut arguments = vec!["stress", "--seconds", seconds, "--json", "--counters", "shared"];
    arguments.extend(ledger);
    let output = run(&arguments);
    assert_eq!(status(&output), Some(0), "{output:?}");
    let said = json(&output);
    let count = |key: &str| said[key].as_u64().unwrap_or_else(|| panic!("{key} in {said}"));
    assert_eq!(count("violations"), 0);
    assert_eq!(count("lookups"), count("hits") + count("finalizing") + count("not_found"));
    assert_eq!(count("registered"), count("finalized"));
    (output, said)
}

#[test]
fn the_stress_speaks_json() {
    let all = ["signals", "nested_signals", "hits", "not_found", "pending_run", "finalized"];
    let missed =
        |said: &Value| all.into_iter().find(|&key| said[key].as_u64().is_none_or(|count| count == 0));
    for ledger in [None, Some("--ledger")] {
        let (mut output, mut said) = stress("1", ledger);
        for longer in ["5", "30"] {
            if missed(&said).is_some() {
                (output, said) = stress(longer, ledger); // a busy machine may need it to meet everything
            }
        }
        assert_eq!(missed(&said), None, "{said}");
        assert_eq!(said["counters"], "shared");
        assert_eq!(said["ledger"], ledger.is_some());
        for key in ["lookup_ns", "drain_ns"] {
            let at = |quantile: &str| said[key][quantile].as_u64().expect("a whole number");
            assert!(at("p50") <= at("p99") && at("p99") <= at("max") && at("max") > 0, "{said}");
        }
        let progress = String::from_utf8_lossy(&output.stderr);
        assert!(progress.contains("signals") && progress.contains("0 violations"), "{progress}");
        let last = progress.lines().last().expect("a line");
        assert!(last.starts_with("PASS: 0 violations in "), "{last}");
    }
}

#[test]
fn vms_with_a_lock_or_a_thread_each_are_under_fire_in_both_modes() {
    let per_cpu = interp_guard::platform::missing_for_per_cpu().is_none().then_some("per-cpu");
    for counters in per_cpu.into_iter().chain(["shared"]) {
        for runtime in ["locked", "bound"] {
            let mut said = Value::Null;
            for seconds in ["1", "5", "30"] {
                let arguments = ["stress", "--seconds", seconds, "--json", "--interpreters", "16"];
                let output = run(&[&arguments[..], &["--runtime", runtime, "--counters", counters]].concat());
                assert_eq!(status(&output), Some(0), "{output:?}");
                said = json(&output);
                let met = ["signals", "hits", "pending_run"].iter().all(|&key| said[key].as_u64() > Some(0));
                if met && said["finalized"].as_u64() > Some(1) {
                    break; // a busy machine may need longer to meet everything
                }
            }
            assert_eq!((&said["runtime"], &said["counters"]), (&runtime.into(), &counters.into()), "{said}");
            assert_eq!(
                (said["violations"].as_u64(), &said["registered"]),
                (Some(0), &said["finalized"]),
                "{said}"
            );
            assert!(said["pending_run"].as_u64() > Some(0) && said["finalized"].as_u64() > Some(1), "{said}");
        }
    }
}

#[test]
fn without_a_subcommand_it_is_the_stress_and_prints_a_table() {
    let output = run(&["--seconds", "1", "--threads", "1", "--interpreters", "1"]);
    assert_eq!(status(&output), Some(0), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout);
    for row in ["SIGUSR1 delivered", "lookup in a handler", "violations", "A drain is timed from"] {
        assert!(table.contains(row), "{table}");
    }
    let last = table.lines().last().expect("a line");
    assert!(last.starts_with("PASS: 0 violations in ") && last.contains(" lookups under "), "{last}");
}

#[test]
fn ctrl_c_ends_it_and_prints_the_result() {
    let mut child = command(&["stress", "--seconds", "600", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut progress = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    progress.read_line(&mut line).expect("it says how it gets on");
    assert!(line.starts_with("1/600 s"), "{line}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
    let mut rest = String::new();
    progress.read_to_string(&mut rest).expect("text");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(status(&output), Some(0), "{rest}");
    assert!(rest.contains("stopped after"), "{rest}");
    assert!(json(&output)["signals"].as_u64() > Some(0));
}

#[test]
fn bad_usage_is_refused_with_status_2() {
    for (arguments, what) in [
        (["stress", "--frequency"], "--frequency"),
        (["stress", "--threads=0"], "--threads"),
        (["stress", "--interpreters=0"], "--interpreters"),
        (["stress", "--counters=abacus"], "abacus"),
        (["stress", "--runtime=abacus"], "abacus"),
        (["doctor", "--seconds=1"], "--seconds"),
        (["surgeon", "--json"], "surgeon"),
    ] {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((status(&output), output.stdout.len()), (Some(2), 0), "{output:?}");
        assert!(said.contains(what), "{said}");
    }
    let output = run(&["stress", "--runtime=bound", "--interpreters=1001"]);
    assert_eq!((status(&output), output.stdout.len()), (Some(2), 0), "{output:?}");
    let output =
        command(&["stress", "--json"]).env("INTERP_GUARD_COUNTERS", "abacus").output().expect("starts");
    assert_eq!((status(&output), output.stdout.len()), (Some(2), 0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("abacus"), "{output:?}");
}

#[test]
fn help_names_every_option() {
    let output = run(&["stress", "--help"]);
    assert_eq!(status(&output), Some(0));
    let help = String::from_utf8_lossy(&output.stdout);
    for option in [
        "--seconds",
        "--interpreters",
        "--threads",
        "--seed",
        "--counters",
        "--ledger",
        "--json",
        "--runtime",
    ] {
        assert!(help.contains(option), "{option} in {help}");
    }
}

#[test]
fn it_goes_by_the_name_that_people_type() {
    for arguments in [["--version"], ["-V"]] {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stdout);
        let expected = format!("interp-guard {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((status(&output), &*said), (Some(0), &*expected));
    }
}

/// The lines of the help, and how wide the widest is. Whole words, so that a line can be told from one that was cut.
fn help_lines(output: &[u8]) -> (String, usize) {
    let help = String::from_utf8_lossy(output).replace("\r\n", "\n");
    assert!(help.contains("--interpreters") && help.ends_with("(see a summary with '-h')\n"), "{help}");
    let widest = help.lines().map(|line| line.trim_end().chars().count()).max().expect("a line");
    (help, widest)
}

#[test]
fn help_is_as_wide_as_columns_says() {
    for (columns, narrower) in [("60", 60), ("100", 100), ("140", 140)] {
        let output = command(&["stress", "--help"]).env("COLUMNS", columns).output().expect("starts");
        let (help, widest) = help_lines(&output.stdout);
        // One word less than the room there is, at the most.
        assert!(widest <= narrower && widest > narrower - 15, "{widest} for {columns}:\n{help}");
    }
    // Nobody says: here neither a terminal nor COLUMNS. What is no width counts as not said.
    for columns in [None, Some("0"), Some("wide")] {
        let mut command = command(&["stress", "--help"]);
        command.env_remove("COLUMNS").stderr(Stdio::piped());
        command.envs(columns.map(|columns| ("COLUMNS", columns)));
        let (help, widest) = help_lines(&command.output().expect("starts").stdout);
        assert!(widest <= 80 && widest > 65, "{widest} for {columns:?}:\n{help}");
    }
}

#[test]
fn help_is_as_wide_as_the_terminal() {
    for (columns, narrower) in [(None, 70), (Some("50"), 50)] {
        let size = libc::winsize { ws_row: 24, ws_col: 70, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut ours, mut theirs) = (-1, -1);
        let none = std::ptr::null_mut();
        // SAFETY: two descriptors are written, and a size is read.
        let opened = unsafe { libc::openpty(&mut ours, &mut theirs, none, std::ptr::null_mut(), &size) };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: opened above, and nobody else's.
        let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let mut command = command(&["stress", "--help"]);
        command.env_remove("COLUMNS").env("NO_COLOR", "1").stdout(theirs);
        command.envs(columns.map(|columns| ("COLUMNS", columns)));
        let mut child = command.spawn().expect("starts");
        drop(command); // and with it our copy of their end
        let mut said = Vec::new();
        // At the end a terminal answers with an error. A child of another test may have their end, too, and be longer
        // about it.
        while ours.by_ref().take(1024).read_to_end(&mut said).is_ok_and(|read| read > 0) {}
        assert!(child.wait().expect("it ends").success());
        let (help, widest) = help_lines(&said);
        assert!(widest <= narrower && widest > narrower - 15, "{widest}:\n{help}");
    }
}

#[test]
fn the_doctors_first_line_is_the_verdict() {
    let text = |command: &mut Command| {
        let output = command.output().expect("starts");
        (status(&output), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (ended, said) = text(&mut command(&["doctor", "--json"]));
    let per_cpu = said.contains(r#""counters":"per-cpu""#);
    let well = if per_cpu { "OK: per-CPU counters" } else { "OK: shared counters" };
    assert_eq!(ended, Some(0));
    let (ended, said) = text(&mut command(&["doctor"]));
    assert_eq!((ended, said.lines().next()), (Some(0), Some(well)), "{said}");
    let headings = ["\n\nVerdict\n", "\n\nMachine\n", "\n\nMemory at a capacity of 1024 interpreters\n"];
    let places = headings.map(|heading| said.find(heading).unwrap_or_else(|| panic!("{heading} in {said}")));
    assert!(places.is_sorted(), "{said}");

    let (ended, said) = text(command(&["doctor"]).env("INTERP_GUARD_COUNTERS", "shared"));
    assert_eq!((ended, said.lines().next()), (Some(0), Some("OK: shared counters")), "{said}");

    // What failed has no number, and so no 0.
    let (ended, said) = text(command(&["doctor"]).env("INTERP_GUARD_COUNTERS", "abacus"));
    assert_eq!(ended, Some(1), "{said}");
    let first = said.lines().next().expect("a line");
    assert!(first.starts_with("NOT AVAILABLE: INTERP_GUARD_COUNTERS is set to \"abacus\""), "{first}");
    let memory = said.split("\nMemory at").nth(1).expect("its heading");
    let unknown = memory.lines().filter(|line| line.ends_with("  not known")).count();
    assert_eq!((unknown, memory.lines().any(|line| line.ends_with(" 0"))), (6, false), "{memory}");
    let (_, said) = text(command(&["doctor", "--json"]).env("INTERP_GUARD_COUNTERS", "abacus"));
    let said: Value = serde_json::from_str(&said).expect("JSON");
    for key in ["slots", "stripes", "bytes_per_slot", "mapped_bytes"] {
        assert_eq!(said.get(key), Some(&Value::Null), "{said}");
    }
}

#[test]
fn the_doctor_says_why() {
    let plain = run(&["doctor"]);
    let said = run(&["doctor", "--json"]);
    assert_eq!((status(&plain), status(&said)), (Some(0), Some(0)));
    let said = json(&said);
    for (key, value) in said.as_object().expect("an object") {
        let row = key.replace('_', " ");
        assert!(String::from_utf8_lossy(&plain.stdout).lines().any(|line| line.starts_with(&row)), "{row}");
        assert!(!value.is_null(), "{key}");
    }
    assert_eq!(said["bytes_per_slot"], 32);

    let refused = |name: &str| {
        let output = command(&["doctor", "--json"]).env(name, "abacus").output().expect("starts");
        assert_eq!(status(&output), Some(1), "{output:?}");
        let said = json(&output);
        assert_eq!(said["counters"], "not available");
        let why = said["counters_why"].as_str().unwrap_or_default();
        assert!(why.contains(name) && why.contains("abacus"), "{said}");
    };
    refused("INTERP_GUARD_COUNTERS");
    refused("INTERP_GUARD_LEDGER");

    let output = command(&["doctor", "--json"])
        .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        .env("INTERP_GUARD_COUNTERS", "per-cpu")
        .output()
        .expect("starts");
    assert_eq!(status(&output), Some(1), "{output:?}");
    assert!(json(&output)["counters_why"].as_str().is_some_and(|why| why.contains("rseq")), "{output:?}");
}

#[test]
fn nobody_who_reads_on_is_no_error() {
    let mut child =
        command(&["doctor"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((status(&output), output.stderr.len()), (Some(0), 0), "{output:?}");
}
