//! Every scenario on a CPython from 3.9 on, each in a process of its own. `INTERP_GUARD_PYTHONS=all` has it on every one that this
//! machine has, as CI does.
//!
//! A scenario is a program in `tests/programs`, run by the Python under test with the package staged from the sources
//! and the library that cargo has just built. It passes if it ends by itself, in time, with status 0 and has
//! said `ok`: a program that ends early by accident has not. `INTERP_GUARD_LONG=1` asks for the long forms.
//!
//! The long forms run on the library as it is in the wheel, the short ones on one with debug assertions.
//! Lines `record: what | result` of the programs make the table that is printed at the end.
//!
//! Pythons are looked for on `PATH` and in `~/.pyenv/versions`. What is found is printed, and what is not used and why; a machine
//! without any fails. Unless all are asked for, it is the first on `PATH` alone, without the slow scenarios; or `INTERP_GUARD_PYTHONS` names executables. A
//! free-threaded Python is used twice, by `PYTHON_GIL`: without the GIL, and with it. With `INTERP_GUARD_ENVIRONMENTS`, a folder of
//! virtual environments that have the package installed, they are used as they are.

mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use support::{Package, Python};

/// Scenarios, and whether they need the C extensions in `tests/extension`, the examples of `python/pyo3`, or the
/// extensions and libraries that pip installs.
const PROGRAMS: &[(&str, Needs)] = &[
    ("pyo3", Needs::PyO3), // the longest
    ("package", Needs::Package),
    ("readme", Needs::Package),
    ("guards", Needs::Package),
    ("stubs", Needs::Package),
    ("holders", Needs::Package),
    ("reports", Needs::Package),
    ("deadline", Needs::Package),
    ("late_import", Needs::Package),
    ("on_signal", Needs::Package),
    ("shutdown_order", Needs::Package),
    ("command", Needs::Package),
    ("children", Needs::Package),
    ("own_atexit", Needs::Package),
    ("late_requests", Needs::Package),
    ("on_close", Needs::Extension),
    ("aio", Needs::Package),
    ("c_api", Needs::Extension),
    ("first_version", Needs::Extension),
    ("refused", Needs::Extension),
    ("shield", Needs::Extension),
    ("stay", Needs::Extension),
    ("ends", Needs::Extension),
    ("forks", Needs::Extension),
    ("fire", Needs::Extension),
    ("signals", Needs::Extension),
    ("at_once", Needs::Package),
    ("callbacks", Needs::Libraries),
    ("with_ctypes", Needs::Libraries),
    ("with_cffi", Needs::Libraries),
    ("with_def_extern", Needs::Libraries),
    ("with_cffi_source", Needs::Libraries),
    ("with_cython", Needs::Libraries),
    ("with_pybind11", Needs::Libraries),
    ("with_nanobind", Needs::Libraries),
    ("with_pyo3", Needs::PyO3),
    ("guide", Needs::Libraries),
    ("callback_pool", Needs::Libraries),
    ("with_uvloop", Needs::Libraries),
];

/// Those that compile what others wrote, or run for minutes: where no Pythons are asked for, they are left out unless
/// named on the command line with `--include-ignored`. `.ci/steps/70-python` has them all.
const SLOW: &[&str] = &[
    "pyo3",
    "shield",
    "with_cffi_source",
    "with_cython",
    "with_pybind11",
    "with_nanobind",
    "with_pyo3",
    "guide",
    "callback_pool",
    "with_uvloop",
];

#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Package,
    Extension,
    PyO3,
    Libraries,
}

fn main() {
    let arguments = Arguments::from_args();
    let pythons = support::find_pythons();
    let package = Package::find(&pythons, support::is_long());
    let all = support::are_named() || support::is_long();
    for python in &pythons {
        eprintln!("using CPython {} at {}", python.name(), python.executable.display());
    }
    if !pythons.iter().any(Python::is_free_threaded) {
        eprintln!(
            "not tried: there is no free-threaded CPython 3.14 or later here (INTERP_GUARD_PYTHONS may name one)"
        );
    }
    let records = Arc::new(Mutex::new(Vec::new()));
    let mut trials = vec![Trial::test("a Python was found", {
        let found = !pythons.is_empty();
        move || {
            if found {
                Ok(())
            } else {
                Err("no CPython 3.9 or later with its headers on PATH or in ~/.pyenv/versions".into())
            }
        }
    })];
    for python in pythons {
        if python.is_free_threaded() && !support::are_installed() {
            trials.push(Trial::test(format!("{}::stable_abi", python.name()), {
                let (python, package) = (python.clone(), package.clone());
                move || Ok(package.check_stable_abi(&python)?)
            }));
        }
        trials.push(Trial::test(format!("{}::headers", python.name()), {
            let (python, package) = (python.clone(), package.clone());
            move || Ok(package.check_headers(&python)?)
        }));
        for &(program, needs) in PROGRAMS {
            let (python, package, records) = (python.clone(), package.clone(), records.clone());
            let name = format!("{}::{program}", python.name());
            let trial = Trial::test(name, move || {
                let said = run(&python, &package, program, needs)?;
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                records.extend(said.lines().filter_map(|line| Record::read(line, &python.name())));
                Ok(())
            });
            trials.push(trial.with_ignored_flag(SLOW.contains(&program) && !all));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    package.remove();
    print_table(&records.lock().unwrap_or_else(PoisonError::into_inner));
    conclusion.exit()
}

/// What a program says that it found out.
struct Record {
    version: String,
    what: String,
    result: String,
}

impl Record {
    fn read(line: &str, version: &str) -> Option<Self> {
        let (what, result) = line.strip_prefix("record: ")?.split_once(" | ")?;
        Some(Self { version: version.into(), what: what.into(), result: result.into() })
    }
}

/// The records as a table, by what they are of, in the order in which they came. Versions that agree share a row.
fn print_table(records: &[Record]) {
    println!("\n| what | found | CPython |\n|---|---|---|");
    let mut seen = BTreeSet::new();
    for Record { what, .. } in records.iter().filter(|record| seen.insert(&record.what)) {
        let results: Vec<_> = records.iter().filter(|record| record.what == *what).collect();
        let mut shown = BTreeSet::new();
        for Record { result, .. } in results.iter().filter(|record| shown.insert(&record.result)) {
            let agree = results.iter().filter(|record| record.result == *result);
            let versions: Vec<_> = agree.map(|record| record.version.as_str()).collect();
            println!("| {what} | {result} | {} |", versions.join(", "));
        }
    }
}

/// What the program said, if it ended well.
fn run(python: &Python, package: &Package, program: &str, needs: Needs) -> Result<String, Failed> {
    let built = match needs {
        Needs::Package => vec![],
        Needs::Extension => vec![package.extension_for(python)?],
        Needs::PyO3 => vec![package.pyo3_examples(python)?],
        Needs::Libraries => vec![package.extension_for(python)?, package.libraries_for(python)?],
    };
    let output = python.run(program, &package.search_path(built))?;
    if output.status.success() && output.stdout.lines().any(|line| line == "ok") {
        return Ok(output.stdout);
    }
    Err(format!("{}\n--- stdout\n{}\n--- stderr\n{}", output.status, output.stdout, output.stderr).into())
}
