//! The examples of attaching, run as their readers run them.

use std::process::Command;

fn run(name: &str) -> String {
    let ran = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--example", name])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{name}: {}\n{out}{err}", ran.status);
    out.into_owned()
}

#[test]
fn io_pool() {
    let out = run("io_pool");
    for number in 0..4 {
        let line = out.lines().find(|line| line.starts_with(&format!("io-{number}: "))).expect(&out);
        assert!(line.contains("is finalizing") || line.contains("has been finalized"), "{out}");
    }
    assert!(out.contains("no thread hangs"), "{out}");
}

#[test]
fn own_runtime() {
    let out = run("own_runtime");
    let numbers = |line: &str| line.split([' ', ',']).find_map(|word| word.parse::<i64>().ok());
    let added: Vec<_> = out.lines().filter(|line| line.starts_with("a thread added ")).map(numbers).collect();
    assert_eq!(added.len(), 4, "{out}");
    let sum: i64 = added.iter().map(|added| added.filter(|&added| added >= 100).expect(&out)).sum();
    let ended = format!("interpreter 0 has ended, with {}", 1000 + sum);
    assert!(out.lines().any(|line| line == ended), "{out}");
    assert!(out.contains("is finalizing") || out.contains("has been finalized"), "{out}");
}

#[test]
fn sampling_profiler() {
    let out = run("sampling_profiler");
    let counts: Vec<usize> = out
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().expect("a number"))
        .collect();
    let [taken, main, sub, native] = counts[..] else { panic!("{out}") };
    assert_eq!(taken, main + sub + native, "every sample is tagged: {out}");
    // A sample or two fall on the way in and out.
    assert!(main >= 29 && sub >= 59 && native >= 9, "{out}");
}

#[test]
fn signal_subinterpreter() {
    let out = run("signal_subinterpreter");
    assert_eq!(out.matches("signal 10 ran in interpreter 1").count(), 3, "{out}");
    assert!(out.contains("3 calls ran"), "{out}");
}

#[test]
fn watchdog() {
    let out = run("watchdog");
    assert!(out.contains("1 guard") && out.contains("busy") && out.contains("watchdog.rs"), "{out}");
    assert!(out.contains("interpreter 0 is finalized"), "{out}");
}

/// The example's last words, and that they agree with what it does.
fn vms_said(out: &str) {
    let numbers: Vec<usize> =
        out.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let [jobs, signals, sent, thrown_away] = numbers[..] else { panic!("{out}") };
    assert!(jobs >= 20 && signals > 0 && signals <= jobs, "{out}");
    assert_eq!((sent, thrown_away), (180, 5), "{out}");
}

#[test]
fn vms() {
    vms_said(&run("vms"));
}

/// VMs with a lock each and with a thread each, under memcheck: an error or a leak makes it fail. valgrind offers no
/// restartable sequences, so counters are shared.
#[test]
fn vms_under_memcheck() {
    run("vms"); // built
    let tests = std::env::current_exe().expect("this test");
    let program = tests.parent().and_then(|deps| deps.parent()).expect("deps").join("examples/vms");
    let leaks = "definite,indirect"; // the standard library keeps a thread's handle by a pointer into it
    let ran = Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=99", "--fair-sched=yes", "--leak-check=full"])
        .args([format!("--show-leak-kinds={leaks}"), format!("--errors-for-leak-kinds={leaks}")])
        .arg(program)
        .output()
        .expect("valgrind is there: apt-get install valgrind");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{}\n{out}{err}", ran.status);
    vms_said(&out);
}
