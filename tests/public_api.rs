//! What users can reach, item by item, held against `tests/public_api.txt`; and that nothing in it leads to a type of the
//! library's inside.
//!
//! A public function that hands out an internal type hands out that type's methods, which safe code can then call with
//! arguments that only the inside knows to be right. The list comes from rustdoc's description of the crate, in which such a
//! type is named by a signature and listed nowhere. Rustc keeps that format behind a switch, which is set for this one call.
//!
//! After a change that is meant: `INTERP_GUARD_BLESS=1 cargo test --test public_api`, and read what it does to the list.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// rustdoc's description of the library.
fn description() -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("public-api");
    let output = Command::new(env!("CARGO"))
        .args(["rustdoc", "--quiet", "--locked", "--lib", "--package", "interp-guard", "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json", "--document-hidden-items"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTDOCFLAGS")
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = std::fs::read(target.join("doc/interp_guard.json")).expect("rustdoc wrote it");
    serde_json::from_slice(&json).expect("JSON")
}

struct Api<'a> {
    root: u64,
    index: &'a Value,
    paths: &'a Value,
    /// What is listed, with its line.
    listed: BTreeMap<u64, String>,
    lines: BTreeSet<String>,
    /// Which types the signatures and fields of a listed item name.
    named: Vec<(String, u64, String)>,
}

impl<'a> Api<'a> {
    fn item(&self, id: u64) -> &'a Value {
        &self.index[id.to_string()]
    }

    /// Lists what `id` is, under `path`, and what can be reached through it.
    fn list(&mut self, id: u64, path: &str) {
        let item = self.item(id);
        let Some((kind, inner)) = item["inner"].as_object().and_then(|inner| inner.iter().next()) else {
            return;
        };
        if kind == "use" {
            let Some(target) = inner["id"].as_u64() else { return };
            let name = inner["name"].as_str().unwrap_or_default();
            assert_eq!(inner["is_glob"], false, "a glob re-export lists what nobody has chosen");
            // Under the name that the re-export gives it.
            return self.list_as(target, format!("{path}::{name}"));
        }
        let name = item["name"].as_str().filter(|_| id != self.root);
        self.list_as(id, name.map_or(path.to_string(), |name| format!("{path}::{name}")));
    }

    fn list_as(&mut self, id: u64, path: String) {
        let item = self.item(id);
        let Some((kind, inner)) = item["inner"].as_object().and_then(|inner| inner.iter().next()) else {
            return;
        };
        if kind != "impl" {
            let safety = if inner["header"]["is_unsafe"] == true || inner["is_unsafe"] == true {
                "unsafe "
            } else {
                ""
            };
            let line = format!("{safety}{kind} {path}");
            self.listed.insert(id, line.clone());
            self.lines.insert(line);
        }
        let children = match kind.as_str() {
            "module" | "impl" | "trait" => ids(&inner["items"]),
            "struct" | "union" => [ids(&inner["impls"]), fields(&inner["kind"])].concat(),
            "enum" => [ids(&inner["impls"]), ids(&inner["variants"])].concat(),
            "variant" => fields(&inner["kind"]),
            _ => Vec::new(),
        };
        if matches!(
            kind.as_str(),
            "function" | "struct_field" | "assoc_const" | "assoc_type" | "constant" | "type_alias"
        ) {
            self.note_types(&path, inner);
        }
        for child in children {
            let child_item = self.item(child);
            match child_item["inner"].get("impl") {
                // What the compiler derives for itself, and what holds for every type.
                Some(of) if of["is_synthetic"] == true || !of["blanket_impl"].is_null() => {}
                // A trait's methods are the trait's; which traits there are is part of the list.
                Some(of) if !of["trait"].is_null() => {
                    let name = of["trait"]["path"].as_str().unwrap_or_default();
                    self.lines.insert(format!("impl {name} for {path}"));
                    self.note_types(&path, &of["trait"]["args"]);
                    for associated in ids(&of["items"]) {
                        if let Some(of) = self.item(associated)["inner"].get("assoc_type") {
                            self.note_types(&path, of);
                        }
                    }
                }
                Some(_) => self.list(child, &path),
                None if child_item["visibility"] == "public" || child_item["visibility"] == "default" => {
                    self.list(child, &path);
                }
                None => {}
            }
        }
    }

    /// Notes every type that `value`, a part of `of`, names.
    fn note_types(&mut self, of: &str, value: &Value) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| self.note_types(of, value)),
            Value::Object(fields) => {
                if let (Some(id), Some(path)) =
                    (fields.get("id").and_then(Value::as_u64), fields.get("path").and_then(Value::as_str))
                {
                    self.named.push((of.to_string(), id, path.to_string()));
                }
                fields.values().for_each(|value| self.note_types(of, value));
            }
            _ => {}
        }
    }

    /// Types of this crate that are named and not listed: (by what, which).
    fn leaks(&self) -> Vec<String> {
        let is_ours = |id: u64| match self.paths[id.to_string()]["crate_id"].as_u64() {
            Some(krate) => krate == 0,
            None => true, // what rustdoc has left out altogether
        };
        let leaked = self.named.iter().filter(|(_, id, _)| is_ours(*id) && !self.listed.contains_key(id));
        leaked.map(|(of, _, path)| format!("{of} names {path}")).collect()
    }
}

fn ids(list: &Value) -> Vec<u64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// The fields of a struct or a variant, however it is written.
fn fields(kind: &Value) -> Vec<u64> {
    [&kind["plain"]["fields"], &kind["struct"]["fields"], &kind["tuple"]].map(ids).concat()
}

fn api(description: &Value) -> Api<'_> {
    let root = description["root"].as_u64().expect("a crate");
    let mut api = Api {
        root,
        index: &description["index"],
        paths: &description["paths"],
        listed: BTreeMap::new(),
        lines: BTreeSet::new(),
        named: Vec::new(),
    };
    api.list(root, "interp_guard");
    api
}

#[test]
fn the_public_surface_is_the_one_that_was_meant() {
    let description = description();
    let api = api(&description);
    assert!(
        api.lines.contains("struct interp_guard::Registry"),
        "rustdoc's format has changed: read it anew"
    );
    assert!(
        api.lines.contains("function interp_guard::Registry::lookup"),
        "rustdoc's format has changed: read it anew"
    );
    assert!(!api.named.is_empty(), "rustdoc's format has changed: read it anew");
    assert_eq!(api.leaks(), [""; 0], "internal types can be reached");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public_api.txt");
    if std::env::var_os("INTERP_GUARD_BLESS").is_some() {
        let lines: Vec<_> = api.lines.iter().map(String::as_str).collect();
        std::fs::write(&kept, lines.join("\n") + "\n").expect("the list is written");
        return;
    }
    let expected = std::fs::read_to_string(&kept).expect("the list");
    let expected: BTreeSet<String> = expected.lines().map(str::to_string).collect();
    let new: Vec<_> = api.lines.difference(&expected).collect();
    let gone: Vec<_> = expected.difference(&api.lines).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "the public surface has changed.\nnew: {new:#?}\ngone: {gone:#?}\nIf that is meant: INTERP_GUARD_BLESS=1"
    );
}

/// The leak that there once was: a public function that hands out the table.
#[test]
fn a_leak_is_noticed() {
    let mut description = description();
    let guard =
        api(&description).listed.into_iter().find(|(_, line)| line == "struct interp_guard::raw::RawGuard");
    let (guard, _) = guard.expect("it is public");
    let function =
        api(&description).listed.into_iter().find(|(_, line)| line.ends_with("RawGuard::into_parts"));
    let (function, _) = function.expect("it is public");
    let hidden = u64::from(u32::MAX);
    let output = serde_json::json!({"resolved_path": {"path": "Table", "id": hidden, "args": null}});
    description["index"][function.to_string()]["inner"]["function"]["sig"]["output"] = output;
    assert!(api(&description).listed.contains_key(&guard));
    assert_eq!(api(&description).leaks(), ["interp_guard::raw::RawGuard::into_parts names Table"]);
}
