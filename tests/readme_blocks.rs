//! What README.md and the guides show works where a reader puts it.
//!
//! Each of their whole programs is built in an empty package that depends on this one by its path, as the README says to,
//! and is run. What a program prints is the report that the README shows, up to ages and thread IDs. Each of its links
//! leads to a file that is there, and to a page of the documentation. The guides for other languages are built and run by
//! the tests of `capi` and `python`.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text of each block of `language`.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let (mut found, mut inside) = (Vec::new(), None::<(bool, String)>);
    for line in document.lines() {
        match (&mut inside, line.strip_prefix("```")) {
            (None, Some(named)) => inside = Some((named == language, String::new())),
            (None, None) => {}
            (Some(_), Some(_)) => {
                found.extend(inside.take().filter(|(wanted, _)| *wanted).map(|(_, text)| text));
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    assert!(inside.is_none(), "a block has no end");
    found
}

/// A package with nothing in it but `programs`, each as its own `src/main.rs`.
fn package(programs: &[String], dependencies: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    let mut manifest = "[package]\nname = \"newcomer\"\nversion = \"0.1.0\"\nedition = \"2024\"\n".to_owned();
    for (number, program) in programs.iter().enumerate() {
        let source = folder.join(format!("{number}/src"));
        std::fs::create_dir_all(&source).expect("a folder");
        std::fs::write(source.join("main.rs"), program).expect("a file");
        let bin = format!("\n[[bin]]\nname = \"program{number}\"\npath = \"{number}/src/main.rs\"\n");
        manifest.push_str(&bin);
    }
    // A workspace of its own: it lies in this one's folder.
    manifest.push_str("\n[workspace]\n\n[profile.dev]\ndebug = false\n\n");
    manifest.push_str(dependencies);
    std::fs::write(folder.join("Cargo.toml"), manifest).expect("a file");
    // The versions that are here already: nothing is fetched.
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a file");
    folder
}

/// The files in `docs/guide`.
fn guides() -> Vec<String> {
    let guides = std::fs::read_dir(root().join("docs/guide")).expect("a folder");
    let name = |entry: std::fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    let mut guides: Vec<_> = guides.map(|entry| name(entry.expect("an entry"))).collect();
    guides.sort();
    guides
}

/// Guides whose programs another test builds and runs, and that test.
const IN_OTHER_LANGUAGES: [(&str, &str); 3] = [
    ("c_vm.md", "capi/tests/installed/main.rs"),
    ("python_extension.md", "python/tests/programs/guide.py"),
    ("shield.md", "python/tests/programs/shield.py"),
];

/// Runs it, and gives what it printed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
    assert!(!complained.contains("warning"), "{command:?}:\n{complained}");
    said.into_owned()
}

/// Words, without what changes from run to run: ages, and numbers of threads.
fn steady(text: &str) -> String {
    let mut words: Vec<_> = text.split_whitespace().collect();
    for word in &mut words {
        if word.parse::<f64>().is_ok() {
            *word = "#";
        }
    }
    words.join(" ")
}

#[test]
#[ignore = "builds each program of the README: .ci/steps/32-slow runs it"]
fn whole_programs_build_and_run_in_an_empty_package() {
    let readme = read("README.md");
    let mut programs = blocks(&readme, "rust");
    assert!(programs.len() >= 3, "{} programs", programs.len());
    for guide in guides() {
        let shown = blocks(&read(&format!("docs/guide/{guide}")), "rust");
        let elsewhere = IN_OTHER_LANGUAGES.iter().any(|(other, _)| *other == guide);
        assert_eq!(shown.is_empty(), elsewhere, "{guide} shows {} programs in Rust", shown.len());
        programs.extend(shown);
    }
    for program in &programs {
        assert!(program.contains("fn main()"), "not a whole program:\n{program}");
    }
    let [dependencies] = &blocks(&readme, "toml")[..] else { panic!("one block says what to depend on") };
    let path = "path = \"../interp-guard\"";
    assert!(dependencies.contains(path), "the README's path:\n{dependencies}");
    let here = format!("path = \"{}\"", root().display());
    // What single guides depend on besides.
    let mut others = String::new();
    for guide in guides() {
        for block in blocks(&read(&format!("docs/guide/{guide}")), "toml") {
            others += block.strip_prefix("[dependencies]\n").unwrap_or_else(|| panic!("{guide}:\n{block}"));
        }
    }
    let folder = package(&programs, &(dependencies.replace(path, &here) + &others));

    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme-target");
    let cargo = |what: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(what).args(["--quiet", "--offline", "--target-dir"]).arg(&target).current_dir(&folder);
        output(cargo.env_remove("INTERP_GUARD_LEDGER").env_remove("INTERP_GUARD_COUNTERS"))
    };
    cargo(&["build"]);
    let run = |number: usize| cargo(&["run", "--bin", &format!("program{number}")]);
    let printed: Vec<_> = (0..programs.len()).map(run).collect();
    println!("{}", printed.join("\n"));
    // The report at the top is what one of them prints.
    let shown = blocks(&readme, "text");
    let report = shown.iter().find(|text| text.starts_with("the drain timed out")).expect("a drain's report");
    let numbered = |number: usize, text: &String| steady(&text.replace(&format!("{number}/src/"), "src/"));
    let found = printed.iter().enumerate().any(|(number, text)| numbered(number, text) == steady(report));
    assert!(found, "no program prints\n{report}\nThey print\n{}", printed.join("\n"));
}

#[test]
fn each_guide_is_a_page_of_the_documentation_and_its_programs_are_somebodys() {
    let (pages, readme) = (read("src/guide.rs"), read("README.md"));
    let guides = guides();
    for guide in &guides {
        assert!(
            pages.contains(&format!("include_str!(\"../docs/guide/{guide}\")")),
            "src/guide.rs has no {guide}"
        );
        assert!(readme.contains(&format!(": docs/guide/{guide}\n")), "the README leads nobody to {guide}");
    }
    for (guide, test) in IN_OTHER_LANGUAGES {
        assert!(guides.iter().any(|there| there == guide), "{guide} is gone");
        assert!(read(test).contains(guide), "{test} builds {guide} no more");
    }
}

#[test]
fn the_guide_to_a_runtimes_core_shows_the_example() {
    let [shown] = &blocks(&read("docs/guide/own_runtime.md"), "rust")[..] else { panic!("one program") };
    let example = read("examples/own_runtime.rs");
    let (head, program) = example.split_once("\n\n").expect("a head");
    assert!(head.lines().all(|line| line.starts_with("//!")), "{head}");
    assert_eq!(shown, program, "copy examples/own_runtime.rs into docs/guide/own_runtime.md");
}

/// `[name]: where`, of every line that says so behind `mark`.
fn definitions<'t>(text: &'t str, mark: &str) -> Vec<(&'t str, &'t str)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(mark)?.strip_prefix('[')?.split_once("]: "));
    lines.collect()
}

#[test]
fn links_lead_to_files_here_and_to_pages_of_the_documentation() {
    let (readme, library) = (read("README.md"), read("src/lib.rs"));
    let (files, pages) = (definitions(&readme, ""), definitions(&library, "//! "));
    assert!(files.len() > 10, "the links are read wrongly: {files:?}");
    for (name, file) in &files {
        assert!(root().join(file).is_file(), "[{name}] leads to {file}, which is not there");
        assert!(readme.contains(&format!("[{name}]")), "nobody follows [{name}]");
    }
    let named = |links: &[(&str, &str)]| links.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(named(&pages), named(&files), "src/lib.rs says where each leads in the documentation");
    // A link that is written out where it stands leads nowhere in the documentation, unless it is on the page.
    let elsewhere = readme.split("](").skip(1).filter(|rest| !rest.starts_with('#')).count();
    assert_eq!(elsewhere, 0, "a link by its path, not by a name");
}
