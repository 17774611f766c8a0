//! Each claim of docs/SEMANTICS.md names tests that exist.

use std::fs;
use std::path::Path;

/// The names of tests in `doc`: what stands in backticks and is a path of modules.
fn names(doc: &str) -> Vec<&str> {
    let quoted = doc.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains("::")).collect()
}

/// The file that a name is about, and the test in it.
fn file_and_test(name: &str) -> (String, Option<&str>) {
    if let Some((file, test)) = name.split_once(".rs::") {
        return (format!("{file}.rs"), Some(test));
    }
    let file = |path: &str| format!("tests/it/{}.rs", path.replace("::", "/"));
    match name.rsplit_once("::") {
        Some((module, test)) if module.contains("::") => (file(module), Some(test)),
        _ => (file(name), None),
    }
}

fn is_there(root: &Path, name: &str) -> bool {
    let (file, test) = file_and_test(name);
    let Ok(text) = fs::read_to_string(root.join(file)) else { return false };
    let Some(test) = test else { return true };
    let tests = text.lines().filter_map(|line| line.trim().strip_prefix("fn "));
    let mut tests = tests.map(|rest| rest.split(['(', '<']).next().unwrap_or_default());
    match test.split_once('*') {
        Some((first, last)) => tests.any(|t| t.starts_with(first) && t.ends_with(last)),
        None => tests.any(|t| t == test),
    }
}

#[test]
fn claims_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let doc = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let names = names(&doc);
    assert!(names.len() > 50, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !is_there(root, name)).collect();
    assert!(missing.is_empty(), "docs/SEMANTICS.md names tests that do not exist: {missing:#?}");
}

#[test]
fn a_name_without_a_test_is_noticed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(is_there(root, "fuse::access::modes_count_with_allow_other"));
    assert!(is_there(root, "finalize::target::nothing_stays_of_*"));
    assert!(is_there(root, "src/fuse/disk_fs/tests.rs::a_snapshot_file_stays_as_it_was"));
    assert!(!is_there(root, "fuse::access::there_is_no_such_test"));
    assert!(!is_there(root, "fuse::nothing"));
}
