//! The library as C people get it: `make -C capi install` into a folder of this test's own, C and C++ programs compiled
//! against that with `cc` and `c++` by pkg-config, run as they are and, where `.ci/steps/60-capi` asks for it, under valgrind.
//!
//! A tool that is missing fails the test that needs it, and says how to get it. `INTERP_GUARD_LONG=1` asks for the long form:
//! a million delivered signals, also under valgrind.

// The reader of machine code that the signal-safe audit of the core has.
#[allow(dead_code, reason = "the audit uses more of it")]
#[path = "../../../tests/signal_safe_audit/code.rs"]
mod code;
mod exports;
#[path = "../support/header.rs"]
mod header;
mod memcheck;
mod tools;
#[path = "../../../tests/signal_safe_audit/walk.rs"]
mod walk;

use std::fs;
use std::process::Command;
use tools::{Language, Link, installed, long_form, output, run, tool};

use Language::{C, Cxx};
use Link::{Loaded, Shared, Static, WhollyStatic};

const LANGUAGES: [Language; 2] = [C, Cxx];
const MODES: [&str; 2] = ["per-cpu", "shared"];

/// A program of `tests/c`, in both languages, linked in every way. (`memcheck` has it under valgrind.)
fn everywhere(name: &str, arguments: &[&str]) {
    for language in LANGUAGES {
        for link in [Shared, Static, Loaded] {
            let program = installed().compile(name, language, link);
            run(installed().command(program).args(arguments));
        }
    }
}

#[test]
fn the_headers_are_clean_by_themselves() {
    for (language, header) in [(C, "interp_guard.h"), (Cxx, "interp_guard.h"), (Cxx, "interp_guard.hpp")] {
        installed().check_header(language, header);
    }
}

#[test]
fn every_answer_and_misuse() {
    everywhere("phases", &[]);
    run(&mut Command::new(installed().compile("phases", C, WhollyStatic)));
}

#[test]
fn drains_by_several_threads() {
    everywhere("drain", &[]);
}

#[test]
fn ensure_and_release_over_a_table_of_callbacks() {
    everywhere("states", &[]);
}

#[test]
fn pending_calls() {
    everywhere("pending", &[if long_form() { "200000" } else { "5000" }]);
}

#[test]
fn the_ledger() {
    everywhere("ledger", &[]);
}

#[test]
fn names() {
    everywhere("names", &[]);
}

#[test]
fn the_end_of_all() {
    everywhere("finalize_all", &[]);
}

#[test]
fn the_main_interpreter() {
    everywhere("main_interpreter", &[]);
}

#[test]
fn the_legacy_contract() {
    everywhere("gilstate", &[]);
}

#[test]
fn the_walk_over_the_live_ones() {
    everywhere("live", &[]);
}

#[test]
fn what_the_finalizers_have_done() {
    everywhere("stats", &[]);
}

#[test]
fn the_cxx_guard() {
    for link in [Shared, Static, Loaded] {
        run(&mut installed().command(installed().compile("guard.cpp", Cxx, link)));
    }
}

#[test]
fn the_examples() {
    for name in ["sigaction", "thread_pool", "small_vm"] {
        for link in [Shared, Static] {
            run(&mut Command::new(installed().compile(name, C, link)));
        }
    }
}

/// The programs that a page of this repository shows.
fn programs_of(page: &str) -> Vec<String> {
    let page = fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR"))).expect("a page");
    let blocks = page.split("\n```c\n").skip(1).filter_map(|rest| rest.split_once("\n```\n"));
    let programs: Vec<_> = blocks.map(|(text, _)| format!("{text}\n")).collect();
    assert!(!programs.is_empty(), "it shows no program");
    programs
}

#[test]
fn the_programs_of_the_readme() {
    let programs = programs_of("README.md");
    let [handler, end_of_all] = &programs[..] else { panic!("it shows two programs") };
    for link in [Shared, Static] {
        let compiled = installed().compile_text("readme", &until_the_end(handler), link);
        assert_eq!(output(&mut Command::new(&compiled)), "seven is mine again, with 1 sample\n");
        let compiled = installed().compile_text("end_of_all", end_of_all, link);
        let ran = Command::new(&compiled).output().expect("it starts");
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        let late = "the time is over; guards are still out, or daemons are still attaching";
        assert!(ran.status.success() && out == format!("{late}\nmail is mine again\n"), "{out}{err}");
        assert!(
            err.starts_with("interpreter 1 \"news\": 1 guard is out\n") && err.contains(" s  main+0x"),
            "{err}"
        );
    }
}

/// The program, with a signal after all else that it does: nobody may look up in a registry that is freed.
fn until_the_end(program: &str) -> String {
    let end = "    return ig_registry_free(registry) == IG_OK ? 0 : 1;\n";
    let later = "    const int freed = ig_registry_free(registry);\n    raise(SIGUSR1);\n    return freed == IG_OK ? 0 : 1;\n";
    let changed = program.replacen(end, later, 1);
    assert_ne!(changed, program, "its last line is another");
    changed
}

#[test]
fn the_programs_of_the_guide() {
    let [program] = &programs_of("../docs/guide/c_vm.md")[..] else { panic!("it shows one program") };
    for link in [Shared, Static] {
        let compiled = installed().compile_text("guide", &until_the_end(program), link);
        assert_eq!(output(&mut Command::new(&compiled)), "at least 3 calls, 1 poke, and it is mine again\n");
    }
}

#[test]
fn a_storm_of_signals() {
    let signals = if long_form() { "1000000" } else { "20000" };
    let all = [
        (C, Shared, MODES[0]),
        (Cxx, Static, MODES[1]),
        (C, Loaded, MODES[0]),
        (Cxx, Shared, MODES[0]),
        (C, Static, MODES[1]),
        (Cxx, Loaded, MODES[1]),
    ];
    for (language, link, mode) in all {
        let program = installed().compile("storm", language, link);
        run(installed().command(program).arg(signals).env("INTERP_GUARD_COUNTERS", mode));
    }
}

#[test]
fn two_hundred_children() {
    let per_mode = if long_form() { "200" } else { "100" };
    for mode in MODES {
        let program = installed().compile("fork", C, Shared);
        run(Command::new(program).arg(per_mode).env("INTERP_GUARD_COUNTERS", mode));
    }
}

#[test]
fn unloading_leaves_nothing_behind() {
    let library = installed().library("libinterp_guard.so");
    for mode in MODES {
        let program = installed().compile_unlinked("unload");
        run(Command::new(&program).arg(&library).arg("50").env("INTERP_GUARD_COUNTERS", mode));
    }
}

#[test]
fn the_install_says_how_a_program_finds_the_library_and_the_check_that_it_does() {
    let folder = installed().library("libinterp_guard.so");
    let folder = folder.parent().expect("a folder").display();
    let said = &installed().said;
    for way in [
        format!("-Wl,-rpath,{folder}"),
        format!("LD_LIBRARY_PATH={folder}"),
        format!("{folder}/libinterp_guard.a"),
    ] {
        assert!(said.contains(&way), "{way} is not in:\n{said}");
    }
    let checked = output(&mut installed().check(true));
    let programs = checked.lines().filter(|line| line.starts_with("ok: ")).count();
    assert!(programs >= 10 && checked.contains("PASS: the library in "), "{checked}");
    // Where nothing is installed, it says so and runs nothing.
    let refused = installed().check(false).output().expect("make starts");
    let complained = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && complained.contains("make install comes first"), "{complained}");
}

#[test]
fn programs_ask_for_the_soname() {
    let program = installed().compile("phases", C, Shared);
    let needed = output(tool("readelf", "binutils").arg("-d").arg(program));
    assert!(needed.contains("[libinterp_guard.so.0]"), "{needed}");
    let stripped = fs::metadata(installed().library("libinterp_guard.so")).unwrap().len();
    println!("libinterp_guard.so, stripped: {stripped} bytes");
}

#[test]
fn cmake_finds_the_package() {
    if !long_form() && Command::new("cmake").arg("--version").output().is_err() {
        println!("no cmake here: checked in the long form, which requires it (apt-get install cmake)");
        return;
    }
    installed().build_with_cmake();
}
