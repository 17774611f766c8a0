//! Storing edits in ext2, ext3 and ext4, checked by e2fsck and debugfs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::process::{run, run_text};
use synthdisk::Result;
use synthdisk::edit::{Change, Edit, FileAccess, FileContent};
use synthdisk::process::Inherited;

/// A filesystem of `kind` with blocks of `block` bytes, and `/etc/long` of `len` bytes in it.
fn image(dir: &Path, kind: &str, block: u32, len: usize) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/long"), text(len)).unwrap();
    let path = dir.join(format!("{kind}-{block}.img"));
    let (tree, block) = (tree.to_string_lossy().into_owned(), block.to_string());
    let target = path.to_string_lossy().into_owned();
    run("mke2fs", &["-q", "-t", kind, "-b", &block, "-d", &tree, &target, "32M"]);
    path
}

/// Stores `edits` as they are stored in a mount: the tools get a descriptor, and may use the file
/// although they are not root.
fn apply(edits: &[Edit], image: &Path) -> Result<()> {
    fs::set_permissions(image, Permissions::from_mode(0o666)).unwrap();
    let file = Inherited::new(&File::open(image).unwrap()).unwrap();
    synthdisk::edit::apply(edits, &file.path(), None)
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| b"abcdefghijklmno\n"[i % 16]).collect()
}

fn edit(path: &str, change: Change) -> Edit {
    Edit { path: path.into(), change, why: String::new(), step: "test" }
}

fn debugfs(image: &Path, request: &str) -> String {
    run_text("debugfs", &["-R", request, &image.to_string_lossy()])
}

fn is_clean(image: &Path) {
    run("e2fsck", &["-fn".as_ref(), image.as_os_str()]);
}

fn kinds() -> [(&'static str, u32); 4] {
    [("ext2", 1024), ("ext3", 4096), ("ext4", 1024), ("ext4", 4096)]
}

#[test]
fn what_is_new_and_what_goes() {
    for (kind, block) in kinds() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), kind, block, 100);
        let twin = dir.path().join("twin");
        fs::copy(&image, &twin).unwrap();
        let host = dir.path().join("host file");
        fs::write(&host, text(300_000)).unwrap();
        let access = FileAccess { mode: 0o640, uid: 70_000, gid: 4 };
        let file = |content| Change::Create { content, access };
        let edits = [
            edit("/etc/new", Change::MakeDir(FileAccess::root(0o750))),
            edit("/etc/new/a b", file(FileContent::Bytes(b"hello\n".to_vec()))),
            edit("/etc/new/empty", file(FileContent::Bytes(Vec::new()))),
            edit("/etc/new/big", file(FileContent::HostFile(host))),
            edit("/etc/new/link", Change::Symlink { target: "/dev/null".into() }),
            edit("/etc/long", Change::Remove),
        ];
        apply(&edits, &image).unwrap();
        apply(&edits, &twin).unwrap();
        assert!(fs::read(&image).unwrap() == fs::read(&twin).unwrap(), "{kind}: not the same");
        is_clean(&image);
        assert_eq!(debugfs(&image, "cat \"/etc/new/a b\""), "hello");
        let stat = debugfs(&image, "stat \"/etc/new/a b\"");
        for part in ["Type: regular", "Mode:  0640", "User: 70000", "Group:     4", "Links: 1"] {
            assert!(stat.contains(part), "{kind}: no {part} in {stat}");
        }
        let stat = debugfs(&image, "stat /etc/new");
        assert!(stat.contains("Type: directory    Mode:  0750"), "{stat}");
        assert!(debugfs(&image, "stat /etc/new/link").contains("Fast link dest: \"/dev/null\""));
        let big = dir.path().join("big");
        debugfs(&image, &format!("dump /etc/new/big {}", big.display()));
        assert!(fs::read(big).unwrap() == text(300_000));
        assert!(!debugfs(&image, "ls -p /etc").contains("long"));
    }
}

/// Under enforcing SELinux, services may not read files without a label.
#[test]
fn what_is_new_has_the_label_of_its_directory() {
    const LABEL: &str = "system_u:object_r:etc_t:s0";
    for (kind, block) in kinds() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), kind, block, 100);
        let shown = image.to_string_lossy();
        let set = format!("ea_set /etc security.selinux {LABEL}");
        run("debugfs", &["-w", "-R", &set, &shown]);
        let bytes = || FileContent::Bytes(b"x".to_vec());
        let create = || Change::Create { content: bytes(), access: FileAccess::root(0o644) };
        let edits = [
            edit("/etc/file", create()),
            edit("/etc/link", Change::Symlink { target: "/dev/null".into() }),
            edit("/etc/new", Change::MakeDir(FileAccess::root(0o755))),
            edit("/etc/new/file", create()),
            edit("/unlabelled", create()),
        ];
        apply(&edits, &image).unwrap();
        is_clean(&image);
        for path in ["/etc/file", "/etc/link", "/etc/new", "/etc/new/file"] {
            let told = debugfs(&image, &format!("ea_get -V {path} security.selinux"));
            assert_eq!(told.trim(), LABEL, "{kind}: {path}");
        }
        assert!(!debugfs(&image, "ea_list /unlabelled").contains("selinux"));
    }
}

#[test]
fn files_of_any_length_become_files_of_any_length() {
    for (kind, block) in kinds() {
        for (old, new) in [(100, 90), (9000, 5), (9000, 0), (3, 20_000), (0, 7), (4096, 4097)] {
            let dir = tempfile::tempdir().unwrap();
            let image = image(dir.path(), kind, block, old);
            let change = Change::Rewrite { old: text(old), new: text(new) };
            apply(&[edit("/etc/long", change)], &image)
                .unwrap_or_else(|e| panic!("{kind} {block} {old} {new}: {e}"));
            is_clean(&image);
            let dumped = dir.path().join("dumped");
            debugfs(&image, &format!("dump /etc/long {}", dumped.display()));
            assert!(fs::read(dumped).unwrap() == text(new), "{kind} {block} {old} {new}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "ext4", 4096, 100);
    let refused = |path: &str, change| {
        apply(&[edit(path, change)], &image).expect_err("it is refused").to_string()
    };
    let missing = refused("/etc/none", Change::Rewrite { old: vec![1], new: vec![2] });
    assert!(missing.contains("File not found"), "{missing}");
    let quotes = refused("/etc/\"", Change::Remove);
    assert!(quotes.contains("quotes"), "{quotes}");
    is_clean(&image);
}
