//! Persistent and temporary overlays: what they keep, what they refuse, what they survive.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::file::{bytes_of, read_at, write_at, writer};
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::{LoopDev, Mount, expect_no_mount, has_ended, is_mount_point};
use crate::common::overlay::{Case, daemon, wait_until};
use crate::common::process::{SYNTHDISK, command, is_root, output, run, run_text, skip, text};
use crate::common::tiny::{Tiny, noise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MIB: u64 = 1 << 20;

#[test]
fn an_overlay_is_no_more_open_than_its_image() {
    for (image, expected) in [(0o600, 0o600), (0o640, 0o640), (0o444, 0o644)] {
        let tiny = Tiny::new();
        let copy = tiny.file("copy.img");
        fs::copy(&tiny.image, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(image)).unwrap();
        let overlay = tiny.file("o.qcow2");
        Mount::new(&["--overlay", overlay.to_str().unwrap()], &copy).unmount();
        let mode = fs::metadata(&overlay).unwrap().mode() & 0o777;
        // The umask may remove more, but not from the owner.
        assert_eq!((mode & !expected, mode & 0o600), (0, 0o600), "{image:o}: {mode:o}");
    }
}

#[test]
fn contents_come_back() {
    let case = Case::new();
    let mount = case.mount_with(&["--swap", "8M"]);
    let disk = writer(mount.disk());
    let end = fs::metadata(mount.disk()).unwrap().len();
    let places = [0, 512, 64 * MIB - 300, 70 * MIB + 1000, end - 700];
    for (i, at) in places.into_iter().enumerate() {
        // The table stays as it is: the next mount must find partitions.
        let at = if at == 0 { 5 * 512 } else { at };
        write_at(&disk, &noise(600, i as u64), at);
    }
    run("fallocate", &["-p", "-o", "1M", "-l", "1M", &mount.part(1).to_string_lossy()]);
    drop(disk);
    let sum = sha256(mount.disk());
    mount.unmount();
    case.check();
    let info: serde_json::Value =
        serde_json::from_str(&run_text("qemu-img", &["info", "--output=json", &case.overlay()]))
            .unwrap();
    assert_eq!((&info["format"], &info["virtual-size"]), (&"qcow2".into(), &end.into()));

    // The layout comes from the overlay: no option need be repeated.
    let mount = case.mount();
    assert_eq!(sha256(mount.disk()), sum);
    mount.unmount();
    let mount = case.mount_with(&["--swap", "8M"]);
    assert_eq!(sha256(mount.disk()), sum);
    mount.unmount();
    case.check();
    case.untouched.check();
}

#[test]
fn options_that_contradict_are_refused() {
    let case = Case::new();
    let uuid = "01234567-89ab-4cde-8f01-23456789abcd";
    case.mount_with(&["--swap", "8M"]).unmount();
    let before = Untouched::remember(&case.overlay);
    for option in [
        ["--swap", "9M"],
        ["--align", "2M"],
        ["--root-size", "40M"],
        ["--bootloader", "none"],
        ["--disk-id", "12345678"],
        ["--swap-uuid", uuid],
    ] {
        let said = case.refused(&option);
        assert!(said.contains(option[0]) && said.contains("overlay"), "{option:?}: {said}");
    }
    let ro = output(SYNTHDISK, &["mount", "--read-only", "--overlay", "x", "y", "z"]);
    assert_eq!(ro.status.code(), Some(2));
    before.check();
    case.untouched.check();
}

#[test]
fn other_images_are_refused() {
    let case = Case::new();
    case.mount().unmount();
    let before = Untouched::remember(&case.overlay);
    let other = Tiny::with(|tree| fs::write(tree.join("more"), b"other").unwrap());
    let overlay = case.overlay();
    let refused = |image: &Path| {
        let said = expect_no_mount(&["--overlay", &overlay, &image.to_string_lossy()]);
        assert!(said.contains("another image") || said.contains("belongs to"), "{said}");
    };
    refused(&other.image);
    // The same image after a change, and after growing.
    let changed = case.tiny.file("changed.img");
    fs::copy(&case.tiny.image, &changed).unwrap();
    run("tune2fs", &["-L", "changed", &changed.to_string_lossy()]);
    refused(&changed);
    fs::copy(&case.tiny.image, &changed).unwrap();
    writer(&changed).set_len(17 << 20).unwrap();
    refused(&changed);
    // A copy is the same image.
    fs::copy(&case.tiny.image, &changed).unwrap();
    Mount::new(&["--overlay", &overlay], &changed).unmount();
    before.check();
    case.untouched.check();
}

#[test]
fn an_overlay_serves_one_mount() {
    let case = Case::new();
    let mount = case.mount();
    let said = case.refused(&[]);
    assert!(said.contains("in use"), "{said}");
    // QEMU's tools respect the lock as well.
    assert!(!output("qemu-io", &["-c", "write 0 512", &case.overlay()]).status.success());
    write_at(&writer(mount.part(2)), b"still mine", MIB);
    mount.unmount();
    let mount = case.mount();
    assert_eq!(bytes_of(mount.part(2), MIB, 10), b"still mine");
    mount.unmount();
    case.untouched.check();
}

#[test]
fn damage_is_found() {
    let case = Case::new();
    let mount = case.mount();
    write_at(&writer(mount.part(1)), &noise(MIB as usize, 3), MIB);
    mount.unmount();
    let good = fs::read(&case.overlay).unwrap();
    let spoil = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&case.overlay, bytes).unwrap();
        let before = Untouched::remember(&case.overlay);
        let said = case.refused(&[]);
        assert!(said.contains("overlay.qcow2"), "{what}: {said}");
        before.check();
    };
    spoil("cut to half", &|b| b.truncate(b.len() / 2));
    spoil("cut to its header", &|b| b.truncate(512));
    spoil("empty", &|b| b.clear());
    spoil("no magic", &|b| b[0] ^= 1);
    spoil("version", &|b| b[7] = 9);
    spoil("cluster size", &|b| b[23] = 40);
    spoil("L1 table elsewhere", &|b| b[41] = 0x7f);
    spoil("refcounts elsewhere", &|b| b[49] = 0x7f);
    spoil("marked corrupt", &|b| b[79] |= 2);
    spoil("a text file", &|b| *b = b"#!/bin/sh\necho hello\n".repeat(100));
    // A valid qcow2 file that is not ours.
    fs::remove_file(&case.overlay).unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &case.overlay(), "64M"]);
    let said = case.refused(&[]);
    assert!(said.contains("not made by synthdisk"), "{said}");
    fs::write(&case.overlay, &good).unwrap();
    let mount = case.mount();
    assert_eq!(bytes_of(mount.part(1), MIB, MIB as usize), noise(MIB as usize, 3));
    mount.unmount();
    case.untouched.check();
}

#[test]
fn a_mount_that_fails_leaves_no_new_overlay() {
    let case = Case::new();
    let image = case.tiny.image.to_string_lossy();
    let (overlay, missing) = (case.overlay(), case.tiny.file("missing"));
    let missing = missing.to_string_lossy();
    for args in [
        &["mount", "--overlay", &overlay, &*image, &*missing][..],
        &["mount", "--overlay", &overlay, &*missing, "/"],
        &["mount", "--overlay", &overlay, "--entry", "99", &*image, &*missing],
        &["mount", "--overlay", &overlay, "--kernel", &*missing, &*image, "/tmp"],
    ] {
        crate::common::process::expect_failure(args, 1);
        assert!(!case.overlay.exists(), "{args:?} left an overlay");
    }
    let said = case.refused(&["--kernel", "/dev/null"]);
    assert!(!case.overlay.exists(), "{said}");
    let nowhere = case.tiny.file("no/such/dir/o.qcow2");
    expect_no_mount(&["--overlay", &nowhere.to_string_lossy(), &image]);
    case.untouched.check();
}

#[test]
fn discards_give_space_back() {
    let case = Case::new();
    let stored = || fs::metadata(&case.overlay).unwrap().blocks() * 512;
    let mount = case.mount_with(&["--swap", "32M"]);
    let empty = stored();
    let swap = writer(mount.part(2));
    for round in 0..3 {
        write_at(&swap, &noise(24 << 20, round), 4 * MIB);
        swap.sync_all().unwrap();
        assert!(stored() > empty + 24 * MIB);
        run("fallocate", &["-p", "-o", "4M", "-l", "24M", &mount.part(2).to_string_lossy()]);
        swap.sync_all().unwrap();
        assert!(stored() < empty + MIB, "round {round}: {} bytes stay", stored() - empty);
    }
    assert!(fs::metadata(&case.overlay).unwrap().len() < 60 * MIB, "freed clusters are not reused");
    drop(swap);
    mount.unmount();
    case.check();
    case.untouched.check();
}

/// Length in bytes of each thread's own range in [`killed_at_any_moment`].
const OWN: u64 = 4 << 20;

/// For each thread: which blocks of its range it wrote and fsynced, and their contents.
type Kept = Vec<std::collections::BTreeMap<u64, u64>>;

fn all_there(part: &Path, kept: &Kept) {
    let file = writer(part);
    for (thread, mine) in kept.iter().enumerate() {
        for (block, seed) in mine {
            let got = read_at(&file, thread as u64 * OWN + block * 4096, 4096);
            assert!(got == noise(4096, *seed), "thread {thread} lost block {block}");
        }
    }
}

/// How often to repeat a test: `SYNTHDISK_ROUNDS`, which `scripts/soak` sets, or `usual`.
fn rounds(usual: u64) -> u64 {
    std::env::var("SYNTHDISK_ROUNDS").map_or(usual, |n| n.parse().expect("a number of rounds"))
}

/// The server is killed while several threads write; what each had fsynced must be there.
#[test]
fn killed_at_any_moment() {
    let case = Case::new();
    const THREADS: u64 = 3;
    let mut kept: Kept = vec![Default::default(); THREADS as usize];
    for round in 0..rounds(10) {
        let mount = case.mount_with(&["--swap", "16M"]);
        let victim = Pid::from_raw(mount.server_pid());
        let part = mount.part(2);
        all_there(&part, &kept);
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    // Opened here: the daemon may be dead before the thread runs.
                    let (file, mine) = (writer(&part), &kept[thread as usize]);
                    scope.spawn(move || {
                        let mut safe = mine.clone();
                        let mut dice = noise(1 << 16, round << 8 | thread).into_iter().cycle();
                        for step in 0.. {
                            let mut wrote = Vec::new();
                            for _ in 0..8 {
                                let pair = (dice.next().unwrap(), dice.next().unwrap());
                                let block = u64::from(pair.0) << 2 | u64::from(pair.1) & 3;
                                let seed = (round << 40) | (thread << 32) | (step << 12) | block;
                                // Until the next fsync it may be the old or the new contents.
                                safe.remove(&block);
                                let at = thread * OWN + block * 4096;
                                match file.write_all_at(&noise(4096, seed), at) {
                                    Ok(()) => wrote.push((block, seed)),
                                    Err(_) => return safe,
                                }
                            }
                            if file.sync_all().is_err() {
                                return safe;
                            }
                            safe.extend(wrote);
                        }
                        unreachable!("the daemon is killed")
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(40 + round * 37 % 200));
            kill(victim, Signal::SIGKILL).expect("our own daemon");
            threads.into_iter().map(|t| t.join().expect("the thread's own checks")).collect()
        });
        kept = results;
        wait_until("the killed server is gone", || {
            has_ended(victim.as_raw()) && !is_mount_point(mount.dir())
        });
        mount.already_gone();
        case.check();
    }
    assert!(kept.iter().all(|k| k.len() > 10), "hardly anything was written");
    let mount = case.mount();
    all_there(&mount.part(2), &kept);
    mount.unmount();
    case.untouched.check();
}

/// A small filesystem for an overlay, unmounted when dropped.
struct SmallFs(PathBuf);

impl SmallFs {
    fn new(at: PathBuf, size: &str) -> Self {
        fs::create_dir(&at).unwrap();
        let option = format!("size={size}");
        run("mount", &["-t", "tmpfs", "-o", &option, "tmpfs", &at.to_string_lossy()]);
        Self(at)
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        let _ = command("umount").args(["-l"]).arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_under_the_overlay() {
    if !is_root() {
        skip("making a small filesystem needs root");
        return;
    }
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    for persistent in [true, false] {
        let small = SmallFs::new(tiny.file(&format!("small-{persistent}")), "8M");
        let ballast = small.0.join("ballast");
        fs::write(&ballast, vec![1; 3 << 20]).unwrap();
        let overlay = small.0.join("o.qcow2");
        let dir = tiny.file(&format!("mnt-{persistent}"));
        fs::create_dir(&dir).unwrap();
        let mut args = vec!["mount".to_owned(), "--swap".into(), "32M".into()];
        if persistent {
            args.extend(["--overlay".into(), overlay.to_string_lossy().into_owned()]);
        }
        args.extend([&tiny.image, &dir].map(|p| p.to_string_lossy().into_owned()));
        let made = command(SYNTHDISK).args(&args).env("TMPDIR", &small.0).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        let mount = Mount::adopt(&dir);
        let before = daemon(&mount);

        let file = writer(mount.part(2));
        let step = 256 << 10;
        let mut written = 0;
        let error = loop {
            match file.write_all_at(&noise(step, written), MIB + written * step as u64) {
                Ok(()) => written += 1,
                Err(e) => break e,
            }
            if let Err(e) = file.sync_all() {
                break e;
            }
            assert!(written < 100, "the filesystem of 8 MiB is never full");
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        assert!(written > 8, "{written} steps");
        // Further attempts do no harm.
        for i in 0..20 {
            let _: io::Result<()> = file.write_all_at(&noise(4096, i), 24 * MIB + i * 70_000);
        }
        let check = |upto: u64| {
            for i in 0..upto {
                let got = bytes_of(mount.part(2), MIB + i * step as u64, step);
                assert!(got == noise(step, i), "persistent: {persistent}: step {i} is gone");
            }
        };
        check(written - 1);
        assert_eq!(daemon(&mount), before, "the daemon lives");
        run("cmp", &[&tiny.image, &mount.part(1)]);

        fs::remove_file(&ballast).unwrap();
        for i in written - 1..written + 4 {
            write_at(&file, &noise(step, i), MIB + i * step as u64);
        }
        file.sync_all().expect("there is space again");
        check(written + 4);
        drop(file);
        let keep = written;
        mount.unmount();
        if persistent {
            let overlay = overlay.to_string_lossy();
            let result = output("qemu-img", &["check", &overlay]);
            assert!(matches!(result.status.code(), Some(0 | 3)), "{}", text(&result.stdout));
            let mount = Mount::new(&["--overlay", &overlay], &tiny.image);
            for i in 0..keep + 4 {
                let got = bytes_of(mount.part(2), MIB + i * step as u64, step);
                assert!(got == noise(step, i), "step {i} did not come back");
            }
            mount.unmount();
        }
    }
    untouched.check();
}

#[test]
fn a_guests_filesystem_survives_in_the_overlay() {
    if !is_root() {
        skip("mounting needs root");
        return;
    }
    let case = Case::new();
    let dir = case.tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    for round in 0..3u64 {
        let mount = case.mount();
        {
            let device = LoopDev::attach(mount.part(1), false);
            run(
                "mount",
                &["-o".as_ref(), "discard".as_ref(), device.device().as_os_str(), dir.as_os_str()],
            );
            let old = (0..round)
                .all(|r| fs::read(dir.join(format!("f{r}"))).is_ok_and(|b| b == noise(300_000, r)));
            let wrote = fs::write(dir.join(format!("f{round}")), noise(300_000, round));
            run("umount", &[&dir]);
            assert!(old, "round {round}: files of earlier rounds are gone");
            wrote.unwrap();
        }
        run("e2fsck", &["-fn".as_ref(), mount.part(1).as_os_str()]);
        mount.unmount();
        case.check();
    }
    case.untouched.check();
}

/// Bit 63 of the autoclear features: the overlay was closed properly, and its tables' digest holds.
fn is_sealed(path: &Path) -> bool {
    let mut byte = [0];
    fs::File::open(path).unwrap().read_exact_at(&mut byte, 88).unwrap();
    byte[0] & 0x80 != 0
}

/// However a mount ends properly, its overlay is sealed: then any damage to its tables is found. The
/// tests in `src/disk/testing/storage/flips.rs` damage each bit.
#[test]
fn an_overlay_is_sealed_when_a_mount_ends() {
    let case = Case::new();
    for (round, end) in (0..).zip([None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)]) {
        let mount = case.mount_with(&["--swap", "8M"]);
        let disk = writer(mount.part(2));
        write_at(&disk, &noise(5000, 1), round << 20);
        disk.sync_all().unwrap();
        drop(disk);
        assert!(!is_sealed(&case.overlay));
        let (keeper, server) = (daemon(&mount), Pid::from_raw(mount.server_pid()));
        match end {
            None => mount.unmount(),
            Some(signal) => {
                let ended = if signal == Signal::SIGKILL { server } else { keeper };
                kill(ended, signal).expect("our own daemon");
                wait_until("the mount is gone", || {
                    [keeper, server].iter().all(|pid| has_ended(pid.as_raw()))
                        && !is_mount_point(mount.dir())
                });
                mount.already_gone();
            }
        }
        assert_eq!(is_sealed(&case.overlay), end != Some(Signal::SIGKILL), "{end:?}");
    }
    // A mount and a program that only reads accept both; a changed table of a sealed one is refused.
    case.mount().unmount();
    assert!(is_sealed(&case.overlay));
    run("qemu-img", &["check", &case.overlay()]);
    assert!(is_sealed(&case.overlay));
    let file = fs::File::options().read(true).write(true).open(&case.overlay).unwrap();
    let mut entry = [0; 8];
    file.read_exact_at(&mut entry, 48).unwrap();
    let refcount_table = u64::from_be_bytes(entry);
    file.read_exact_at(&mut entry, refcount_table).unwrap();
    let block = u64::from_be_bytes(entry);
    // The refcount of a cluster that is not in use yet.
    file.write_all_at(&[0, 1], block + 8000).unwrap();
    drop(file);
    let said = case.refused(&[]);
    assert!(said.contains("do not match their checksum"), "{said}");
    // A program that writes to it breaks the seal.
    run("qemu-img", &["check", "-r", "all", &case.overlay()]);
    assert!(!is_sealed(&case.overlay));
    case.mount().unmount();
}
