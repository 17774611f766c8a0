//! `synthdisk finalize --delta`: overlays become qcow2 files over a golden image.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::field::{Field, mount};
use crate::common::file::{write_at, writer};
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::overlay::Case;
use crate::common::process::{SYNTHDISK, expect_failure, output, run, run_text, text};
use crate::common::tiny::{Tiny, fake_kernel, menu, noise};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Installs another kernel, writes to both partitions, discards some of the image.
fn use_the_guest(mount: &Mount, tiny: &Tiny, seed: u64) {
    let (kernel, entry) = (tiny.file("k"), tiny.file("m"));
    fs::write(&kernel, fake_kernel(seed)).unwrap();
    fs::write(&entry, menu(&seed.to_string())).unwrap();
    for request in [
        format!("write {} boot/vmlinuz-{seed}", kernel.display()),
        format!("write {} boot/initrd.img-{seed}", kernel.display()),
        "rm boot/grub/menu.lst".into(),
        format!("write {} boot/grub/menu.lst", entry.display()),
    ] {
        run("debugfs", &["-w", "-R", &request, arg(&mount.part(1))]);
    }
    let part = arg(&mount.part(1)).to_owned();
    // Data of the image becomes zeros, and generated zeros become data.
    run("fallocate", &["-p", "-o", "15M", "-l", "300K", &part]);
    write_at(&writer(mount.part(2)), &noise(100_000, seed), 5 * MIB + 77);
    write_at(&writer(mount.disk()), &noise(700, seed), 60 * 512);
}

struct Golden {
    case: Case,
    /// SHA-256 of the disk with the overlay.
    sum: String,
}

/// A used overlay and its disk's bytes.
fn used() -> Golden {
    let case = Case::new();
    let mount = case.mount_with(&["--swap", "8M"]);
    use_the_guest(&mount, &case.tiny, 2);
    let sum = sha256(mount.disk());
    mount.unmount();
    Golden { case, sum }
}

impl Golden {
    fn file(&self, name: &str) -> PathBuf {
        self.case.tiny.file(name)
    }

    /// Finalize the image to `name`.
    fn golden(&self, name: &str, options: &[&str]) -> PathBuf {
        let out = self.file(name);
        let args = [
            "finalize",
            "--bootloader",
            "direct",
            "-q",
            "--swap",
            "8M",
            arg(&self.case.tiny.image),
            "-o",
            arg(&out),
        ];
        run(SYNTHDISK, &[&args[..], options].concat());
        out
    }

    fn args<'a>(&'a self, overlay: &'a str, backing: &'a Path, out: &'a Path) -> Vec<&'a str> {
        let (image, backing, out) = (arg(&self.case.tiny.image), arg(backing), arg(out));
        vec![
            "finalize",
            "--bootloader",
            "direct",
            "--delta",
            overlay,
            "--backing",
            backing,
            image,
            "-o",
            out,
        ]
    }

    fn delta(&self, backing: &Path, out: &Path) -> Value {
        let overlay = self.case.overlay();
        let args = self.args(&overlay, backing, out);
        let told = run_text(SYNTHDISK, &[&args[..], &["--json", "--verify"]].concat());
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["files"][0]["format"], "qcow2", "{told}");
        self.expect(out);
        told["files"][0].clone()
    }

    /// QEMU reads the disk through the delta and finds no error in it.
    fn expect(&self, delta: &Path) {
        let back = self.file("back.raw");
        run("qemu-img", &["convert", "-O", "raw", arg(delta), arg(&back)]);
        assert_eq!(sha256(&back), self.sum);
        let checked = output("qemu-img", &["check", arg(delta)]);
        assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
    }
}

fn info(path: &Path) -> Value {
    let told = run_text("qemu-img", &["info", "--output=json", arg(path)]);
    serde_json::from_str(&told).unwrap()
}

#[test]
fn a_delta_is_what_differs() {
    let used = used();
    let golden = used.golden("golden.raw", &[]);
    let untouched = [Untouched::remember(&golden), Untouched::remember(&used.case.overlay)];
    let delta = used.file("delta.qcow2");
    used.delta(&golden, &delta);
    let about = info(&delta);
    assert_eq!(about["backing-filename"], "golden.raw");
    assert_eq!(about["backing-filename-format"], "raw");
    // The overlay's own bytes, and the new kernel and initrd in the gap.
    let (held, most) = (fs::metadata(&delta).unwrap(), fs::metadata(&used.case.overlay).unwrap());
    assert!(held.len() < most.len() + 2 * MIB, "{} and {}", held.len(), most.len());
    assert!(held.blocks() * 512 < 4 * MIB, "{}", held.blocks() * 512);
    // Both can be moved together.
    let moved = used.file("moved");
    fs::create_dir(&moved).unwrap();
    for file in [&golden, &delta] {
        run("cp", &["--sparse=always", arg(file), arg(&moved)]);
    }
    fs::rename(&golden, used.file("away")).unwrap();
    used.expect(&moved.join("delta.qcow2"));
    fs::rename(used.file("away"), &golden).unwrap();
    // In another directory the path is absolute.
    let elsewhere = used.file("moved/elsewhere.qcow2");
    used.delta(&golden, &elsewhere);
    let named = info(&elsewhere)["backing-filename"].clone();
    assert_eq!(named.as_str().map(PathBuf::from), golden.canonicalize().ok());
    untouched.iter().for_each(Untouched::check);
    used.case.untouched.check();
}

#[test]
#[ignore = "slow"]
fn golden_images_of_any_kind() {
    let used = used();
    let delta = used.file("delta.qcow2");
    for options in [&["--format", "qcow2"][..], &["--format", "qcow2", "--compress"]] {
        let golden = used.golden("golden:1.qcow2", &[options, &["--force"]].concat());
        used.delta(&golden, &delta);
        assert_eq!(info(&delta)["backing-filename-format"], "qcow2");
        fs::remove_file(&delta).unwrap();
    }
    // One whose own guest was used and has another kernel: zeros and base where that has data.
    let other = used.file("other.qcow2");
    let mount = Mount::new(&["--swap", "8M", "--overlay", arg(&other)], &used.case.tiny.image);
    use_the_guest(&mount, &used.case.tiny, 7);
    write_at(&writer(mount.part(2)), &noise(200_000, 9), 7 * MIB);
    mount.unmount();
    let golden = used.golden("golden.raw", &["--overlay", arg(&other)]);
    used.delta(&golden, &delta);
    // A copy with no holes is the same disk.
    let padded = used.file("padded.raw");
    run("cp", &["--sparse=never", arg(&golden), arg(&padded)]);
    let delta = used.file("padded.qcow2");
    used.delta(&padded, &delta);
    assert!(fs::metadata(&delta).unwrap().blocks() * 512 < 4 * MIB);
}

/// Edits that make the guest run well on KVM are in the golden image and in the overlay.
#[test]
fn adapted_guests() {
    let (field, config) = Field::xen_tools();
    let overlay = field.path("vm1.qcow2");
    let mounted = mount(&config, &["--overlay", arg(&overlay)]);
    write_at(&writer(mounted.part(1)), &noise(5000, 1), 9000);
    let sum = sha256(mounted.disk());
    mounted.unmount();
    let (golden, delta) = (field.path("golden.raw"), field.path("delta.qcow2"));
    run(
        SYNTHDISK,
        &["finalize", "--bootloader", "direct", "-q", "--config", &config, "-o", arg(&golden)],
    );
    let args =
        ["finalize", "--bootloader", "direct", "-q", "--config", &config, "--delta", arg(&overlay)];
    run(SYNTHDISK, &[&args[..], &["--backing", arg(&golden), "-o", arg(&delta)]].concat());
    let back = field.path("back.raw");
    run("qemu-img", &["convert", "-O", "raw", arg(&delta), arg(&back)]);
    assert_eq!(sha256(&back), sum);
    assert!(fs::metadata(&delta).unwrap().blocks() * 512 < MIB);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let used = used();
    let golden = used.golden("golden.raw", &[]);
    let dir = used.file("results");
    fs::create_dir(&dir).unwrap();
    let out = dir.join("delta.qcow2");
    let overlay = used.case.overlay();
    let refused = |overlay: &str, backing: &Path, why: &str| {
        let said = expect_failure(&used.args(overlay, backing, &out), 1);
        assert!(said.contains(why), "{said}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{why}: something was left");
    };
    let larger = used.file("larger.raw");
    let image = arg(&used.case.tiny.image);
    run(
        SYNTHDISK,
        &["finalize", "--bootloader", "direct", "-q", "--swap", "9M", image, "-o", arg(&larger)],
    );
    refused(&overlay, &larger, "is a disk of");
    let renamed = used.golden("renamed.raw", &["--disk-id", "12345678"]);
    refused(&overlay, &renamed, "disk identifier");
    // The same layout around another filesystem.
    let other = used.file("other.raw");
    run("cp", &["--sparse=always", arg(&golden), arg(&other)]);
    let uuid = "01234567-89ab-4cde-8f01-23456789abcd";
    let part = used.file("other.img");
    fs::copy(&used.case.tiny.image, &part).unwrap();
    run("tune2fs", &["-U", uuid, arg(&part)]);
    write_at(&writer(&other), &fs::read(&part).unwrap(), 64 * MIB);
    refused(&overlay, &other, uuid);
    // Files that are no overlays, and an overlay in use.
    let foreign = used.file("foreign.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", arg(&foreign), "88M"]);
    refused(arg(&foreign), &golden, "cannot be used as an overlay");
    refused(arg(&used.file("nothing")), &golden, "nothing");
    refused(&overlay, &used.file("nothing"), "nothing");
    let mount = used.case.mount();
    refused(&overlay, &golden, "in use");
    mount.unmount();
    // A golden image that is a delta itself.
    let chained = used.file("chained.qcow2");
    let chain = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", arg(&golden), arg(&chained)];
    run("qemu-img", &chain);
    refused(&overlay, &chained, "backing image of its own");
    // The golden image is never overwritten.
    let said =
        expect_failure(&[&used.args(&overlay, &golden, &golden)[..], &["--force"]].concat(), 1);
    assert!(said.contains("is the same as"), "{said}");
    for words in [
        &["--delta", &overlay][..],
        &["--backing", arg(&golden)],
        &["--delta", &overlay, "--backing", arg(&golden), "--format", "raw"],
        &["--delta", &overlay, "--backing", arg(&golden), "--compress"],
    ] {
        let args = [&["finalize", "--bootloader", "direct", "x.img", "-o", "y"], words].concat();
        assert_eq!(output(SYNTHDISK, &args).status.code(), Some(2), "{words:?}");
    }
}
