//! `synthdisk finalize` on filesystems whose files share blocks, in loop-mounted images.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::common::file::{write_at, writer};
use crate::common::filesystem::Filesystem;
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, expect_failure, run, run_text};
use crate::common::tiny::{Tiny, noise};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn finalize(args: &[&str]) -> Value {
    let all = [&["finalize", "--bootloader", "direct", "--json", "-q"], args].concat();
    let printed: Value = serde_json::from_str(&run_text(SYNTHDISK, &all)).expect("it says JSON");
    printed["files"][0].clone()
}

/// The guest's image on the filesystem, grown by `data` bytes of noise.
fn image_on(fs: &Filesystem, data: usize) -> std::path::PathBuf {
    let tiny = Tiny::with(|tree| {
        fs::write(tree.join("etc/fstab"), "/dev/xvda2 / ext4 defaults 0 1\n").unwrap();
    });
    let image = fs.path("root.img");
    run("cp", &["--sparse=always", arg(&tiny.image), arg(&image)]);
    let len = fs::metadata(&image).unwrap().len();
    // After the filesystem, but part of the image.
    write_at(&writer(&image), &noise(data, 3), len);
    image
}

fn shares(kind: &str) {
    let Some(fs) = Filesystem::new(kind, 512 * MIB) else { return };
    let data = 96 * MIB;
    // Not a whole number of blocks: the last one cannot be shared.
    let image = image_on(&fs, data as usize + 512);
    let untouched = Untouched::remember(&image);
    let mounted = Mount::new(&[], &image);
    let sum = sha256(mounted.disk());
    mounted.unmount();
    let before = fs.used();
    let out = fs.path("out.raw");
    let always = ["--reflink", "always", arg(&image), "-o", arg(&out), "--verify"];
    let told = finalize(&always);
    assert_eq!(sha256(&out), sum, "{kind}");
    let took = fs.used() - before;
    assert!(took < 8 * MIB, "{kind}: {took} bytes for a copy of {data}");
    assert!(told["shared"].as_u64().unwrap() >= data, "{kind}: {told}");
    assert!(told["copied"].as_u64().unwrap() < 2 * MIB, "{kind}: {told}");

    // Writing to the result does not change the image.
    write_at(&writer(&out), &noise(4096, 9), 65 * MIB);
    untouched.check();

    let before = fs.used();
    let copy = fs.path("copy.raw");
    let told = finalize(&["--reflink", "never", arg(&image), "-o", arg(&copy)]);
    assert_eq!(told["shared"], 0, "{kind}");
    assert_eq!(sha256(&copy), sum, "{kind}");
    assert!(fs.used() - before >= data, "{kind}");
    untouched.check();
}

#[test]
#[ignore = "slow"]
fn xfs_shares_blocks() {
    shares("xfs");
}

#[test]
#[ignore = "slow"]
fn btrfs_shares_blocks() {
    shares("btrfs");
}

#[test]
fn an_overlays_blocks_are_shared_too() {
    let Some(fs) = Filesystem::new("xfs", 512 * MIB) else { return };
    let image = image_on(&fs, MIB as usize);
    let overlay = fs.path("o.qcow2");
    let mounted = Mount::new(&["--overlay", arg(&overlay)], &image);
    write_at(&writer(mounted.disk()), &noise(40 << 20, 5), 70 * MIB);
    let sum = sha256(mounted.disk());
    mounted.unmount();
    let before = fs.used();
    let out = fs.path("out.raw");
    let told = finalize(&[
        "--reflink",
        "always",
        "--overlay",
        arg(&overlay),
        arg(&image),
        "-o",
        arg(&out),
    ]);
    assert_eq!(sha256(&out), sum);
    assert!(fs.used() - before < 8 * MIB, "{told}");
    assert!(told["copied"].as_u64().unwrap() < 2 * MIB, "{told}");
}

#[test]
fn what_cannot_be_shared_is_said_or_copied() {
    let Some(fs) = Filesystem::new("xfs", 512 * MIB) else { return };
    let image = image_on(&fs, MIB as usize);
    // Partitions at odd sectors.
    let out = fs.path("out.raw");
    let odd = ["--align", "63s", arg(&image), "-o", arg(&out)];
    let said = expect_failure(
        &[&["finalize", "--bootloader", "direct", "-q", "--reflink", "always"], &odd[..]].concat(),
        1,
    );
    assert!(said.contains("a block of 4096 bytes") && said.contains("--align"), "{said}");
    assert!(!out.exists());
    // Except for edits of the guest, which are in a file where byte N is byte N of the disk.
    let told = finalize(&odd);
    assert!(told["shared"].as_u64().unwrap() < MIB, "{told}");
    let mounted = Mount::new(&["--align", "63s"], &image);
    assert_eq!(sha256(mounted.disk()), sha256(&out));
    // Another filesystem.
    let tiny = Tiny::new();
    let out = fs.path("other.raw");
    let args = [
        "finalize",
        "--bootloader",
        "direct",
        "-q",
        "--reflink",
        "always",
        arg(&tiny.image),
        "-o",
        arg(&out),
    ];
    let said = expect_failure(&args, 1);
    assert!(said.contains("cannot share blocks"), "{said}");
    run(SYNTHDISK, &[&args[..3], &args[6..]].concat());
    let left: Vec<_> =
        fs::read_dir(fs.path("")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_terabyte_is_shared_as_fast_as_a_gigabyte() {
    for kind in ["xfs", "btrfs"] {
        let Some(fs) = Filesystem::new(kind, 512 * MIB) else { continue };
        for (name, size) in [("1G", 1u64 << 30), ("1T", 1 << 40)] {
            let image = image_on(&fs, MIB as usize);
            writer(&image).set_len(size).unwrap();
            let out = fs.path("out.raw");
            let started = Instant::now();
            let told = finalize(&["--force", "--reflink", "always", arg(&image), "-o", arg(&out)]);
            let took = started.elapsed();
            eprintln!("{name} on {kind}: {took:?}, of which {} s finalize", told["seconds"]);
            assert!(told["shared"].as_u64().unwrap() >= size - MIB, "{told}");
            assert!(took.as_secs() < 10, "{name} on {kind}: {took:?}");
            fs::remove_file(&image).unwrap();
        }
    }
}
