//! Each example as its readers run it, and its end under fire, a hundred times.

use std::process::Command;

/// Built as this test is: by `--release`, or not.
fn run(name: &str, arguments: &[&str]) -> String {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let ran = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--profile", profile, "--package", name, "--"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{name}: {}\n{out}{err}", ran.status);
    println!("{name}:\n{out}");
    out.into_owned()
}

/// The number before or after `word`, in the first line that has `line` in it.
fn number(out: &str, line: &str, word: &str) -> u64 {
    let line = out.lines().find(|text| text.contains(line)).unwrap_or_else(|| panic!("no {line} in\n{out}"));
    let words: Vec<_> = line.split([' ', ',']).collect();
    let at = words.iter().position(|&found| found == word).unwrap_or_else(|| panic!("no {word} in\n{line}"));
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    number(at + 1).or_else(|| number(at.checked_sub(1)?)).unwrap_or_else(|| panic!("no number in\n{line}"))
}

fn shows(name: &str, site: &str) {
    let out = run(name, &[]);
    for costs in ["lookup", "nothing()", "a loop of 100 turns"] {
        assert!(
            out.lines().any(|line| line.contains(costs) && line.ends_with(" ns")),
            "no {costs} in\n{out}"
        );
    }
    for report in ["interpreter 0 \"leaky\": 1 guard is out", "forgetful", site] {
        assert!(out.contains(report), "no {report} in\n{out}");
    }
    for (id, vm) in ["alpha", "beta", "gamma"].into_iter().enumerate() {
        assert_eq!(number(&out, &format!("{vm}: its signal()"), "ran") > 0, vm == "beta", "{out}");
        assert!(number(&out, "samples:", vm) > 0, "{out}");
        assert!(out.contains(&format!("interpreter {id} has ended\n")), "{out}");
        let line = format!("{vm}: ");
        let pool = out
            .lines()
            .filter(|text| text.starts_with(&line) && text.contains(" calls of 4 threads, then: "));
        let pool: String = pool.collect();
        assert!(number(&pool, &line, "calls") >= 4, "{out}");
        assert!(pool.contains("is finalizing") || pool.contains("has been finalized"), "{out}");
    }
}

fn ends(name: &str) {
    assert_eq!(run(name, &["--ends", "100"]), "100 ended, 0 hang\n");
}

#[test]
fn lua() {
    shows("lua", "src/lib.rs:");
    ends("lua");
}

#[test]
fn quickjs() {
    shows("quickjs", "src/lib.rs:");
    ends("quickjs");
}

#[test]
fn lua_in_c() {
    shows("lua_c", "forget+0x");
    ends("lua_c");
}

#[test]
fn boa() {
    shows("boa", "src/lib.rs:");
    ends("boa");
}

#[test]
fn what_is_no_number_of_ends_is_refused() {
    for arguments in [&["--ends"][..], &["--ends", "x"], &["--begin"]] {
        let ran = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--locked", "--release", "--package", "lua", "--"])
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert_eq!((ran.status.code(), ran.stdout.len()), (Some(1), 0), "{ran:?}");
        assert!(!ran.stderr.is_empty());
    }
}
