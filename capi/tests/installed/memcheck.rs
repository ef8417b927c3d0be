//! The programs under valgrind's memcheck: an error, or a leak, fails them. Valgrind has no restartable sequences: shared
//! counters, as the library finds out by itself.

use super::programs_of;
use super::tools::{Language, Link, installed, long_form, under_valgrind};

use Language::{C, Cxx};
use Link::{Shared, Static};

macro_rules! under_memcheck {
    ($($test:ident: $arguments:expr;)*) => {$(
        #[test]
        #[ignore = "under valgrind: .ci/steps/60-capi runs it"]
        fn $test() {
            under_valgrind(installed().compile(stringify!($test), C, Shared), &$arguments);
        }
    )*};
}

under_memcheck! {
    phases: [];
    drain: [];
    states: [];
    pending: ["2000", "self"];
    ledger: [];
    names: [];
    finalize_all: [];
    main_interpreter: [];
    gilstate: ["no parked thread"];
    live: [];
    stats: [];
    // (Not the profiler among the examples: valgrind hands out few of its signals.)
    thread_pool: [];
    small_vm: [];
}

#[test]
#[ignore = "under valgrind: .ci/steps/60-capi runs it"]
fn the_cxx_guard() {
    under_valgrind(installed().compile("guard.cpp", Cxx, Shared), &[]);
}

#[test]
#[ignore = "under valgrind: .ci/steps/60-capi runs it"]
fn the_programs_of_the_guide() {
    for program in &programs_of("../docs/guide/c_vm.md") {
        under_valgrind(installed().compile_text("guide", program, Shared), &[]);
    }
}

#[test]
#[ignore = "under valgrind: .ci/steps/60-capi runs it"]
fn a_storm_of_signals() {
    let (alone, together) = if long_form() { ("1000000", "20000") } else { ("10000", "1000") };
    let program = installed().compile("storm", C, Shared);
    under_valgrind(&program, &[alone, "0", "self"]);
    under_valgrind(&program, &[together, "2", "self"]);
}

#[test]
#[ignore = "under valgrind: .ci/steps/60-capi runs it"]
fn children() {
    under_valgrind(installed().compile("fork", C, Static), &["5"]);
}

#[test]
#[ignore = "under valgrind: .ci/steps/60-capi runs it"]
fn unloading() {
    let library = installed().library("libinterp_guard.so");
    under_valgrind(installed().compile_unlinked("unload"), &[library.to_str().expect("a path"), "3"]);
}
