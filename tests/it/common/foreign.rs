//! Images of filesystems other than ext2/3/4, made from a tree without mounting anything.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use super::process::{command, describe, run};

/// An XFS image of `len` bytes that holds `tree`, made with these options of mkfs.xfs. All in it
/// belongs to root.
pub fn make_xfs(image: &Path, len: u64, options: &[&str], tree: &Path) {
    let file = File::create(image).expect("a file in our own directory");
    file.set_len(len).expect("a sparse file");
    let proto = image.with_extension("proto");
    let mut text = String::from("-\n0 0\n");
    describe_dir(tree, "d--755 0 0", &mut text);
    fs::write(&proto, text).expect("our own file");
    let mut mkfs = command("mkfs.xfs");
    // mkfs.xfs refuses filesystems below 300 MB except in its own tests.
    mkfs.envs([("TEST_DIR", "1"), ("TEST_DEV", "1"), ("QA_CHECK_FS", "1")]);
    mkfs.args(["-q", "-f", "-p"]).arg(&proto).args(options).arg(image);
    let output = mkfs.output().expect("mkfs.xfs must be installed (package xfsprogs)");
    assert!(output.status.success(), "{}", describe("mkfs.xfs".as_ref(), options, &output));
    fs::remove_file(&proto).expect("our own file");
}

/// The lines of a mkfs.xfs protofile for a directory and everything in it.
fn describe_dir(dir: &Path, line: &str, text: &mut String) {
    writeln!(text, "{line}").expect("a String");
    let mut entries: Vec<_> = fs::read_dir(dir).expect("our own tree").flatten().collect();
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().into_string().expect("UTF-8"));
        let kind = entry.file_type().expect("our own tree");
        if kind.is_dir() {
            describe_dir(&path, &format!("{name} d--755 0 0"), text);
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).expect("our own link");
            writeln!(text, "{name} l--777 0 0 {}", target.display()).expect("a String");
        } else {
            writeln!(text, "{name} ---644 0 0 {}", path.display()).expect("a String");
        }
    }
    text.push_str("$\n");
}

/// A Btrfs image of `len` bytes that holds `tree` at its top level.
pub fn make_btrfs(image: &Path, len: u64, options: &[&str], tree: &Path) {
    let file = File::create(image).expect("a file in our own directory");
    file.set_len(len).expect("a sparse file");
    let (tree, image) = (tree.to_string_lossy(), image.to_string_lossy());
    let mut args = vec!["-q", "-f"];
    args.extend(options);
    args.extend(["--rootdir", &tree, &image]);
    run("mkfs.btrfs", &args);
}
