//! The checked-in header is what the sources say, and says of every function where it may run.

use std::fs;
use std::path::Path;

/// In the order in which the header introduces things.
const SOURCES: [&str; 6] =
    ["status.rs", "guard.rs", "registry.rs", "thread_state.rs", "pending.rs", "fork.rs"];

fn generated() -> String {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let builder = SOURCES.iter().fold(cbindgen::Builder::new().with_config(config), |builder, source| {
        builder.with_src(package.join("src").join(source))
    });
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    for_c(&String::from_utf8(text).unwrap())
}

/// What cbindgen has no setting for: the typedef names in prototypes, and without the `# Safety` sections, which say to unsafe
/// Rust what C programmers take for granted or read under "Context".
fn for_c(header: &str) -> String {
    let mut out = String::new();
    let mut in_safety = false;
    for line in header.lines() {
        in_safety = (in_safety || line.trim() == "* # Safety") && line.trim() != "*/";
        if in_safety {
            continue;
        }
        if line.starts_with("typedef") {
            out.push_str(line);
        } else {
            out.push_str(line.replace("enum ig_", "ig_").replace("struct ig_", "ig_").trim_end());
        }
        out.push('\n');
    }
    out.replace(" *\n */", " */")
}

#[test]
fn the_checked_in_header_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/interp_guard.h");
    let now = generated();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == now,
        "{} is not what cbindgen makes of src/.\nTo write it anew: BLESS=1 cargo test -p interp-guard-capi --test header",
        path.display()
    );
}

#[test]
fn every_function_says_where_it_may_run_and_what_it_returns() {
    let header = generated();
    let mut functions = 0;
    for (comment, name) in interp_guard_header::functions(&header) {
        functions += 1;
        assert!(
            comment.contains("Context: any, async-signal-safe") != comment.contains("Context: normal"),
            "{name}: where may it run?"
        );
        assert!(comment.contains("Returns: "), "{name}: what does it return?");
        if comment.contains("async-signal-safe") {
            assert!(comment.contains("Touches: "), "{name}: what does it touch?");
        }
    }
    assert!(functions > 15, "only {functions} functions found in the header");
}

#[test]
fn the_versions_agree() {
    let header = generated();
    let macros = ["MAJOR", "MINOR", "PATCH"].map(|part| {
        let line = header.lines().find(|line| line.starts_with(&format!("#define IG_VERSION_{part} ")));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    });
    assert_eq!(macros.join("."), env!("CARGO_PKG_VERSION"));
}

#[path = "support/header.rs"]
mod interp_guard_header;
