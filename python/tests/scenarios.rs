//! Every scenario on every CPython of this machine, each in a process of its own.
//!
//! A scenario is a program in `tests/programs`, run by the Python under test with the package staged from the sources
//! and the library that cargo has just built. It passes if it ends by itself, in time, with status 0 and has
//! said `ok`: a program that ends early by accident has not. `INTERP_GUARD_LONG=1` asks for the long forms.
//!
//! Pythons are looked for on `PATH` and in `~/.pyenv/versions`. What is found is printed; a machine without any fails.

mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use support::{Package, Python};

/// Scenarios, and whether they need the C extension in `tests/extension`.
const PROGRAMS: &[(&str, Needs)] = &[
    ("package", Needs::Package),
    ("guards", Needs::Package),
    ("shutdown_order", Needs::Package),
    ("c_api", Needs::Extension),
    ("ends", Needs::Extension),
    ("forks", Needs::Extension),
    ("fire", Needs::Extension),
    ("signals", Needs::Extension),
];

#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Package,
    Extension,
}

fn main() {
    let arguments = Arguments::from_args();
    let package = Package::stage();
    let pythons = support::find_pythons();
    for python in &pythons {
        eprintln!("using CPython {} at {}", python.version, python.executable.display());
    }
    let mut trials = vec![Trial::test("a Python was found", {
        let found = !pythons.is_empty();
        move || {
            if found { Ok(()) } else { Err("no CPython 3.9 or later on PATH or in ~/.pyenv/versions".into()) }
        }
    })];
    for python in pythons {
        trials.push(Trial::test(format!("{}::header", python.version), {
            let (python, package) = (python.clone(), package.clone());
            move || Ok(package.check_header(&python)?)
        }));
        for &(program, needs) in PROGRAMS {
            let (python, package) = (python.clone(), package.clone());
            let name = format!("{}::{program}", python.version);
            trials.push(Trial::test(name, move || run(&python, &package, program, needs)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    package.remove();
    conclusion.exit()
}

fn run(python: &Python, package: &Package, program: &str, needs: Needs) -> Result<(), Failed> {
    let mut path = vec![package.root.clone()];
    if needs == Needs::Extension {
        path.push(package.extension_for(python)?);
    }
    let output = python.run(program, &path)?;
    if output.status.success() && output.stdout.lines().any(|line| line == "ok") {
        return Ok(());
    }
    Err(format!("{}\n--- stdout\n{}\n--- stderr\n{}", output.status, output.stdout, output.stderr).into())
}
