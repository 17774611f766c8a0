//! What mke2fs can make is read, or refused by the name of its feature.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::process::run;
use crate::common::tiny::noise;
use synthdisk::ErrorKind;
use synthdisk::fs::open::open_fs;
use synthdisk::fs::{Budget, GuestFs};

const MIB: u64 = 1 << 20;

/// A tree with files and directories of all sizes that are stored differently.
fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("etc/many")).unwrap();
    for len in [0, 1, 59, 60, 61, 100, 150, 4096, 70_000, 400_000] {
        fs::write(dir.join(format!("etc/file-{len}")), noise(len, len as u64 + 1)).unwrap();
    }
    for i in 0..300 {
        fs::write(dir.join(format!("etc/many/a rather long name of a file, number {i}")), "x")
            .unwrap();
    }
    fs::create_dir(dir.join("etc/few")).unwrap();
    fs::write(dir.join("etc/few/one"), "1").unwrap();
    fs::create_dir(dir.join("etc/none")).unwrap();
    symlink("file-100", dir.join("etc/short")).unwrap();
    symlink(format!("{}etc/file-61", "./".repeat(60)), dir.join("long")).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    // mke2fs forgets a hole at the end of a file when it may store data inline.
    sparse.write_all_at(b"middle", 5 * MIB).unwrap();
    sparse.write_all_at(b"end", 8 * MIB).unwrap();
}

/// All files below `dir` in the guest are those below `real`.
fn compare(fs: &dyn GuestFs, dir: &str, real: &Path, what: &str) {
    let mut names: Vec<String> = fs::read_dir(real)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut found = fs.read_dir(dir).unwrap_or_else(|e| panic!("{what}: {dir}: {e}"));
    found.retain(|name| name != "lost+found");
    assert_eq!(found, names, "{what}: {dir}");
    for name in names {
        let (path, real) = (format!("{}/{name}", dir.trim_end_matches('/')), real.join(&name));
        let meta = fs::symlink_metadata(&real).unwrap();
        let stat = fs.lstat(&path).unwrap_or_else(|e| panic!("{what}: {path}: {e}"));
        let mtime = std::os::unix::fs::MetadataExt::mtime(&meta);
        assert_eq!(stat.mtime_secs, mtime, "{what}: {path}");
        if meta.is_dir() {
            compare(fs, &path, &real, what);
        } else if meta.is_symlink() {
            let target = fs::read_link(&real).unwrap();
            assert_eq!(fs.read_link(&path).unwrap(), target.to_str().unwrap(), "{what}: {path}");
        } else {
            let bytes = fs.read(&path, 16 << 20).unwrap_or_else(|e| panic!("{what}: {path}: {e}"));
            assert!(bytes == fs::read(&real).unwrap(), "{what}: {path}");
        }
    }
}

#[test]
fn every_feature_of_mke2fs() {
    let home = tempfile::tempdir().unwrap();
    let (dir, image) = (home.path().join("tree"), home.path().join("fs.img"));
    tree(&dir);
    let mut count = 0;
    for options in [
        "-t ext2",
        "-t ext2 -O ^filetype",
        "-t ext2 -O ^filetype,^sparse_super,^resize_inode -b 1024",
        "-t ext2 -r 0",
        "-t ext3",
        "-t ext3 -I 128 -b 2048",
        "-t ext4",
        "-t ext4 -I 128",
        "-t ext4 -I 128 -b 1024 -O ^64bit",
        "-t ext4 -I 1024 -O inline_data",
        "-t ext4 -O inline_data",
        "-t ext4 -O inline_data,^metadata_csum",
        "-t ext4 -O meta_bg,^resize_inode",
        "-t ext4 -O meta_bg,^resize_inode -b 1024",
        "-t ext4 -O meta_bg,^resize_inode,^sparse_super -b 1024 -g 1024",
        "-t ext4 -O meta_bg,^resize_inode,sparse_super2 -b 1024 -g 1024",
        "-t ext4 -O large_dir",
        "-t ext4 -O ea_inode",
        "-t ext4 -O casefold -E encoding=utf8",
        "-t ext4 -O mmp",
        "-t ext4 -O encrypt",
        "-t ext4 -O verity",
        "-t ext4 -O stable_inodes",
        "-t ext4 -O bigalloc",
        "-t ext4 -O quota,project",
        "-t ext4 -O sparse_super2",
        "-t ext4 -O metadata_csum_seed",
        "-t ext4 -O orphan_file",
        "-t ext4 -O ^metadata_csum,uninit_bg",
        "-t ext4 -O ^extent,^64bit",
        "-t ext4 -O ^extent,^64bit -I 128 -b 1024",
        "-t ext4 -O ^dir_index",
        "-t ext4 -O ^flex_bg,^huge_file,^dir_nlink,^extra_isize",
        "-t ext4 -O ^has_journal",
        "-t ext4 -O fast_commit",
        "-t ext4 -O inline_data,casefold,large_dir,ea_inode,meta_bg,^resize_inode,mmp -E encoding=utf8",
    ] {
        let _ = fs::remove_file(&image);
        let file = fs::File::create(&image).unwrap();
        file.set_len(24 * MIB).unwrap();
        let mut args = vec!["-q", "-F", "-d", dir.to_str().unwrap()];
        args.extend(options.split(' '));
        args.push(image.to_str().unwrap());
        let made = Command::new("mke2fs").args(&args).output().expect("mke2fs");
        if !made.status.success() {
            eprintln!("skipped: this mke2fs cannot make {options}");
            continue;
        }
        count += 1;
        let bytes = fs::read(&image).unwrap();
        let found = open_fs(bytes, &Budget::new()).unwrap_or_else(|e| panic!("{options}: {e}"));
        compare(&*found, "/", &dir, options);
    }
    assert!(count >= 25, "mke2fs made {count} kinds only");
}

#[test]
fn what_cannot_be_read_is_named() {
    let home = tempfile::tempdir().unwrap();
    let image = home.path().join("fs.img");
    fs::File::create(&image).unwrap().set_len(8 * MIB).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", "-O", "inline_data", image.to_str().unwrap()]);
    let mut bytes = fs::read(&image).unwrap();
    for (bits, name) in [(0x1000_u32, "dirdata"), (0x1, "compression"), (0x8000_0000, "0x80000000")]
    {
        bytes[1024 + 0x60..1024 + 0x64].copy_from_slice(&(0x8042_u32 | bits).to_le_bytes());
        let e = open_fs(bytes.clone(), &Budget::new()).err().expect("a refusal");
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(e.to_string().contains(name), "{e}");
    }
}
