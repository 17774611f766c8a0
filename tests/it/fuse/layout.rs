//! The disk that a mount shows, compared with what sfdisk, blkid and others say about it.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use crate::common::file::{bytes_of, reader, writer};
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::{LoopDev, Mount, expect_no_mount};
use crate::common::process::{
    SYNTHDISK, have, is_root, output, run, run_text, skip, synthdisk, text,
};
use crate::common::tiny::{Tiny, UUID, fake_kernel, make_ext4, noise};
use serde_json::Value;
use synthdisk::loader::direct::Params;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

fn json_of(program: &str, args: &[&str]) -> Value {
    serde_json::from_str(&run_text(program, args)).expect("it says JSON")
}

fn map(options: &[&str], image: &Path) -> Value {
    let image = image.to_string_lossy();
    let args: Vec<&str> =
        ["map", "--json"].iter().chain(options).copied().chain([&*image]).collect();
    json_of(SYNTHDISK, &args)
}

/// The partitions as sfdisk reads them: start, sectors, type, active.
fn partitions(disk: &Path) -> Vec<(u64, u64, String, bool)> {
    let table = json_of("sfdisk", &["-J", &disk.to_string_lossy()]);
    let list = table["partitiontable"]["partitions"].as_array().expect("there are partitions");
    list.iter()
        .map(|p| {
            let number = |key: &str| p[key].as_u64().expect("sfdisk says a number");
            let kind = p["type"].as_str().expect("sfdisk says a type").to_owned();
            (number("start"), number("size"), kind, p["bootable"] == true)
        })
        .collect()
}

fn blkid(path: &Path, key: &str) -> String {
    let all = run_text("blkid", &["-p", "-o", "export", &path.to_string_lossy()]);
    let value = all.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("blkid says no {key}: {all}")).to_owned()
}

fn len(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).expect("it is there").len()
}

fn assert_zeros(path: &Path, from: u64, to: u64) {
    let bytes = bytes_of(path, from, (to - from) as usize);
    let wrong = bytes.iter().position(|b| *b != 0);
    assert_eq!(wrong, None, "{} at {from} + ... is not zero", path.display());
}

#[test]
fn table_partitions_and_swap_are_what_the_tools_expect() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mapped = map(&[], &tiny.image);
    let mount = Mount::new(&[], &tiny.image);
    let disk = mount.disk();

    let verdict = run("sfdisk", &["--verify".as_ref(), disk.as_os_str()]);
    let verdict = text(&verdict.stdout) + &text(&verdict.stderr);
    assert!(verdict.contains("No errors detected"), "{verdict}");
    let table = json_of("sfdisk", &["-J", &disk.to_string_lossy()]);
    let id = mapped["disk_id"].as_str().unwrap();
    assert_eq!(table["partitiontable"]["id"], format!("0x{id}"));
    assert_eq!(blkid(&disk, "PTUUID"), id);
    assert_eq!(blkid(&disk, "PTTYPE"), "dos");

    let (image, gap, swap) = (len(&tiny.image), 64 * MIB, 512 * MIB);
    assert_eq!(
        partitions(&disk),
        [
            (gap / SECTOR, image / SECTOR, "83".to_owned(), true),
            ((gap + image) / SECTOR, swap / SECTOR, "82".to_owned(), false),
        ]
    );
    assert_eq!(len(&disk), gap + image + swap);
    assert_eq!((len(mount.part(1)), len(mount.part(2))), (image, swap));
    run("cmp", &[&tiny.image, &mount.part(1)]);
    assert_eq!(blkid(&mount.part(1), "UUID"), UUID);
    run("e2fsck", &["-fn".as_ref(), mount.part(1).as_os_str()]);
    // At these offsets, the disk shows the partitions' bytes.
    run(
        "cmp",
        &[
            "-i",
            &format!("{gap}:0"),
            "-n",
            &image.to_string(),
            &disk.to_string_lossy(),
            &tiny.image.to_string_lossy(),
        ],
    );

    let uuid = mapped["swap_uuid"].as_str().unwrap();
    assert_eq!(blkid(&mount.part(2), "TYPE"), "swap");
    assert_eq!(blkid(&mount.part(2), "UUID"), uuid);
    let label = run_text("swaplabel", &[mount.part(2)]);
    assert!(label.contains(uuid), "{label}");
    if have("file") {
        let kind = run_text("file", &["-b".as_ref(), mount.part(2).as_os_str()]);
        assert!(kind.contains("Linux") && kind.contains("swap file"), "{kind}");
        let kind = run_text("file", &["-b".as_ref(), disk.as_os_str()]);
        assert!(kind.contains("boot sector") && kind.contains("partition 2"), "{kind}");
    }
    let made = tiny.file("swap");
    File::create(&made).and_then(|f| f.set_len(swap)).expect("a sparse file");
    run("mkswap", &["-q", "-U", uuid, &made.to_string_lossy()]);
    run("cmp", &[&made, &mount.part(2)]);
    mount.unmount();
    untouched.check();
}

#[test]
fn the_gap_of_old_days_is_63_sectors() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let options = ["--align", "63s", "--bootloader", "none", "--swap", "0"];
    let mount = Mount::new(&options, &tiny.image);
    let parts = partitions(&mount.disk());
    assert_eq!(parts, [(63, len(&tiny.image) / SECTOR, "83".to_owned(), true)]);
    assert!(!mount.part(2).exists());
    assert_zeros(&mount.disk(), 0, 440);
    assert_zeros(&mount.disk(), SECTOR, 63 * SECTOR);
    assert_eq!(bytes_of(mount.disk(), 63 * SECTOR, 4096), bytes_of(&tiny.image, 0, 4096));
    run("cmp", &[&tiny.image, &mount.part(1)]);
    mount.unmount();

    let mount = Mount::new(&["--bootloader", "none"], &tiny.image);
    assert_eq!(partitions(&mount.disk())[0].0, 2048);
    assert_zeros(&mount.disk(), SECTOR, MIB);
    mount.unmount();

    // With a loader the gap is as long as needed, in whole units.
    let mount = Mount::new(&["--align", "63s"], &tiny.image);
    let start = partitions(&mount.disk())[0].0;
    assert_eq!((start % 63, start > 64 << 11), (0, true));
    run("cmp", &[&tiny.image, &mount.part(1)]);
    mount.unmount();
    untouched.check();
}

#[test]
fn a_larger_root_lets_the_guest_grow() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--root-size", "80M", "--swap", "1M"], &tiny.image);
    let image = len(&tiny.image);
    assert_eq!(len(mount.part(1)), 80 * MIB);
    assert_eq!(len(mount.part(2)), MIB);
    run(
        "cmp",
        &[
            "-n",
            &image.to_string(),
            &tiny.image.to_string_lossy(),
            &mount.part(1).to_string_lossy(),
        ],
    );
    assert_zeros(&mount.part(1), image, 80 * MIB);
    run("resize2fs", &[mount.part(1)]);
    run("e2fsck", &["-fn".as_ref(), mount.part(1).as_os_str()]);
    let info = run_text("dumpe2fs", &["-h".as_ref(), mount.part(1).as_os_str()]);
    let blocks = info.lines().find_map(|l| l.strip_prefix("Block count:"));
    assert_eq!(blocks.map(str::trim), Some("20480"), "{info}");
    mount.unmount();
    untouched.check();
    let said = expect_no_mount(&["--root-size", "8M", &tiny.image.to_string_lossy()]);
    assert!(said.contains("smaller than the image"), "{said}");
}

#[test]
fn an_odd_length_is_padded_with_zeros() {
    let tiny = Tiny::new();
    let file = writer(&tiny.image);
    let even = len(&tiny.image);
    crate::common::file::write_at(&file, &[0xaa; 100], even);
    drop(file);
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--swap", "0"], &tiny.image);
    assert_eq!(len(mount.part(1)), even + SECTOR);
    let tail = bytes_of(mount.part(1), even, 512);
    assert_eq!(tail[..100], [0xaa; 100]);
    assert_eq!(tail[100..], [0; 412]);
    // The padding can be written like any other byte.
    let whole = writer(mount.disk());
    crate::common::file::write_at(&whole, &[0x55; 512], 64 * MIB + even);
    assert_eq!(bytes_of(mount.part(1), even, 512), [0x55; 512]);
    drop(whole);
    mount.unmount();
    untouched.check();
}

#[test]
fn a_loop_device_finds_the_partitions() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--swap", "4M"], &tiny.image);
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).expect("mkdir in our own directory");
    {
        let device = LoopDev::attach_partitions(mount.disk(), false);
        let root = device.partition(1);
        run("e2fsck", &["-fn".as_ref(), root.as_os_str()]);
        assert_eq!(blkid(&device.partition(2), "TYPE"), "swap");
        run("mount", &[&root, &dir]);
        let data = fs::read(dir.join("data"));
        let wrote = fs::write(dir.join("new"), b"through a loop device");
        run("umount", &[&dir]);
        assert_eq!(data.expect("readable"), noise(3 << 20, 7));
        wrote.expect("writable");
        run("e2fsck", &["-fn".as_ref(), root.as_os_str()]);
    }
    let cat = run_text("debugfs", &["-R", "cat /new", &mount.part(1).to_string_lossy()]);
    assert_eq!(cat, "through a loop device");
    mount.unmount();
    untouched.check();
}

#[test]
fn identifiers_come_from_the_image_or_the_user() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let copy = tiny.file("elsewhere.img");
    fs::copy(&tiny.image, &copy).expect("copy our own file");
    let uuid = "01234567-89ab-4cde-8f01-23456789abcd";
    let given = ["--disk-id", "deadbeef", "--swap-uuid", uuid, "--swap", "8M"];
    let sum_of = |options: &[&str], image: &Path| {
        let mount = Mount::new(options, image);
        let sum = sha256(mount.disk());
        mount.unmount();
        sum
    };
    let plain = sum_of(&["--swap", "8M"], &tiny.image);
    assert_eq!(plain, sum_of(&["--swap", "8M"], &tiny.image));
    assert_eq!(plain, sum_of(&["--swap", "8M"], &copy));
    assert_eq!(plain, sum_of(&["--swap", "8M", "--read-only"], &copy));

    let mount = Mount::new(&given, &tiny.image);
    assert_eq!(blkid(&mount.disk(), "PTUUID"), "deadbeef");
    assert_eq!(blkid(&mount.part(2), "UUID"), uuid);
    let printed = mount.printed();
    assert!(printed.contains("deadbeef"), "{printed}");
    assert_ne!(sha256(mount.disk()), plain);
    mount.unmount();
    let mapped = map(&given, &tiny.image);
    assert_eq!((&mapped["disk_id"], &mapped["swap_uuid"]), (&"deadbeef".into(), &uuid.into()));
    untouched.check();
}

#[test]
fn the_map_says_what_reads_show() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let options = ["--swap", "8M", "--root-size", "20M"];
    let mapped = map(&options, &tiny.image);
    let mount = Mount::new(&options, &tiny.image);
    let disk = reader(mount.disk());
    let mut end = 0;
    let mut kinds = Vec::new();
    for region in mapped["regions"].as_array().expect("regions") {
        let (start, len) = (region["start"].as_u64().unwrap(), region["length"].as_u64().unwrap());
        assert_eq!(start, end, "a gap or an overlap: {region}");
        end = start + len;
        let kind = region["kind"].as_str().unwrap();
        let origin = region["origin"].as_str().unwrap();
        kinds.push(kind.to_owned());
        let bytes = crate::common::file::read_at(&disk, start, len as usize);
        match kind {
            _ if origin == "zeros" => assert!(bytes.iter().all(|b| *b == 0), "{region}"),
            "mbr" => assert_eq!(bytes[510..], [0x55, 0xaa]),
            "loader" => assert_eq!(bytes[..], synthdisk::loader::direct::STAGE2[..]),
            "parameters" => {
                let params = Params::decode(&bytes).expect("a valid block");
                assert_eq!(params.message, None);
                assert_eq!(params.kernel_bytes, fake_kernel(1).len() as u64);
            }
            "cmdline" => {
                let line = mapped["boot"]["cmdline"].as_str().unwrap();
                assert_eq!(&bytes[..line.len()], line.as_bytes());
                assert!(line.contains(&format!("root=UUID={UUID}")), "{line}");
                assert!(mount.printed().contains(line), "{}", mount.printed());
            }
            "kernel" => assert_eq!(bytes, fake_kernel(1)),
            "initrd" => assert_eq!(bytes, crate::common::tiny::initrd(101)),
            "partition" => assert_eq!(bytes, fs::read(&tiny.image).unwrap(), "{region}"),
            "swap-header" => assert_eq!(bytes[4086..], *b"SWAPSPACE2"),
            _ => panic!("unknown kind {kind}"),
        }
    }
    assert_eq!(end, mapped["length"].as_u64().unwrap());
    assert_eq!(end, len(mount.disk()));
    kinds.dedup();
    for kind in ["mbr", "loader", "parameters", "cmdline", "kernel", "initrd", "partition"] {
        assert!(kinds.iter().any(|k| k == kind), "no {kind} in {kinds:?}");
    }
    let parts = mapped["partitions"].as_array().expect("partitions");
    for (part, (start, sectors, ..)) in parts.iter().zip(partitions(&mount.disk())) {
        assert_eq!(part["start"], start * SECTOR);
        assert_eq!(part["len"], sectors * SECTOR);
    }
    // The table for people holds the same numbers.
    let table = text(
        &synthdisk(&["map", "--swap", "8M", "--root-size", "20M", &tiny.image.to_string_lossy()])
            .stdout,
    );
    assert_eq!(table.lines().count(), 1 + mapped["regions"].as_array().unwrap().len(), "{table}");
    drop(disk);
    mount.unmount();
    untouched.check();
}

#[test]
fn nearly_two_tebibytes_mount_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let image = dir.path().join("huge.img");
    let huge = File::create(&image).expect("a file in our own directory");
    let size: u64 = 1_900 << 30;
    if huge.set_len(size).is_err() {
        skip("this filesystem takes no file of 1.9 TiB");
        return;
    }
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("boot")).unwrap();
    fs::write(tree.join("boot/vmlinuz-1"), fake_kernel(1)).unwrap();
    fs::write(tree.join("boot/initrd.img-1"), noise(5000, 3)).unwrap();
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-T",
            "largefile4",
            "-O",
            "^has_journal,^resize_inode",
            "-E",
            "lazy_itable_init=1,packed_meta_blocks=1",
            "-d",
            &tree.to_string_lossy(),
            &image.to_string_lossy(),
        ],
    );
    let allocated = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).expect("it is there").blocks() * 512
    };
    let before = (allocated(&image), fs::metadata(&image).unwrap().modified().unwrap());
    let started = Instant::now();
    let mount = Mount::new(&[], &image);
    let took = started.elapsed();
    assert!(took.as_secs() < 5, "mounting took {took:?}");
    assert_eq!(len(mount.part(1)), size);
    assert_eq!(partitions(&mount.disk())[0].1, size / SECTOR);
    let last = writer(mount.part(1));
    crate::common::file::write_at(&last, b"the very end", size - 12);
    assert_eq!(bytes_of(mount.disk(), 64 * MIB + size - 12, 12), b"the very end");
    drop(last);
    mount.unmount();
    // Hashing it takes hours; checking that nothing was stored must suffice.
    assert_eq!(before, (allocated(&image), fs::metadata(&image).unwrap().modified().unwrap()));

    let image = image.to_string_lossy();
    for options in [["--root-size", "2T"], ["--swap", "300G"], ["--root-size", "3T"]] {
        let said = expect_no_mount(&[&["--table", "mbr"], &options[..], &[&*image]].concat());
        assert!(said.contains("2 TiB"), "{said}");
    }
    File::options().write(true).open(&*image).unwrap().set_len(2100 << 30).unwrap();
    let said = expect_no_mount(&["--table", "mbr", &image]);
    assert!(said.contains("2 TiB"), "{said}");
    // GPT is chosen without an option.
    let mount = Mount::new(&[], Path::new(&*image));
    assert!(mount.printed().contains("GPT"), "{}", mount.printed());
    run("sgdisk", &["-v", &mount.disk().to_string_lossy()]);
    mount.unmount();
}

#[test]
fn a_bare_filesystem_without_kernel_needs_no_loader() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let image = dir.path().join("data.img");
    make_ext4(&image, 4 << 20, None);
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&["--bootloader", "none"], &image);
    assert!(mount.printed().contains("no boot loader"), "{}", mount.printed());
    mount.unmount();
    untouched.check();
    let shown = output(SYNTHDISK, &["map", "--bootloader", "none", &image.to_string_lossy()]);
    assert!(shown.status.success());
}
