//! Each claim of docs/SEMANTICS.md names its test; each name stands for one that exists.

use std::fs;

use crate::common::process::source_dir;
use regex::Regex;

#[test]
fn every_named_test_exists() {
    let text = fs::read_to_string(source_dir().join("docs/SEMANTICS.md")).unwrap();
    // `fuse::files::holes_are_holes`; `*` stands for any part of a name, and a whole module is enough.
    let name = Regex::new(r"`([a-z_0-9]+(?:::[a-z_0-9*]+)+)`").unwrap();
    let mut named = 0;
    for found in name.captures_iter(&text) {
        let parts: Vec<&str> = found[1].split("::").collect();
        assert!(
            exists(&parts),
            "docs/SEMANTICS.md names the test {}, which does not exist",
            &found[1]
        );
        named += 1;
    }
    assert!(named > 20, "only {named} tests are named");
}

fn exists(parts: &[&str]) -> bool {
    let file = |parts: &[&str]| {
        let path = format!("tests/it/{}.rs", parts.join("/"));
        fs::read_to_string(source_dir().join(path))
    };
    if file(parts).is_ok() {
        return true;
    }
    let Some((function, module)) = parts.split_last() else { return false };
    let Ok(source) = file(module) else { return false };
    let function = function.split('*').map(regex::escape).collect::<Vec<_>>().join("[a-z_0-9]*");
    // Some tests are made by a macro from a list of names.
    let defined = Regex::new(&format!(r"(?m)\bfn {function}\b|^\s*{function}\b\s*[(,:=]")).unwrap();
    defined.is_match(&source)
}
