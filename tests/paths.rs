//! Every path of this repository that a document or a comment names between backticks is there.
//!
//! Documents and sources are found by their endings. A path is looked for from the document's own folder and from
//! each that this lies in, up to the repository's root; and, with an ending, as the end of any file's path: a
//! comment may say `counters/shared.rs`.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::Path;

/// The endings of files that are named by them.
const ENDINGS: [&str; 14] =
    ["rs", "md", "toml", "pml", "h", "hpp", "c", "cpp", "py", "pyi", "pxd", "txt", "json", "limits"];

/// Named, and not there: what a build or a test leaves, and what stands for any name.
const NOT_HERE: [&str; 3] = ["target/", "each.h", "NAME"];

/// Files and folders below `folder`, folders with a slash at their end; not what builds leave.
fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(root).expect("below it").to_str().expect("UTF-8").to_owned();
        if path.is_dir() {
            let built = ["target", ".git", "__pycache__"].iter().any(|&built| path.ends_with(built));
            if !built && !path.is_symlink() {
                found.insert(format!("{name}/"));
                collect(root, &path, found);
            }
        } else {
            found.insert(name);
        }
    }
}

/// What stands between backticks on a line, each on its own.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The words of a quotation that name a path of this repository, if they are right.
fn paths<'q>(quotation: &'q str, all: &'q BTreeSet<String>) -> impl Iterator<Item = &'q str> {
    let alone = !quotation.contains(' ');
    quotation.split(' ').filter_map(move |word| {
        let word = word.split("::").next().unwrap_or_default().trim_start_matches("./");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        let ends =
            word.rsplit_once('.').is_some_and(|(name, ending)| !name.is_empty() && ENDINGS.contains(&ending));
        let starts = |folder: &String| {
            folder.matches('/').count() == 1 && folder.ends_with('/') && word.starts_with(folder.as_str())
        };
        let ours = all.iter().any(starts) || alone && ends;
        let others = word.starts_with('/') || NOT_HERE.iter().any(|part| word.contains(part));
        (!word.is_empty() && word.bytes().all(plain) && ours && !others).then_some(word)
    })
}

/// Is it there, seen from a document in `folder`?
fn is_there(path: &str, folder: &str, all: &BTreeSet<String>) -> bool {
    let path = path.trim_end_matches('/');
    let from = |folder: &str| {
        let name = if folder.is_empty() { path.to_owned() } else { format!("{folder}/{path}") };
        // A test or a scenario's file, too, by its name alone.
        [format!("{name}/"), format!("{name}.rs"), name].iter().any(|name| all.contains(name))
    };
    let mut folders = std::iter::successors(Some(folder), |inner| {
        Some(inner.rsplit_once('/').map_or("", |(outer, _)| outer)).filter(|_| !inner.is_empty())
    });
    let end = format!("/{path}");
    folders.any(from) || path.contains('.') && all.iter().any(|name| name.ends_with(&end))
}

fn missing(name: &str, text: &str, all: &BTreeSet<String>) -> Vec<String> {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut missing = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = match (name.ends_with(".md"), line.find("//")) {
            (true, _) => line,
            (false, Some(at)) => &line[at..],
            (false, None) => continue,
        };
        for path in quoted(line)
            .flat_map(|quotation| paths(quotation, all))
            .filter(|path| !is_there(path, folder, all))
        {
            missing.push(format!("{name}:{}: {path}", number + 1));
        }
        // `.ci/run 30-tests`: the step is a file, too.
        for step in quoted(line).filter_map(|quotation| quotation.strip_prefix(".ci/run ")) {
            let steps = step.split(' ').filter(|step| step.starts_with(|first: char| first.is_ascii_digit()));
            let gone = steps.filter(|step| !all.contains(&format!(".ci/steps/{step}")));
            missing.extend(gone.map(|step| format!("{name}:{}: no step {step}", number + 1)));
        }
    }
    missing
}

#[test]
fn every_path_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = BTreeSet::new();
    collect(root, root, &mut all);
    let (mut read, mut gone) = (0, Vec::new());
    for name in all.iter().filter(|name| name.ends_with(".md") || name.ends_with(".rs")) {
        let text = std::fs::read_to_string(root.join(name)).expect("readable");
        gone.extend(missing(name, &text, &all));
        read += 1;
    }
    assert!(read > 200, "{read} files are too few");
    assert!(gone.is_empty(), "named, and not there:\n{}", gone.join("\n"));
}

#[test]
fn what_is_not_there_is_noticed() {
    let all = [
        "README.md",
        "docs/",
        "docs/proof.md",
        "src/",
        "src/room/",
        "src/room/table.rs",
        ".ci/",
        ".ci/run",
        ".ci/steps/",
        ".ci/steps/30-tests",
    ];
    let all: BTreeSet<String> = all.map(str::to_owned).into();
    let in_document = |text: &str| missing("docs/proof.md", text, &all);
    assert_eq!(
        in_document(
            "`src/room`, `src/room/table.rs`, `table.rs`, `room/table.rs::a_test`, `proof.md` and `a/b`"
        ),
        [""; 0]
    );
    assert_eq!(in_document("`src/gone.rs`"), ["docs/proof.md:1: src/gone.rs"]);
    assert_eq!(
        in_document("fine\n`gone.rs` and `docs/gone`"),
        ["docs/proof.md:2: gone.rs", "docs/proof.md:2: docs/gone"]
    );
    assert_eq!(
        in_document("`.ci/run 30-tests`, `.ci/run --long 31-tests`"),
        ["docs/proof.md:1: no step 31-tests"]
    );
    assert_eq!(
        in_document("`cat src/gone`, `a.out / 2`, `/proc/self/x.txt`, `target/x.md`"),
        ["docs/proof.md:1: src/gone"]
    );
    let source = "let a = \"`gone.rs`\";\nlet b = 1; /".to_owned() + "/ see `gone.rs`\n";
    assert_eq!(missing("src/room/table.rs", &source, &all), ["src/room/table.rs:2: gone.rs"]);
}
