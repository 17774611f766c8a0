//! What is inside an initrd, compared with archives made by cpio(1) and the compressors themselves.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::guests::{domu, domu_variant};
use crate::common::process::{command, have, run, run_text};
use proptest::prelude::*;
use synthdisk::fs::{Budget, Cost};
use synthdisk::initrd::{Compression, Generator, Initrd, InitrdEntry, SegmentKind, Whole};

/// The output of `program` for `input`.
fn filter(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = command(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} could not be started: {e}"));
    let mut stdin = child.stdin.take().expect("it was asked for");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it runs");
    writer.join().expect("no panic").expect("it reads all");
    assert!(output.status.success(), "{program} failed");
    output.stdout
}

/// An archive of a tree of files, by cpio(1). A name with a slash at its end is a directory, and a
/// text that starts with `->` makes a symlink.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut names = String::new();
    for (name, data) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else if let Some(target) = data.strip_prefix(b"->") {
            std::os::unix::fs::symlink(std::str::from_utf8(target).unwrap(), &path).unwrap();
        } else {
            fs::write(&path, data).unwrap();
        }
        names.push_str(&format!("{}\n", name.trim_end_matches('/')));
    }
    let dir = dir.path().to_str().unwrap();
    filter("cpio", &["-o", "-H", "newc", "--quiet", "-D", dir], names.as_bytes())
}

fn read(bytes: Vec<u8>) -> Initrd {
    Initrd::read(&mut Whole(bytes), &Budget::new()).unwrap()
}

const BLK: &str = "usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko.xz";

/// Some 300 kB, so that several of each compressor's blocks are needed.
fn main_archive() -> Vec<u8> {
    let noise: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    archive(&[
        ("init", b"#!/bin/sh\n"),
        ("bin", b"->usr/bin"),
        ("conf/", b""),
        ("conf/initramfs.conf", b"MODULES=dep\n"),
        ("usr/lib/firmware/noise", &noise),
        (BLK, b"module"),
        ("usr/lib/modules/6.1/modules.dep", b"a.ko:\n"),
    ])
}

fn check_main(found: &Initrd, what: &str) {
    assert_eq!(found.problem, None, "{what}");
    assert!(found.complete && found.has_init, "{what}");
    assert_eq!(found.generator, Generator::InitramfsTools, "{what}");
    assert_eq!(found.kernels, ["6.1"], "{what}");
    assert!(found.has_driver("6.1", "virtio_blk"), "{what}");
    assert!(!found.has_driver("6.2", "virtio_blk"), "{what}");
    assert_eq!(found.entries["bin"], InitrdEntry::Symlink("usr/bin".into()), "{what}");
    assert_eq!(found.entries["conf"], InitrdEntry::Dir, "{what}");
    assert_eq!(found.entries["usr/lib/firmware/noise"], InitrdEntry::File(300_000), "{what}");
    assert_eq!(found.small_files["conf/initramfs.conf"], b"MODULES=dep\n", "{what}");
    assert_eq!(found.small_files["usr/lib/modules/6.1/modules.dep"], b"a.ko:\n", "{what}");
}

/// How initramfs-tools, dracut and the kernel's own build invoke the compressors.
const COMPRESSORS: [(&str, &[&str], Compression); 10] = [
    ("gzip", &["-n", "-9"], Compression::Gzip),
    ("bzip2", &["-9"], Compression::Bzip2),
    ("lzma", &["-9"], Compression::Lzma),
    ("xz", &["--check=crc32"], Compression::Xz),
    ("xz", &["--check=crc32", "--lzma2=dict=1MiB"], Compression::Xz),
    ("xz", &["--check=crc32", "--x86", "--lzma2=dict=512KiB"], Compression::Xz),
    ("xz", &["--check=sha256", "--block-size=64KiB", "-T2"], Compression::Xz),
    ("lz4", &["-9", "-l"], Compression::Lz4),
    ("zstd", &["-q", "-19"], Compression::Zstd),
    ("zstd", &["-q", "-1", "-T0", "--no-check"], Compression::Zstd),
];

#[test]
fn every_compression_alone_and_behind_others() {
    let main = main_archive();
    let microcode =
        archive(&[("early_cpio", b"1\n"), ("kernel/x86/microcode/AuthenticAMD.bin", b"code")]);
    let plain = archive(&[("usr/lib/modules/6.1/kernel/net/a-b.ko.zst", b"m")]);
    check_main(&read(main.clone()), "plain");
    for (program, args, compression) in COMPRESSORS {
        let what = format!("{program} {args:?}");
        assert!(have(program), "{program} is not installed (scripts/setup --test)");
        let packed = filter(program, args, &main);
        let found = read(packed.clone());
        check_main(&found, &what);
        assert_eq!(found.segments.len(), 1, "{what}");
        assert_eq!(found.segments[0].compression, compression, "{what}");
        assert_eq!(found.segments[0].len, packed.len() as u64, "{what}");
        assert_eq!(found.segments[0].files, 6, "{what}");

        // Microcode, modules, zeros of any length, and then the compressed archive twice: what
        // comes after an end is found only if the end was.
        let mut all = microcode.clone();
        all.extend(&plain);
        all.resize(all.len() + 13, 0);
        let first = all.len() as u64;
        all.extend(&packed);
        // Only zeros may follow lz4 data: it has no end marker.
        all.resize(all.len() + 7, 0);
        let second = all.len() as u64;
        all.extend(&packed);
        let found = read(all);
        check_main(&found, &what);
        assert!(found.has_driver("6.1", "a_b"), "{what}");
        let kinds: Vec<_> = found.segments.iter().map(|s| (s.kind, s.compression)).collect();
        let (early, main) = (SegmentKind::Microcode, SegmentKind::Main);
        let none = Compression::None;
        assert_eq!(
            kinds,
            [(early, none), (main, none), (main, compression), (main, compression)],
            "{what}"
        );
        assert_eq!((found.segments[2].offset, found.segments[3].offset), (first, second), "{what}");
    }
}

#[test]
fn a_search_ends_where_it_has_found_all() {
    let packed = filter("gzip", &[], &main_archive());
    let wanted = |name| {
        Initrd::find(&mut Whole(packed.clone()), "6.1", &[name], None, &Budget::new()).unwrap()
    };
    let found = wanted("virtio_blk");
    assert!(found.has_driver("6.1", "virtio_blk") && !found.complete && found.problem.is_none());
    assert!(!found.entries.contains_key("usr/lib/modules/6.1/modules.dep"));
    let found = wanted("virtio_pci");
    assert!(!found.has_driver("6.1", "virtio_pci") && found.complete);
}

/// The output counts, not the file: 24 MiB of zeros, where 16 MiB are left.
#[test]
fn a_bomb_in_every_compression_is_charged() {
    let zeros = vec![0; 24 << 20];
    let archive = archive(&[("zeros", &zeros), ("init", b"#!/bin/sh\n")]);
    for (program, args) in [
        ("gzip", &["-1"][..]),
        ("bzip2", &["-1"]),
        ("xz", &["--check=crc32", "-1"]),
        ("lzma", &["-1"]),
        ("lz4", &["-l"]),
        ("zstd", &["-q", "-1"]),
    ] {
        if !have(program) {
            continue;
        }
        let bomb = filter(program, args, &archive);
        let budget = Budget::new();
        budget.charge(Cost::UnpackedBytes, (1 << 30) - (16 << 20)).unwrap();
        let found = Initrd::read(&mut Whole(bomb), &budget).unwrap();
        let problem = found.problem.expect("it is not read to its end");
        assert!(problem.contains("more than 1073741824 bytes"), "{program}: {problem}");
        assert!(!found.complete && !found.has_init, "{program}");
        assert_eq!(budget.refused(), None, "{program}");
    }
}

#[test]
fn entries_are_charged() {
    let one = archive(&[("init", b"#!/bin/sh\n")]);
    let budget = Budget::new();
    budget.charge(Cost::Entries, 400_000).unwrap();
    let found = Initrd::read(&mut Whole(one), &budget).unwrap();
    assert!(found.problem.expect("no entry is left").contains("more than 400000 entries"));
}

/// Blocks of lz4 that unpack to nothing cost only their own bytes.
#[test]
fn empty_blocks_end_with_the_budget() {
    let mut bytes = 0x184c_2102_u32.to_le_bytes().to_vec();
    for _ in 0..1_000_000 {
        bytes.extend([1, 0, 0, 0, 0]);
    }
    let budget = Budget::new();
    budget.charge(Cost::UnpackedBytes, (1 << 30) - (4 << 20)).unwrap();
    let found = Initrd::read(&mut Whole(bytes), &budget).unwrap();
    assert!(found.problem.expect("too many blocks").contains("more than 1073741824 bytes"));
}

#[test]
fn what_is_broken_is_said_and_what_came_before_is_kept() {
    let main = main_archive();
    let packed = filter("gzip", &[], &main);
    let zstd = filter("zstd", &["-q"], &main);
    let lzo = [&[0x89, b'L', b'Z', b'O'][..], &[7; 100]].concat();
    let bad = |bytes: &[u8]| read(bytes.to_vec()).problem.expect("it is broken");
    assert!(bad(b"neither").contains("neither an archive nor compressed"));
    assert!(bad(&packed[..packed.len() / 2]).contains("ends too early"));
    assert!(bad(&lzo).contains("lzo"));
    assert!(bad(b"07070100").contains("ends too early"));
    assert!(bad(&[b"070707".as_slice(), &[b'0'; 200]].concat()).contains("old format"));
    assert!(bad(&filter("gzip", &[], b"the image of a disk")).contains("junk"));
    let mut odd = main.clone();
    odd.extend([0; 5]);
    odd.resize(odd.len().next_multiple_of(4) + 1, 0);
    odd.extend(&main);
    assert!(bad(&odd).contains("neither"), "an archive that is not aligned");
    let found = read([main.clone(), zstd[..1000].to_vec()].concat());
    assert!(found.has_driver("6.1", "virtio_blk") && !found.complete && found.problem.is_some());
    assert_eq!(found.segments.len(), 2);
    // An empty file is no initrd, but no error either.
    let found = read(Vec::new());
    assert!(found.complete && !found.has_init && found.segments.is_empty());
}

/// A window or dictionary that would take gigabytes is refused before it is made.
#[test]
fn nobody_makes_us_take_all_memory() {
    let zstd = filter("zstd", &["-q", "--ultra", "--long=31", "-1"], &main_archive());
    let mut zstd = zstd;
    // The window's size comes after magic number and descriptor; 1 << (10 + 21).
    zstd[4] &= !0x20;
    zstd[5] = 21 << 3;
    assert!(read(zstd).problem.is_some());
    let xz = filter("xz", &["--lzma2=dict=1536MiB"], b"x");
    assert!(read(xz).problem.unwrap().contains("memory"));
    let mut lzma = filter("lzma", &[], &main_archive());
    lzma[1..5].copy_from_slice(&0xffff_0000_u32.to_le_bytes());
    assert!(read(lzma).problem.is_some());
    // A file of more than a gigabyte in a few kilobytes.
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("zeros")).unwrap().set_len(1200 << 20).unwrap();
    let zeros = dir.path().join("packed");
    let pack = "cd \"$0\" && echo zeros | cpio -o -H newc --quiet | zstd -q -1 >packed";
    run("sh", &["-c", pack, dir.path().to_str().unwrap()]);
    let started = Instant::now();
    let found = read(fs::read(&zeros).unwrap());
    assert!(found.problem.unwrap().contains("more than 1073741824 bytes"));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn who_made_it() {
    for (files, generator) in [
        (&["scripts/init-top/ORDER", "init"][..], Generator::InitramfsTools),
        (&["usr/lib/dracut/hooks/cmdline/x", "init"], Generator::Dracut),
        (&["dracut-004-256.el6", "init"], Generator::Dracut),
        (&["init_functions", "config", "init"], Generator::Mkinitcpio),
        (&["bin/nash", "init"], Generator::Mkinitrd),
        (&["init", "bin/busybox"], Generator::Other),
    ] {
        let files: Vec<(&str, &[u8])> = files.iter().map(|f| (*f, b"x".as_slice())).collect();
        assert_eq!(read(archive(&files)).generator, generator, "{files:?}");
    }
    assert_eq!(serde_json::to_value(Generator::InitramfsTools).unwrap(), "initramfs-tools");
}

#[test]
fn several_initrds_are_one() {
    let mut first = read(archive(&[("kernel/x86/microcode/a", b"x"), ("x", b"")]));
    let second = read(filter("gzip", &["-n"], &main_archive()));
    let end = first.segments[0].len;
    first.join(second);
    check_main(&first, "joined");
    assert_eq!(first.segments[1].offset, end.next_multiple_of(4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes changed anywhere may break an initrd, but nothing else.
    #[test]
    fn no_bytes_do_harm(
        which in 0..COMPRESSORS.len() + 1,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        use std::sync::OnceLock;
        static MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            let small = archive(&[("init", b"x"), (BLK, &[7; 5000]), ("a", b"->b")]);
            let packed = COMPRESSORS.iter().map(|(p, a, _)| filter(p, a, &small));
            packed.chain([small.clone()]).collect()
        });
        let mut bytes = made[which].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
        let found = read(bytes);
        prop_assert!(found.complete || found.problem.is_some());
    }
}

/// The initrd of a real guest lists what cpio(1) lists.
#[test]
#[ignore = "makes domUs as root"]
fn initrds_of_real_guests() {
    let dir = tempfile::tempdir().unwrap();
    let bookworm = domu("bookworm").disk;
    let variants = ["dracut", "list"].map(|kind| domu_variant("bookworm", kind).disk);
    for disk in variants.iter().chain([&bookworm]) {
        let names = run_text("debugfs", &["-R", "ls -p /boot", disk.to_str().unwrap()]);
        let name = names.lines().filter_map(|l| l.split('/').nth(5));
        let mut name = name.filter(|n| n.starts_with("initrd.img"));
        let name = name.next_back().unwrap().to_owned();
        let initrd = dir.path().join("initrd");
        let request = format!("dump /boot/{name} {}", initrd.display());
        run("debugfs", &["-R", &request, disk.to_str().unwrap()]);
        compare(&initrd, disk);
    }
}

fn compare(initrd: &Path, disk: &Path) {
    let bytes = fs::read(initrd).unwrap();
    let plain = match Compression::detect(&bytes) {
        Some(Compression::Gzip) => filter("gzip", &["-dc"], &bytes),
        Some(Compression::Zstd) => filter("zstd", &["-dcq"], &bytes),
        other => panic!("{} is {other:?}", disk.display()),
    };
    let listed = filter("cpio", &["-it", "--quiet"], &plain);
    let listed = String::from_utf8_lossy(&listed);
    let mut expected: Vec<&str> = listed.lines().filter(|l| *l != ".").collect();
    expected.sort_unstable();
    expected.dedup();
    let started = Instant::now();
    let found = read(bytes);
    eprintln!("{}: {:?}, {:?}", disk.display(), found.generator, started.elapsed());
    assert_eq!(found.problem, None);
    let names: BTreeMap<_, _> = found.entries.iter().map(|(k, v)| (k.as_str(), v)).collect();
    assert_eq!(names.keys().copied().collect::<Vec<_>>(), expected);
    let virtio = found.has_driver(&found.kernels[0], "virtio_blk");
    let without =
        disk.to_string_lossy().contains("-dracut") || disk.to_string_lossy().contains("-list");
    assert_eq!(virtio, !without, "{}", disk.display());
}
