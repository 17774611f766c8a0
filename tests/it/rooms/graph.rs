//! Which module uses which, from the source files.

use super::lexer::{NamedPath, Source, read};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules of the crate by path (`fs::ext4`; the crate's root is empty, `main.rs` is `main`),
/// without those that exist for tests only.
pub struct Modules(BTreeMap<String, Source>);

impl Modules {
    /// Reads all files under `src`.
    pub fn read(src: &Path) -> Self {
        let mut modules = BTreeMap::new();
        collect(src, "", &mut modules);
        let for_tests: Vec<String> = modules
            .iter()
            .flat_map(|(path, s): (&String, &Source)| s.test_children.iter().map(|c| join(path, c)))
            .collect();
        modules.retain(|path, _| {
            !for_tests.iter().any(|t| path == t || path.starts_with(&format!("{t}::")))
        });
        Self(modules)
    }

    /// Modules made up from their text, for the test of this file.
    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), read(text))).collect())
    }

    /// The first parts of all paths.
    pub fn rooms(&self) -> BTreeSet<String> {
        self.0.keys().map(|path| room(path).to_owned()).filter(|r| !r.is_empty()).collect()
    }

    /// For each module those that it uses.
    pub fn uses(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        self.0.iter().map(|(path, source)| (path.as_str(), self.used_by(path, source))).collect()
    }

    fn used_by(&self, from: &str, source: &Source) -> BTreeSet<&str> {
        let counts = |p: &&NamedPath| {
            // To hand a name on is not to use it.
            !p.reexport || p.segments.last().is_some_and(|name| source.words.contains(name))
        };
        let named = source.paths.iter().filter(counts).filter_map(|p| self.target(from, p, 0));
        named.filter(|to| *to != from && !to.is_empty()).collect()
    }

    /// The module that defines what a path names; `None` for what lies in another crate.
    fn target(&self, from: &str, path: &NamedPath, depth: usize) -> Option<&str> {
        let mut at: Vec<&str> = from.split("::").filter(|s| !s.is_empty()).collect();
        let mut rest = &path.segments[..];
        let mut inline = path.inline;
        let first = rest.first()?.as_str();
        match first {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "synthdisk" if from == "main" => (at, rest) = (Vec::new(), &rest[1..]),
            "self" | "super" => {
                while let Some(word @ ("self" | "super")) = rest.first().map(String::as_str) {
                    if word == "super" && inline > 0 {
                        inline -= 1;
                    } else if word == "super" {
                        at.pop();
                    }
                    rest = &rest[1..];
                }
            }
            // A path without a start leads to a module that is declared here.
            _ if !self.0.get(from).is_some_and(|s| s.children.iter().any(|c| c == first)) => {
                return None;
            }
            _ => {}
        }
        self.resolve(at.join("::"), rest, depth)
    }

    fn resolve(&self, mut module: String, rest: &[String], depth: usize) -> Option<&str> {
        let mut rest = rest;
        while let Some(next) = rest.first().map(|name| join(&module, name)) {
            if !self.0.contains_key(&next) {
                break;
            }
            (module, rest) = (next, &rest[1..]);
        }
        let (key, source) = self.0.get_key_value(&module)?;
        let Some(name) = rest.first() else { return Some(key) };
        if depth > 8 || source.items.contains(name) {
            return Some(key);
        }
        let reexports = source.paths.iter().filter(|p| p.import);
        let by_name = reexports.clone().find(|p| p.segments.last() == Some(name));
        if let Some(path) = by_name {
            return self.target(key, path, depth + 1).or(Some(key));
        }
        let globs = reexports.filter(|p| p.segments.last().is_some_and(|s| s == "*"));
        for glob in globs {
            let mut path = glob.clone();
            path.segments.pop();
            path.segments.push(name.clone());
            if let Some(found) = self.target(key, &path, depth + 1)
                && self.0[found].items.contains(name)
            {
                return Some(found);
            }
        }
        Some(key)
    }
}

/// The first part of a module's path.
pub fn room(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

fn collect(dir: &Path, module: &str, out: &mut BTreeMap<String, Source>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            collect(&path, &join(module, stem), out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name =
                if module.is_empty() && stem == "lib" { String::new() } else { join(module, stem) };
            out.insert(name, read(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Sets of two nodes or more that all reach one another.
pub fn circles(uses: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|n| (*n, reached(uses, n))).collect();
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for node in uses.keys() {
        if seen.contains(node) || !reach[node].contains(node) {
            continue;
        }
        let circle: Vec<&str> = reach[node]
            .iter()
            .filter(|to| reach.get(*to).is_some_and(|r| r.contains(node)))
            .copied()
            .collect();
        seen.extend(circle.iter().copied());
        out.push(circle.into_iter().map(str::to_owned).collect());
    }
    out
}

fn reached<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut left: Vec<&str> = uses.get(from).into_iter().flatten().copied().collect();
    while let Some(node) = left.pop() {
        if found.insert(node) {
            left.extend(uses.get(node).into_iter().flatten().copied());
        }
    }
    found
}

#[test]
fn made_up_modules() {
    let modules = Modules::of(&[
        ("", "pub mod a; pub mod b; pub mod e; pub use e::Error;"),
        ("e", "pub struct Error;"),
        ("a", "mod one; mod two; pub use one::One; pub use two::*;"),
        ("a::one", "use super::Two; pub struct One;"),
        ("a::two", "pub struct Two; fn f() -> super::One {}"),
        ("b", "mod c; pub struct B; fn f() { c::g(crate::a::Two); }"),
        ("b::c", "use crate::Error; pub fn g() {}"),
    ]);
    let uses = modules.uses();
    let used = |from: &str| uses[from].iter().copied().collect::<Vec<_>>();
    assert_eq!(used("a"), [""; 0]);
    assert_eq!(used("a::one"), ["a::two"]);
    assert_eq!(used("a::two"), ["a::one"]);
    assert_eq!(used("b"), ["a::two", "b::c"]);
    assert_eq!(used("b::c"), ["e"]);
    assert_eq!(circles(&uses), [["a::one", "a::two"]]);
}
