//! No file of the library imports, through whatever others, a file that imports it; and no room imports what it
//! does not say.
//!
//! A *room* is a folder, or a file beside `lib.rs`. The first line of a folder's `mod.rs` says what its files may
//! import from outside of it: `// May import: signal_safe, registry/known.` (folders and files below the crate's
//! root; `nothing` is a word for none). A file beside `lib.rs` may say so, too. What is nested in a room keeps to
//! the room's line and to its own.
//!
//! What counts as an import: `use`, re-exports included, which are followed to the file that has the item; a path
//! that is written out in code or in a macro; a `mod` line, of the file that it names. So a `mod.rs` that declares
//! its children and re-exports from them is in no circle with a child, unless the child imports what the `mod.rs`
//! itself defines. What is `#[cfg(test)]`, and comments, do not count. Nor do methods: whose they are only the
//! compiler knows.

#![allow(missing_docs)]

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// The crates that are checked: where their `lib.rs` lies.
const CRATES: [&str; 3] = ["src", "capi/src", "python/src"];

#[test]
fn no_circle_and_no_import_that_a_room_does_not_name() {
    let mut complaints = Vec::new();
    for root in CRATES {
        let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root));
        assert!(sources.len() > 5, "{root} has more files than that");
        complaints.extend(complaints_of(&sources).into_iter().map(|said| format!("{root}: {said}")));
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Every Rust file below `root`: its path from there, and its text.
fn sources(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below it").to_str().expect("UTF-8");
                found.insert(name.to_owned(), std::fs::read_to_string(&path).expect("readable"));
            }
        }
    }
    found
}

/// A module's path from the crate's root.
type Module = Vec<String>;

/// What one module has, as far as names go.
#[derive(Default)]
struct Names {
    /// Its file.
    file: String,
    /// What `use` brings in, or re-exports: the paths as written.
    uses: BTreeMap<String, BTreeSet<Vec<String>>>,
    /// The modules whose names it all has.
    globs: BTreeSet<Vec<String>>,
    defined: BTreeSet<String>,
}

/// An import as written, and the module in which it stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    within: Module,
    path: Vec<String>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<Module, Names>,
    imports: BTreeSet<Import>,
    /// Who declares which module.
    declared: BTreeSet<(String, Module)>,
}

/// `registry/known.rs` is `registry/known`, and `registry/mod.rs` is `registry`.
fn place(file: &str) -> &str {
    let place = file.strip_suffix(".rs").unwrap_or(file);
    place.strip_suffix("/mod").unwrap_or(place)
}

fn module_of(file: &str) -> Module {
    match place(file) {
        "lib" => Module::new(),
        place => place.split('/').map(str::to_owned).collect(),
    }
}

impl Crate {
    fn read(sources: &BTreeMap<String, String>) -> Self {
        let mut read = Self::default();
        for (file, text) in sources {
            let parsed = syn::parse_file(text).unwrap_or_else(|why| panic!("{file}: {why}"));
            let mut reader = Reader { into: &mut read, file, within: module_of(file) };
            reader.enter();
            reader.visit_file(&parsed);
        }
        read
    }

    /// The files that have what `path`, written in module `within`, stands for. None if that is not of this crate.
    fn resolve(&self, within: &Module, path: &[String], depth: u32) -> BTreeSet<&str> {
        self.walk(within, path, depth)
            .iter()
            .filter_map(|at| Some(self.modules.get(at)?.file.as_str()))
            .collect()
    }

    /// The modules that have it, or that it is.
    fn walk(&self, within: &Module, path: &[String], depth: u32) -> BTreeSet<Module> {
        let none = BTreeSet::new();
        let (Some(first), true) = (path.first(), depth < 20) else { return none };
        let mut at = within.clone();
        let rest = match first.as_str() {
            "crate" => {
                at.clear();
                &path[1..]
            }
            "self" => &path[1..],
            "super" => {
                let up = path.iter().take_while(|segment| *segment == "super").count();
                at.truncate(at.len().saturating_sub(up));
                &path[up..]
            }
            // A child, or what was imported; else another crate's, or a local name.
            name => {
                let names = &self.modules[within];
                let child = [at.as_slice(), &path[..1]].concat();
                if !self.modules.contains_key(&child) && !names.uses.contains_key(name) {
                    return none;
                }
                path
            }
        };
        for (index, segment) in rest.iter().enumerate() {
            let child = [at.as_slice(), std::slice::from_ref(segment)].concat();
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            let Some(names) = self.modules.get(&at) else { return none };
            // What is written there is resolved there, with the rest of the path behind it.
            let behind = |used: &Vec<String>| [used.as_slice(), &rest[index + 1..]].concat();
            if let Some(used) = names.uses.get(segment) {
                // An item of the same module by another name, or of another crate's: nothing to follow.
                let itself = |used: &&Vec<String>| used.as_slice() != path || &at != within;
                return used
                    .iter()
                    .filter(itself)
                    .flat_map(|used| self.walk(&at, &behind(used), depth + 1))
                    .collect();
            }
            if !names.defined.contains(segment) {
                let through = |glob: &Vec<String>| [glob.as_slice(), &rest[index..]].concat();
                let found: BTreeSet<_> =
                    names.globs.iter().flat_map(|glob| self.walk(&at, &through(glob), depth + 1)).collect();
                if !found.is_empty() {
                    return found;
                }
            }
            break; // defined here, an associated item's type for one, or made by a macro here
        }
        BTreeSet::from([at])
    }

    /// Which file imports which, and by what names.
    fn edges(&self) -> BTreeMap<(&str, &str), BTreeSet<String>> {
        let mut edges = BTreeMap::<_, BTreeSet<String>>::new();
        for Import { within, path } in &self.imports {
            let from = self.modules[within].file.as_str();
            for to in self.resolve(within, path, 0).into_iter().filter(|&to| to != from) {
                edges.entry((from, to)).or_default().insert(path.join("::"));
            }
        }
        for (from, module) in &self.declared {
            if let Some(to) =
                self.modules.get(module).map(|names| names.file.as_str()).filter(|to| to != from)
            {
                let name = module.last().map_or("", String::as_str);
                edges.entry((from, to)).or_default().insert(format!("mod {name}"));
            }
        }
        edges
    }
}

/// Reads one file.
struct Reader<'c> {
    into: &'c mut Crate,
    file: &'c str,
    within: Module,
}

impl Reader<'_> {
    /// Begins with the module `within`.
    fn enter(&mut self) {
        self.into.modules.entry(self.within.clone()).or_default().file = self.file.to_owned();
    }

    fn names(&mut self) -> &mut Names {
        self.into.modules.get_mut(&self.within).expect("entered")
    }

    fn import(&mut self, path: Vec<String>) {
        let within = self.within.clone();
        self.into.imports.insert(Import { within, path });
    }

    fn read_use(&mut self, tree: &UseTree, mut path: Vec<String>) {
        match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                self.read_use(&tree.tree, path);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.read_use(tree, path.clone())),
            UseTree::Glob(_) => {
                self.names().globs.insert(path.clone());
                self.import(path);
            }
            UseTree::Name(name) => self.read_name(path, &name.ident.to_string(), None),
            UseTree::Rename(name) => {
                self.read_name(path, &name.ident.to_string(), Some(name.rename.to_string()));
            }
        }
    }

    fn read_name(&mut self, mut path: Vec<String>, name: &str, renamed: Option<String>) {
        if name != "self" {
            path.push(name.to_owned());
        }
        if let Some(known_as) = renamed.or_else(|| path.last().cloned()) {
            self.names().uses.entry(known_as).or_default().insert(path.clone());
        }
        self.import(path);
    }

    fn read_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let is_colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                TokenTree::Ident(first) => {
                    let mut path = vec![first.to_string()];
                    while let (true, true, Some(TokenTree::Ident(next))) =
                        (is_colon(at), is_colon(at + 1), tokens.get(at + 2))
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.import(path);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Is what has these attributes there in tests only?
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        meta => meta.path().is_ident("test"),
    })
}

/// The name that an item defines, and its attributes.
fn item(item: &Item) -> (Option<String>, &[Attribute]) {
    let named = |ident: &syn::Ident| Some(ident.to_string());
    match item {
        Item::Const(item) => (named(&item.ident), &item.attrs),
        Item::Enum(item) => (named(&item.ident), &item.attrs),
        Item::Fn(item) => (named(&item.sig.ident), &item.attrs),
        Item::Macro(item) => (item.ident.as_ref().and_then(named), &item.attrs),
        Item::Mod(item) => (None, &item.attrs),
        Item::Static(item) => (named(&item.ident), &item.attrs),
        Item::Struct(item) => (named(&item.ident), &item.attrs),
        Item::Trait(item) => (named(&item.ident), &item.attrs),
        Item::Type(item) => (named(&item.ident), &item.attrs),
        Item::Union(item) => (named(&item.ident), &item.attrs),
        Item::Impl(item) => (None, &item.attrs),
        Item::Use(item) => (None, &item.attrs),
        Item::ForeignMod(item) => (None, &item.attrs),
        _ => (None, &[]),
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, node: &'ast Item) {
        let (name, attributes) = item(node);
        if is_test(attributes) {
            return;
        }
        self.names().defined.extend(name);
        match node {
            Item::Use(node) => self.read_use(&node.tree, Vec::new()),
            Item::Mod(node) => {
                self.within.push(node.ident.to_string());
                match &node.content {
                    Some(_) => {
                        self.enter();
                        visit::visit_item_mod(self, node);
                    }
                    None => _ = self.into.declared.insert((self.file.to_owned(), self.within.clone())),
                }
                self.within.pop();
            }
            _ => visit::visit_item(self, node),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && path.leading_colon.is_none() {
            self.import(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        self.read_tokens(node.tokens.clone());
        visit::visit_macro(self, node);
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    /// `pub(in super::super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// All that is wrong with a crate's imports.
fn complaints_of(sources: &BTreeMap<String, String>) -> Vec<String> {
    let read = Crate::read(sources);
    let edges = read.edges();
    let mut complaints = circles(&edges);
    for (room, file) in rooms(sources) {
        match may_import(&sources[file]) {
            None if file.ends_with("/mod.rs") => {
                complaints.push(format!("{file} does not begin with `// May import: ..`"));
            }
            None => {}
            Some(allowed) => {
                let is_there = |name: &String| sources.keys().any(|file| is_in(file, name));
                let unknown = allowed.iter().filter(|name| !is_there(name));
                complaints
                    .extend(unknown.map(|name| format!("{file} may import {name}, which is not there")));
                for ((from, to), names) in &edges {
                    if is_in(from, room) && !is_in(to, room) && !allowed.iter().any(|name| is_in(to, name)) {
                        let names: Vec<_> = names.iter().map(String::as_str).collect();
                        let names = names.join(", ");
                        complaints.push(format!("{from} imports {names} of {to}, which {file} does not say"));
                    }
                }
            }
        }
    }
    complaints
}

/// Each room, and the file that says what it may import.
fn rooms(sources: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    let names = sources.keys().map(|file| (place(file), file.as_str()));
    names.filter(|(room, file)| *room != "lib" && (file.ends_with("/mod.rs") || !room.contains('/')))
}

/// Is the file this place, or in it?
fn is_in(file: &str, name: &str) -> bool {
    place(file).strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What the file's first line says.
fn may_import(text: &str) -> Option<Vec<String>> {
    let comment = |line: &str| Some(line.strip_prefix("//")?.trim_start_matches('!').trim().to_owned());
    let mut lines = text.lines().map_while(comment);
    let mut said = lines.next()?.strip_prefix("May import:")?.to_owned();
    while !said.ends_with('.') {
        said = format!("{said} {}", lines.next()?);
    }
    let names = said.trim_end_matches('.').split(',').map(|name| name.trim().to_owned());
    Some(names.filter(|name| name != "nothing").collect())
}

/// Every circle: its files, and by what each is held in it.
fn circles(edges: &BTreeMap<(&str, &str), BTreeSet<String>>) -> Vec<String> {
    let mut next = BTreeMap::<&str, BTreeSet<&str>>::new();
    for &(from, to) in edges.keys() {
        next.entry(from).or_default().insert(to);
    }
    let mut reached = BTreeMap::<&str, BTreeSet<&str>>::new();
    for &from in next.keys() {
        let (seen, mut open) = (reached.entry(from).or_default(), vec![from]);
        while let Some(at) = open.pop() {
            open.extend(next.get(at).into_iter().flatten().filter(|&&to| seen.insert(to)));
        }
    }
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|reached| reached.contains(to));
    let mut circles = BTreeSet::new();
    for from in next.keys().filter(|from| reaches(from, from)) {
        let circle: BTreeSet<_> = next.keys().filter(|at| reaches(from, at) && reaches(at, from)).collect();
        let held = edges.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
        let line = |((from, to), names): (&(&str, &str), &BTreeSet<String>)| {
            format!("\n    {from} imports {} of {to}", names.iter().cloned().collect::<Vec<_>>().join(", "))
        };
        circles.insert(format!("a circle of {} files:{}", circle.len(), held.map(line).collect::<String>()));
    }
    circles.into_iter().collect()
}

// --- the check checked ------------------------------------------------------------------------------------------------

fn complaints<const N: usize>(files: [(&str, &str); N]) -> Vec<String> {
    complaints_of(&files.map(|(file, text)| (file.to_owned(), text.to_owned())).into())
}

#[test]
fn files_that_import_each_other_are_a_circle() {
    let found = complaints([
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "pub struct B; fn f() { crate::c::f() }"),
        ("c.rs", "pub fn f() { println!(\"{}\", super::a::A::NAME) }"),
    ]);
    assert_eq!(
        found,
        [
            "a circle of 3 files:\n    a.rs imports crate::b::B of b.rs\n    b.rs imports crate::c::f of c.rs\n    \
          c.rs imports super::a::A::NAME of a.rs"
        ]
    );
}

#[test]
fn a_re_export_is_followed_to_who_has_the_item() {
    let found = complaints([
        ("lib.rs", "pub use a::{A, other::C as D}; mod a; mod b;"),
        ("a.rs", "use crate::b; pub struct A; pub mod other { pub struct C; }"),
        ("b.rs", "pub fn f(_: crate::A, _: crate::D) {}"),
    ]);
    assert_eq!(
        found,
        [
            "a circle of 2 files:\n    a.rs imports crate::b of b.rs\n    b.rs imports crate::A, crate::D of a.rs"
        ]
    );
}

#[test]
fn a_mod_rs_is_in_no_circle_with_a_child_that_imports_a_siblings_item_through_it() {
    let child = ("room/child.rs", "use super::Sibling;");
    let sibling = ("room/sibling.rs", "pub struct Sibling;");
    let lib = ("lib.rs", "mod room;");
    let hall = "// May import: nothing.\nmod child; mod sibling; pub use sibling::Sibling;";
    assert_eq!(complaints([lib, ("room/mod.rs", hall), child, sibling]), [""; 0]);
    let hall = "// May import: nothing.\nmod child; mod sibling; pub struct Sibling;";
    let found = complaints([lib, ("room/mod.rs", hall), child, sibling]);
    assert_eq!(
        found,
        [
            "a circle of 2 files:\n    room/child.rs imports super::Sibling of room/mod.rs\n    room/mod.rs imports mod \
          child of room/child.rs"
        ]
    );
}

#[test]
fn what_a_room_does_not_name_it_may_not_import() {
    let lib = ("lib.rs", "mod above; mod room; mod below; mod beside;");
    let above = ("above/mod.rs", "// May import: room.\nfn f() { crate::room::inner::f() }");
    let inner = "use crate::{below::B, beside::deep::D}; pub fn f() {}";
    let rest = [
        ("room/inner.rs", inner),
        ("below.rs", "pub struct B;"),
        ("beside/mod.rs", "// May import: nothing.\npub mod deep;"),
        ("beside/deep.rs", "pub struct D;"),
    ];
    let with = |says: &'static str| {
        let [inner, below, beside, deep] = rest;
        complaints([lib, above, ("room/mod.rs", says), inner, below, beside, deep])
    };
    assert_eq!(with("// May import: below,\n// beside/deep.\npub mod inner;"), [""; 0]);
    assert_eq!(with("//! May import: below, beside.\npub mod inner;"), [""; 0]);
    assert_eq!(
        with("// May import: below.\npub mod inner;"),
        ["room/inner.rs imports crate::beside::deep::D of beside/deep.rs, which room/mod.rs does not say"]
    );
    assert_eq!(
        with("// May import: below, beside/deep, attic.\npub mod inner;"),
        ["room/mod.rs may import attic, which is not there"]
    );
    assert_eq!(with("pub mod inner;"), ["room/mod.rs does not begin with `// May import: ..`"]);
}

#[test]
fn a_file_beside_lib_rs_keeps_to_its_line_and_tests_do_not_count() {
    let lib = ("lib.rs", "mod a; mod b; pub struct Root;");
    let b = ("b.rs", "pub struct B;");
    let text = "// May import: nothing.\n#[cfg(test)]\nmod tests { use crate::b::B; }\n#[cfg(test)]\nfn f(_: crate::b::B) {}";
    assert_eq!(complaints([lib, ("a.rs", text), b]), [""; 0]);
    let text = "// May import: nothing.\n#[cfg(not(test))]\nfn f(_: crate::b::B) {}";
    assert_eq!(
        complaints([lib, ("a.rs", text), b]),
        ["a.rs imports crate::b::B of b.rs, which a.rs does not say"]
    );
    // What the crate's root defines is below everything: whoever imports it is in a circle with it.
    assert_eq!(complaints([lib, ("a.rs", "use crate::Root;"), b]).len(), 1);
}

#[test]
fn globs_renamed_modules_and_visibilities_are_understood() {
    let lib = ("lib.rs", "mod a; mod b; mod c; use c as sea;");
    let found = complaints([
        lib,
        ("a.rs", "use crate::b::*; pub(in super) struct A;"),
        ("b.rs", "pub use crate::c::*;"),
        ("c.rs", "use crate::a::A; pub struct C;"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("a circle of 3 files"), "{found:?}");
    let found = complaints([
        lib,
        ("a.rs", "fn f(_: crate::sea::C) {}"),
        ("b.rs", ""),
        ("c.rs", "use crate::a; struct C;"),
    ]);
    assert!(found[0].starts_with("a circle of 2 files"), "{found:?}");
}
