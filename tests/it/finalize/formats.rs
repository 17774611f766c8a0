//! `synthdisk finalize` to the formats that qemu-img writes.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::common::field::{Field, mount};
use crate::common::hash::sha256;
use crate::common::mount::Mount;
use crate::common::overlay::Case;
use crate::common::process::{SYNTHDISK, command, expect_failure, output, run, run_text, text};
use crate::common::tiny::{Tiny, noise};
use serde_json::Value;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn info(path: &Path, format: &str) -> Value {
    let told = run_text("qemu-img", &["info", "-f", format, "--output=json", arg(path)]);
    serde_json::from_str(&told).expect("qemu-img says JSON")
}

#[test]
#[ignore = "slow"]
fn every_format_holds_what_disk_raw_shows() {
    // A size that no CHS geometry can express.
    let (field, config) = Field::xen_tools();
    let source = ["--config", &config, "--align", "2M"];
    let mounted = mount(&config, &source[2..]);
    let disk = mounted.disk();
    let len = fs::metadata(&disk).unwrap().len();
    let dir = field.path("out");
    fs::create_dir(&dir).unwrap();
    for (name, format, options) in [
        ("a.qcow2", "qcow2", &[][..]),
        ("z.qcow2", "qcow2", &["--compress", "-O", "cluster_size=128k,compression_type=zstd"]),
        ("dynamic.vhd", "vpc", &[]),
        ("fixed.vhd", "vhd", &["-O", "subformat=fixed"]),
        ("a.vhdx", "vhdx", &[]),
        ("a.vmdk", "vmdk", &[]),
        ("stream.vmdk", "vmdk", &["--compress"]),
    ] {
        let out = dir.join(name);
        let args = [
            &[
                "finalize",
                "--bootloader",
                "direct",
                "--json",
                "-q",
                "--verify",
                "--checksum",
                "--format",
                format,
            ],
            options,
            &source,
            &["-o", arg(&out)],
        ]
        .concat();
        let told: Value = serde_json::from_str(&run_text(SYNTHDISK, &args)).expect("JSON");
        let format = if format == "vhd" { "vpc" } else { format };
        assert_eq!(told["files"][0]["sha256"], sha256(&out).as_str(), "{name}");
        assert_eq!(told["files"][0]["format"], format, "{name}");
        run("qemu-img", &["compare", "-f", "raw", "-F", format, arg(&disk), arg(&out)]);
        // A rounded size would make it a different disk.
        assert_eq!(told["files"][0]["disk_length"], len, "{name}");
        let found = info(&out, format);
        assert_eq!(found["virtual-size"], len, "{name}");
        if name.ends_with("qcow2") {
            run("qemu-img", &["check", arg(&out)]);
        }
    }
    let plain = fs::metadata(dir.join("a.qcow2")).unwrap().len();
    assert!(fs::metadata(dir.join("z.qcow2")).unwrap().len() < plain);
    assert_eq!(info(&dir.join("z.qcow2"), "qcow2")["cluster-size"], 128 << 10);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 7, "nothing but the results");
    // The name inside is the file's own.
    let head = String::from_utf8_lossy(&fs::read(dir.join("a.vmdk")).unwrap()[..4096]).into_owned();
    assert!(head.contains("\"a.vmdk\""), "{head}");
}

#[test]
fn a_name_says_what_it_is() {
    let tiny = Tiny::new();
    for (name, format) in
        [("a.qcow2", "qcow2"), ("a.VHD", "vpc"), ("a.vmdk", "vmdk"), ("a.img", "raw")]
    {
        let out = tiny.file(name);
        run(
            SYNTHDISK,
            &["finalize", "--bootloader", "direct", "-q", arg(&tiny.image), "-o", arg(&out)],
        );
        let told = run_text("qemu-img", &["info", "--output=json", "-f", format, arg(&out)]);
        assert!(told.contains(&format!("\"format\": \"{format}\"")), "{name}: {told}");
    }
}

#[test]
fn a_partition_can_be_converted() {
    let tiny = Tiny::new();
    let mounted = Mount::new(&[], &tiny.image);
    let out = tiny.file("root.qcow2");
    let finalize = ["finalize", "--bootloader", "direct", "--format", "qcow2", arg(&tiny.image)];
    run(SYNTHDISK, &[&finalize[..], &["--partition", "1", "-o", arg(&out)]].concat());
    run("qemu-img", &["compare", arg(&mounted.part(1)), arg(&out)]);
    let other = tiny.file("other.qcow2");
    let args = [&finalize[..], &["--partition", "9", "-o", arg(&other)]].concat();
    let said = expect_failure(&args, 1);
    assert!(said.contains("no partition 9"), "{said}");
    assert!(!other.exists());
}

#[test]
fn wrong_options_are_told_before_any_work() {
    for args in [
        &["--format", "vhdx", "--compress"][..],
        &["--compress"],
        &["-O", "size=1"],
        &["--format", "qcow2", "-O", "cluster_size"],
        &["--format", "vmdk", "-O", "subformat=twoGbMaxExtentSparse"],
        &["--format", "qcow2", "--reflink", "always"],
        &["--format", "qcow9"],
    ] {
        let all =
            [&["finalize", "--bootloader", "direct", "/missing", "-o", "/tmp/x"], args].concat();
        let done = output(SYNTHDISK, &all);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {}", text(&done.stderr));
    }
}

#[test]
fn qemu_img_tells_what_is_wrong_and_leaves_nothing() {
    let tiny = Tiny::new();
    let dir = tiny.file("out");
    fs::create_dir(&dir).unwrap();
    let out = dir.join("a.qcow2");
    let args = [
        "finalize",
        "--bootloader",
        "direct",
        "-q",
        "--format",
        "qcow2",
        "-O",
        "cluster_size=7",
        arg(&tiny.image),
    ];
    let said = expect_failure(&[&args[..], &["-o", arg(&out)]].concat(), 1);
    assert!(said.contains("qemu-img") && said.contains("luster size"), "{said}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    // Without the program, in a mount namespace where it can't be found.
    let hide = "mount --bind /dev/null /usr/bin/qemu-img && exec \"$@\"";
    let done = command("unshare")
        .args(["-m", "sh", "-c", hide, "sh", SYNTHDISK])
        .args([
            "finalize",
            "--bootloader",
            "direct",
            "-q",
            "--format",
            "qcow2",
            arg(&tiny.image),
            "-o",
            arg(&out),
        ])
        .output()
        .unwrap();
    let said = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("qemu-utils") && said.lines().count() == 1, "{said}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_result_is_no_more_open_than_the_image() {
    let tiny = Tiny::new();
    fs::set_permissions(&tiny.image, fs::Permissions::from_mode(0o600)).unwrap();
    for (format, name) in [("raw", "a.raw"), ("qcow2", "a.qcow2")] {
        let out = tiny.file(name);
        run(
            SYNTHDISK,
            &[
                "finalize",
                "--bootloader",
                "direct",
                "--format",
                format,
                arg(&tiny.image),
                "-o",
                arg(&out),
            ],
        );
        let mode = fs::metadata(&out).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{format}: {mode:o}");
    }
}

#[test]
fn a_result_is_no_more_open_than_its_least_open_source() {
    let case = Case::new();
    case.mount().unmount();
    let tiny = &case.tiny;
    let kernel = tiny.file("vmlinuz");
    fs::write(&kernel, crate::common::tiny::fake_kernel(1)).unwrap();
    let overlay = ["--overlay", &case.overlay()];
    let with_kernel = ["--kernel", arg(&kernel), "--append", "root=/dev/xvda1"];
    for (image, overlay_mode, kernel_mode, options, expected) in [
        (0o644, 0o600, 0o600, &[][..], 0o644),
        (0o640, 0o644, 0o600, &[][..], 0o640),
        (0o644, 0o600, 0o644, &overlay[..], 0o600),
        (0o644, 0o644, 0o600, &with_kernel[..], 0o600),
        (0o644, 0o644, 0o644, &with_kernel[..], 0o644),
    ] {
        for (path, mode) in
            [(&tiny.image, image), (&case.overlay, overlay_mode), (&kernel, kernel_mode)]
        {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        for format in ["raw", "qcow2"] {
            // A file that everybody could read is replaced.
            let out = tiny.file("open");
            fs::write(&out, b"").unwrap();
            fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).unwrap();
            let args = [
                "finalize",
                "--bootloader",
                "direct",
                "-q",
                "--force",
                "--format",
                format,
                arg(&tiny.image),
                "-o",
            ];
            run(SYNTHDISK, &[&args[..], &[arg(&out)], options].concat());
            let mode = fs::metadata(&out).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, expected, "{format}, {options:?}: {mode:o}, not {expected:o}");
        }
    }
}

/// QEMU aborts when the holes of a file that it has opened with O_DIRECT begin within a block.
#[test]
fn qemu_reads_a_mounts_files_past_the_page_cache() {
    let tiny = Tiny::new();
    // Its last block is partial, and so is the first partition's.
    let len = fs::metadata(&tiny.image).unwrap().len();
    fs::File::options().write(true).open(&tiny.image).unwrap().set_len(len + 512).unwrap();
    let mounted = Mount::new(&["--align", "31744", "--swap", "8M"], &tiny.image);
    let out = tiny.file("out.raw");
    for shown in [mounted.disk(), mounted.part(1), mounted.part(2)] {
        let args = ["convert", "-T", "none", "-f", "raw", "-O", "raw", arg(&shown), arg(&out)];
        run("qemu-img", &args);
        assert_eq!(sha256(&out), sha256(&shown), "{}", shown.display());
    }
}

/// Comparing with the page cache would prove nothing.
#[test]
#[ignore = "slow"]
fn verifying_reads_from_storage() {
    let tiny = Tiny::with(|tree| fs::write(tree.join("more"), noise(4 << 20, 1)).unwrap());
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let golden = dir.path().join("golden.raw");
    let overlay = dir.path().join("overlay");
    run(
        SYNTHDISK,
        &["finalize", "--bootloader", "direct", "-q", arg(&tiny.image), "-o", arg(&golden)],
    );
    let mounted = Mount::new(&["--overlay", arg(&overlay)], &tiny.image);
    let disk = fs::File::options().write(true).open(mounted.disk()).unwrap();
    disk.write_all_at(&noise(4 << 20, 2), 4 << 20).unwrap();
    drop(disk);
    mounted.unmount();
    let delta = ["--delta", arg(&overlay), "--backing", arg(&golden)];
    for (name, options) in
        [("a.raw", &[][..]), ("a.qcow2", &["--format", "qcow2"]), ("delta.qcow2", &delta)]
    {
        let out = dir.path().join(name);
        // Reads of a shell's descendants count as its own once they have ended.
        let script = "\"$@\" >&2 && cat /proc/$$/io";
        let args =
            ["-c", script, "sh", SYNTHDISK, "finalize", "--bootloader", "direct", "-q", "--verify"];
        let source = [arg(&tiny.image), "-o", arg(&out)];
        let told = run_text("sh", &[&args, options, &source].concat());
        let read = told.lines().find_map(|l| l.strip_prefix("read_bytes: ")).unwrap();
        let (read, stored) = (read.parse::<u64>().unwrap(), fs::metadata(&out).unwrap().blocks());
        assert!(stored * 512 > 4 << 20 && read > stored * 512 / 2, "{name}: {read} of {stored}");
    }
}
