//! Guests with a real kernel, made from a tree: Debian's cloud kernel, and the modules that it needs to
//! edit its own root filesystem.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::field::{FSTAB, Field};
use crate::common::guests::test_kernel;
use crate::common::tiny::{initrd, menu};

/// The drivers of a guest on ext4, XFS or Btrfs, by file name.
const WANTED: [&str; 8] = [
    "virtio_pci.ko",
    "virtio_blk.ko",
    "ext4.ko",
    "xfs.ko",
    "btrfs.ko",
    "crc32c_generic.ko",
    "xxhash_generic.ko",
    "blake2b_generic.ko",
];

/// The config of a guest with a root and swap.
pub const CONFIG: &str = "bootloader = 'pygrub'\nroot = '/dev/xvda2 ro'\n\
    disk = ['root.img,,xvda2', 'swap.img,,xvda1']\n";

/// A tree that boots `kernel`, which says that it is this version.
pub fn tree_with(field: &Field, kernel: &[u8], version: &str) -> PathBuf {
    let tree = field.path("tree");
    let (initrd, menu) = (initrd(101), menu("1"));
    for (path, bytes) in [
        ("boot/vmlinuz-1", kernel),
        ("boot/initrd.img-1", &initrd),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", FSTAB.as_bytes()),
        ("etc/inittab", b"id:2:initdefault:\nco:2345:respawn:/sbin/getty hvc0 9600 linux\n"),
        ("etc/gone", b"gone"),
        ("usr/lib/file", b"usr"),
    ] {
        let file = tree.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    fs::create_dir_all(tree.join(format!("lib/modules/{version}"))).unwrap();
    tree
}

/// A tree that boots Debian's cloud kernel.
pub fn tree(field: &Field) -> PathBuf {
    let kernel = test_kernel();
    let name = kernel.file_name().unwrap().to_str().unwrap();
    let version = name.strip_prefix("vmlinuz-").unwrap();
    let tree = tree_with(field, &fs::read(&kernel).unwrap(), version);
    let package = kernel.parent().unwrap().parent().unwrap();
    let dirs = ["lib/modules", "usr/lib/modules"].map(|dir| package.join(dir).join(version));
    let from = dirs.iter().find(|dir| dir.exists()).expect("the kernel's package has modules");
    let mut all = Vec::new();
    list(&from.join("kernel"), &mut all);
    let find = |name: &str| all.iter().find(|path| path.ends_with(name)).cloned();
    let mut queue: Vec<PathBuf> = WANTED.iter().filter_map(|name| find(name)).collect();
    let (mut taken, mut dep) = (Vec::new(), String::new());
    let to = tree.join("lib/modules").join(version);
    while let Some(path) = queue.pop() {
        if taken.contains(&path) {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let needs: Vec<PathBuf> = depends(&bytes).iter().filter_map(|name| find(name)).collect();
        let below = |path: &Path| path.strip_prefix(from).unwrap().display().to_string();
        let list: Vec<String> = needs.iter().map(|path| below(path)).collect();
        dep.push_str(&format!("{}: {}\n", below(&path), list.join(" ")));
        let file = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
        queue.extend(needs);
        taken.push(path);
    }
    fs::write(to.join("modules.dep"), dep).unwrap();
    fs::copy(from.join("modules.builtin"), to.join("modules.builtin")).unwrap();
    tree
}

fn list(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => list(&entry.path(), out),
            false => out.push(entry.path()),
        }
    }
}

/// The file names of the modules that the module `bytes` says it depends on (`depends=` of .modinfo).
fn depends(bytes: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = bytes.windows(key.len()).position(|w| w == key) else { return Vec::new() };
    let text = bytes[at + key.len()..].split(|b| *b == 0).next().unwrap();
    let names = String::from_utf8_lossy(text).into_owned();
    let names = names.split(',').filter(|name| !name.is_empty());
    // Names of files may have dashes in place of underscores.
    names
        .flat_map(|name| [format!("{name}.ko"), format!("{}.ko", name.replace('_', "-"))])
        .collect()
}
