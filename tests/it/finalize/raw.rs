//! `synthdisk finalize` to raw files: the same bytes as disk.raw, holes and all.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::field::{Field, mount};
use crate::common::file::{bytes_of, write_at, writer};
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::overlay::Case;
use crate::common::process::{SYNTHDISK, expect_failure, output, run, run_text, synthdisk, text};
use crate::common::tiny::{Tiny, noise};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A file beside the guest's image, for a command line.
fn tiny_arg(case: &Case, name: &str) -> String {
    arg(&case.tiny.file(name)).to_owned()
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("our own directory");
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs finalize with `--json`; returns the one result in its output.
fn finalize(args: &[&str]) -> Value {
    let all = [&["finalize", "--bootloader", "direct", "--json"], args].concat();
    let printed: Value = serde_json::from_str(&run_text(SYNTHDISK, &all)).expect("it says JSON");
    printed["files"][0].clone()
}

#[test]
fn the_same_bytes_as_a_mount_adapted_edits_included() {
    let (field, config) = Field::xen_tools();
    let mounted = mount(&config, &[]);
    assert!(mounted.printed().contains("adapted: /etc/fstab"), "{}", mounted.printed());
    let sum = sha256(mounted.disk());
    mounted.unmount();
    let out = field.path("out/web1.raw");
    fs::create_dir(field.path("out")).unwrap();
    let done = output(
        SYNTHDISK,
        &["finalize", "--bootloader", "direct", "--config", &config, "-o", arg(&out)],
    );
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert_eq!(text(&done.stdout).trim_end(), arg(&out));
    assert!(said.contains("adapted: /etc/fstab") && said.contains("wrote:   "), "{said}");
    assert_eq!(sha256(&out), sum);
    assert_eq!(names(&field.path("out")), ["web1.raw"]);
    // Not with --adapt none; and --quiet prints nothing.
    let plain = field.path("out/plain.raw");
    let args = [
        "finalize",
        "--bootloader",
        "direct",
        "-q",
        "--config",
        &config,
        "--adapt",
        "none",
        "-o",
        arg(&plain),
    ];
    assert_eq!(text(&synthdisk(&args).stderr), "");
    let mounted = mount(&config, &["--adapt", "none"]);
    assert_eq!(sha256(mounted.disk()), sha256(&plain));
    assert_ne!(sha256(&plain), sum);
}

#[test]
fn holes_stay_holes_and_zeros_become_some() {
    // A MiB of stored zeros, 64 MiB of holes, swap and gap.
    let tiny = Tiny::with(|tree| fs::write(tree.join("zeros"), vec![0; MIB as usize]).unwrap());
    let untouched = Untouched::remember(&tiny.image);
    let padded = tiny.file("padded.img");
    run("cp", &["--sparse=never", arg(&tiny.image), arg(&padded)]);
    let out = tiny.file("out.raw");
    for image in [&tiny.image, &padded] {
        let told = finalize(&["--swap", "64M", "--force", arg(image), "-o", arg(&out)]);
        let mounted = Mount::new(&["--swap", "64M"], image);
        assert_eq!(sha256(mounted.disk()), sha256(&out));
        let meta = fs::metadata(&out).unwrap();
        assert_eq!(told["disk_length"], meta.len());
        assert_eq!(told["allocated"], meta.blocks() * 512);
        let copy = tiny.file("cp.raw");
        run("cp", &["--sparse=always", arg(&mounted.disk()), arg(&copy)]);
        let theirs = fs::metadata(&copy).unwrap().blocks();
        assert!(meta.blocks() <= theirs + 64, "{} blocks, cp makes {theirs}", meta.blocks());
        assert!(meta.blocks() * 512 < 8 * MIB, "{} blocks", meta.blocks());
    }
    untouched.check();
}

#[test]
fn an_overlay_is_looked_through_and_not_written() {
    let case = Case::new();
    let mounted = case.mount_with(&["--swap", "8M", "--adapt", "none"]);
    let disk = writer(mounted.disk());
    let end = fs::metadata(mounted.disk()).unwrap().len();
    for (i, at) in [5 * 512, 70 * MIB + 1000, end - 700].into_iter().enumerate() {
        write_at(&disk, &noise(600, i as u64), at);
    }
    run("fallocate", &["-p", "-o", "1M", "-l", "1M", arg(&mounted.part(1))]);
    drop(disk);
    let sum = sha256(mounted.disk());
    let out = case.tiny.file("out.raw");
    let args = ["--overlay", &case.overlay(), arg(&case.tiny.image), "-o", arg(&out)];
    let refused = expect_failure(&[&["finalize", "--bootloader", "direct"], &args[..]].concat(), 1);
    assert!(refused.contains("in use"), "{refused}");
    mounted.unmount();
    let before = Untouched::remember(&case.overlay);
    let told = finalize(&[&args[..], &["--verify", "--checksum", "--adapt", "none"]].concat());
    assert_eq!(sha256(&out), sum);
    assert_eq!(told["sha256"], sum.as_str());
    assert_eq!(told["verified"], true);
    before.check();
    case.untouched.check();
    // It must be there.
    let args = [
        "finalize",
        "--bootloader",
        "direct",
        "--overlay",
        "/missing",
        arg(&case.tiny.image),
        "-o",
        "/tmp/x",
    ];
    assert!(expect_failure(&args, 1).contains("/missing"));
}

#[test]
fn edits_lie_over_an_overlay_that_lacks_them() {
    let (field, config) = Field::xen_tools();
    let overlay = field.arg("o.qcow2");
    let options = ["--overlay", &*overlay];
    mount(&config, &[&options[..], &["--adapt", "none"]].concat()).unmount();
    let before = Untouched::remember(&overlay);
    let out = field.path("out.raw");
    finalize(&[&["--config", &config, "-o", arg(&out)], &options[..]].concat());
    before.check();
    // The same as the mount, which makes the edits in the overlay.
    let mounted = mount(&config, &options);
    assert!(mounted.printed().contains("adapted: "), "{}", mounted.printed());
    assert_eq!(sha256(mounted.disk()), sha256(&out));
}

#[test]
fn a_partition_is_an_image_again() {
    let case = Case::new();
    let mounted = case.mount();
    write_at(&writer(mounted.part(1)), &noise(5000, 1), 9 * MIB);
    let sum = sha256(mounted.part(1));
    mounted.unmount();
    let out = case.tiny.file("root-new.img");
    let args = ["--overlay", &case.overlay(), arg(&case.tiny.image), "-o", arg(&out)];
    let told = finalize(&[&args[..], &["--partition", "1", "--verify"]].concat());
    assert_eq!(told["disk_length"], fs::metadata(&case.tiny.image).unwrap().len());
    assert_eq!(sha256(&out), sum);
    run("e2fsck", &["-fn", arg(&out)]);
    let missing = tiny_arg(&case, "missing.img");
    let args = [
        "finalize",
        "--bootloader",
        "direct",
        "--partition",
        "7",
        arg(&case.tiny.image),
        "-o",
        &missing,
    ];
    assert!(expect_failure(&args, 1).contains("no partition 7"));
}

#[test]
fn further_disks_go_beside_or_into_a_directory() {
    let field = Field::new();
    field.root("root.img", "");
    field.ext4("data.img", crate::common::field::DATA, &[("file", b"x")]);
    let config = field.config(
        "disk = ['file:root.img,xvda1,w', 'file:data.img,xvdb1,w']\nroot = '/dev/xvda1 ro'\n\
         name = 'two'\n",
    );
    let mounted = mount(&config, &[]);
    let sums = [sha256(mounted.disk()), sha256(mounted.dir().join("disk-b.raw"))];
    mounted.unmount();
    let dir = field.path("out");
    fs::create_dir(&dir).unwrap();
    let first = dir.join("two.raw");
    let printed = run_text(
        SYNTHDISK,
        &["finalize", "--bootloader", "direct", "--config", &config, "-o", arg(&first)],
    );
    assert_eq!(printed.lines().collect::<Vec<_>>(), [arg(&first), arg(&dir.join("two-b.raw"))]);
    run(
        SYNTHDISK,
        &[
            "finalize",
            "--bootloader",
            "direct",
            "--config",
            &config,
            "-o",
            &format!("{}/", arg(&dir)),
        ],
    );
    assert_eq!(names(&dir), ["disk-b.raw", "disk.raw", "two-b.raw", "two.raw"]);
    for (name, sum) in [("two", &sums[0]), ("two-b", &sums[1]), ("disk", &sums[0])] {
        assert_eq!(&sha256(dir.join(name).with_extension("raw")), sum, "{name}");
    }
    let only = dir.join("only.raw");
    let finalize =
        ["finalize", "--bootloader", "direct", "--config", &*config, "-o", arg(&only), "--disk"];
    assert_eq!(run_text(SYNTHDISK, &[&finalize[..], &["xvdb"]].concat()), arg(&only));
    assert_eq!(sha256(&only), sums[1]);
    let args = [&finalize[..], &["xvdc"]].concat();
    assert!(expect_failure(&args, 1).contains("xvda, xvdb"));
}

#[test]
fn a_terabyte_of_nothing_takes_no_time() {
    let tiny = Tiny::new();
    let out = tiny.file("big.raw");
    let started = std::time::Instant::now();
    let told = finalize(&["--root-size", "1T", arg(&tiny.image), "-o", arg(&out), "--verify"]);
    let took = started.elapsed();
    assert!(told["disk_length"].as_u64().unwrap() > 1 << 40);
    assert!(fs::metadata(&out).unwrap().blocks() * 512 < 32 * MIB);
    assert!(took.as_secs() < 10, "{took:?}");
    // The partition begins where the table says.
    let map = run_text(SYNTHDISK, &["map", "--json", "--root-size", "1T", arg(&tiny.image)]);
    let map: Value = serde_json::from_str(&map).unwrap();
    let start = map["disks"][0]["partitions"][0]["start"].as_u64().unwrap();
    assert_eq!(bytes_of(&out, start, 8192), bytes_of(&tiny.image, 0, 8192));
}
