//! What the libraries export, and what the signal-safe part of that can reach. Each check is also run on a library of which it
//! must complain.

use crate::code::Code;
use crate::tools::{installed, output, tool};
use crate::{header, walk};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn installed_header() -> String {
    fs::read_to_string(installed().include("interp_guard.h")).unwrap()
}

/// The functions that the installed header declares.
fn declared() -> BTreeSet<String> {
    header::functions(&installed_header()).into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// What `nm` says of a library: the names that it defines for others.
fn exported(library: &Path) -> BTreeSet<String> {
    let dynamic = library.extension().is_some_and(|extension| extension == "so");
    let arguments = if dynamic { ["-D", "--defined-only"] } else { ["-g", "--defined-only"] };
    let text = output(tool("nm", "binutils").args(arguments).arg(library));
    let symbols = text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(_, name)| name.to_owned());
    symbols.filter(|name| !name.ends_with(':')).collect()
}

/// Where a library's exports and the header part.
fn differences(library: &Path) -> Vec<String> {
    let (exported, declared) = (exported(library), declared());
    let more = exported.difference(&declared).map(|name| format!("exported, not declared: {name}"));
    let fewer = declared.difference(&exported).map(|name| format!("declared, not exported: {name}"));
    more.chain(fewer).collect()
}

#[test]
fn the_libraries_export_what_the_header_declares_neither_more_nor_fewer() {
    for library in ["libinterp_guard.so", "libinterp_guard.a"] {
        assert_eq!(differences(&installed().library(library)), [""; 0], "{library}");
    }
}

#[test]
fn an_export_too_many_and_one_too_few_would_be_noticed() {
    let mut names = declared();
    assert!(names.remove("ig_guard_dup"));
    names.insert("ig_one_too_many".into());
    let source: String = names.iter().map(|name| format!("void {name}(void) {{}}\n")).collect();
    for library in installed().build_library("wrong_exports", &source) {
        let expected = ["exported, not declared: ig_one_too_many", "declared, not exported: ig_guard_dup"];
        assert_eq!(differences(&library), expected, "{}", library.display());
    }
}

/// What there is to object to in a function of a static library, from its machine code.
fn objections(code: &Code, name: &str) -> Vec<String> {
    let reached = walk::walk(code, [code.function(name)], &[]);
    println!("{name}: {} instructions reached", reached.places.len());
    reached.objections.into_iter().filter(|what| !is_static_thread_local(what)).collect()
}

/// `this_thread`'s words lie in the static block of each thread: nothing lazy about them. (A lazy one is reached through
/// a call of `__tls_get_addr`, which is an objection of its own.)
fn is_static_thread_local(objection: &str) -> bool {
    objection.starts_with("a thread-local") && objection.contains("this_thread")
}

/// From every function whose comment says that a handler may call it.
#[test]
fn what_a_handler_may_call_cannot_panic_allocate_or_reach_a_lazy_thread_local() {
    let code = Code::read(&installed().library("libinterp_guard.a"));
    let text = installed_header();
    let safe =
        header::functions(&text).into_iter().filter(|(comment, _)| comment.contains("async-signal-safe"));
    let safe: Vec<&str> = safe.map(|(_, name)| name).collect();
    for expected in [
        "ig_lookup",
        "ig_guard_dup",
        "ig_guard_close",
        "ig_current_id",
        "ig_pending_push",
        "ig_main",
        "ig_for_each_live",
    ] {
        assert!(safe.contains(&expected), "{expected} is not among {safe:?}");
    }
    for name in safe {
        let objections = objections(&code, name);
        // It calls what it was given, and nothing else.
        let calls = if name == "ig_for_each_live" { vec!["leads who knows where"] } else { Vec::new() };
        let expected = objections.len() == calls.len()
            && objections.iter().zip(calls).all(|(objection, call)| objection.starts_with(call));
        assert!(expected, "{name}:\n{objections:#?}");
    }
}

#[test]
fn a_handler_that_allocates_or_reaches_a_lazy_thread_local_would_be_noticed() {
    let source = r"
        #include <stdlib.h>
        static __thread int lazy;
        int adds(int a, int b) { return a + b; }
        int counts(void) { return ++lazy; }
        int *allocates(void) { int *made = malloc(sizeof *made); *made = 1; return made; }
        int calls(int (*which)(int)) { return which(7) + 1; }
        int gives_up(int a) { if (a > 0) { return a; } __builtin_trap(); }
    ";
    let [_, archive] = installed().build_library("wrong_calls", source);
    let code = Code::read(&archive);
    assert_eq!(objections(&code, "adds"), [""; 0]);
    let expected = [
        ("counts", "`__tls_get_addr`"),
        ("counts", "a thread-local"),
        ("allocates", "`malloc`"),
        ("calls", "leads who knows where"),
        ("gives_up", "traps"),
    ];
    for (name, what) in expected {
        let objections = objections(&code, name);
        assert!(objections.iter().any(|objection| objection.contains(what)), "{name}: {objections:#?}");
    }
}
