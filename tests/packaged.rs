//! What is published builds by itself, and so does the library's documentation: as a registry and docs.rs get it, from the files
//! that `include` in Cargo.toml names. Each link in the documentation leads to a page that is there.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn cargo(folder: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).args(["--quiet", "--offline", "--target-dir"]).arg(target()).current_dir(folder);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("package")
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("cargo starts");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{complained}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is published of this workspace.
fn published() -> Vec<String> {
    let metadata = succeeds(
        Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--format-version", "1", "--offline", "--quiet"])
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let members = metadata["packages"].as_array().expect("packages").iter();
    let published = members.filter(|package| package["publish"].is_null()); // `false` is an empty list there
    published.map(|package| package["name"].as_str().expect("a name").to_owned()).collect()
}

/// The documentation of the package, unpacked: the folder with its pages.
fn documentation() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let published = published();
    assert_eq!(published, ["interp-guard", "interp-guard-pyo3"]);
    let mut package = vec!["package", "--allow-dirty"];
    for name in &published {
        package.extend(["--package", name.as_str()]);
        let listed = succeeds(&mut cargo(root, &["package", "--allow-dirty", "--list", "--package", name]));
        let files: BTreeSet<&str> = listed.lines().collect();
        for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT", "src/lib.rs"] {
            assert!(files.contains(file), "{name}: no {file} in\n{listed}");
        }
        let foreign = ["python", "capi", "cli", "tests", "benches", ".ci", "models"];
        let strays: Vec<_> =
            files.iter().filter(|file| foreign.iter().any(|other| file.starts_with(other))).collect();
        assert!(strays.is_empty(), "{name}: {strays:?}");
    }

    succeeds(&mut cargo(root, &package)); // builds what it has packed
    let unpacked = target().join("package").join(concat!("interp-guard-", env!("CARGO_PKG_VERSION")));
    // It lies below this workspace, of which it is no member.
    let manifest = unpacked.join("Cargo.toml");
    let told = std::fs::read_to_string(&manifest).expect("a manifest") + "\n[workspace]\n";
    std::fs::write(manifest, told).expect("written");
    succeeds(cargo(&unpacked, &["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings"));
    target().join("doc/interp_guard")
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => pages(&path, found),
            path if path.extension().is_some_and(|extension| extension == "html") => found.push(path),
            _ => {}
        }
    }
}

/// Does `link`, on `page`, lead somewhere? To another site, or to a file that is there and has that anchor.
fn leads_somewhere(page: &Path, link: &str) -> bool {
    if ["https://", "http://", "javascript:", "data:"].iter().any(|elsewhere| link.starts_with(elsewhere)) {
        return true;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let file = file.split('?').next().unwrap_or_default();
    let there = if file.is_empty() { page.to_owned() } else { page.with_file_name("").join(file) };
    let is_code = link.contains(".rs.html#"); // whose anchors are made by a script
    there.is_file()
        && (anchor.is_empty() || is_code || {
            std::fs::read_to_string(there).expect("a page").contains(&format!("id=\"{anchor}\""))
        })
}

#[test]
#[ignore = "builds the package and its documentation: .ci/steps/32-slow runs it"]
fn the_package_builds_and_its_documentation_leads_nowhere_that_is_not_there() {
    let documentation = documentation();
    let (mut all, mut dead, mut links) = (Vec::new(), Vec::new(), 0);
    pages(&documentation, &mut all);
    for page in &all {
        let html = std::fs::read_to_string(page).expect("a page");
        for link in html.split(" href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            links += 1;
            if !leads_somewhere(page, link) {
                dead.push(format!("{}: {link}", page.strip_prefix(&documentation).expect("below").display()));
            }
        }
    }
    assert!(all.len() > 50 && links > 1000, "{} pages with {links} links", all.len());
    assert!(dead.is_empty(), "{}", dead.join("\n"));

    // `Registry`'s page is in the order in which one uses it.
    let page = std::fs::read_to_string(documentation.join("struct.Registry.html")).expect("a page");
    let place = |method: &str| page.find(&format!("<section id=\"method.{method}\"")).expect(method);
    let order = ["new", "register", "lookup", "close", "finalize", "outstanding", "before_fork"];
    assert!(order.is_sorted_by_key(|method| place(method)), "{:?}", order.map(place));
}
