//! A test in a process of its own.

use std::process::Command;

/// Runs the test `name` of this executable again, in a process with these variables, and of the library's own with no others.
/// The process knows by `IN_CHILD`.
pub fn again(name: &str, variables: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().expect("this executable"))
        .args(["--exact", name, "--nocapture"])
        .env_remove("INTERP_GUARD_COUNTERS")
        .env_remove("INTERP_GUARD_LEDGER")
        .env("IN_CHILD", "1")
        .envs(variables.iter().copied())
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{variables:?}: {text}");
}

pub fn in_child() -> bool {
    std::env::var_os("IN_CHILD").is_some()
}
