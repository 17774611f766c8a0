//! `synthdisk finalize --force` of a mount that is being written: a crash-consistent snapshot.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::common::file::{bytes_of, write_at, writer};
use crate::common::lanes::{block, last_write};
use crate::common::mount::Mount;
use crate::common::overlay::{Case, daemon};
use crate::common::process::{
    SYNTHDISK, command, expect_failure, is_root, output, run, skip, text,
};
use nix::sys::signal::{Signal, kill};

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
/// The lane lies in the swap partition: 64 MiB of gap, 16 MiB of root before it.
const LANE: u64 = 81 * MIB;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Does `work` while a thread writes to a lane of `blocks`; `work` learns how far that is.
fn beside_a_writer<T>(mount: &Mount, blocks: u64, work: impl FnOnce(&AtomicU64) -> T) -> T {
    let (done, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let disk = writer(mount.disk());
    for i in 0..blocks / 256 {
        write_at(&disk, &vec![0; 256 * PAGE], LANE + i * 256 * PAGE as u64);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                write_at(&disk, &block(n, PAGE), LANE + (n - 1) % blocks * PAGE as u64);
                acknowledged.store(n, Ordering::SeqCst);
            }
        });
        while acknowledged.load(Ordering::SeqCst) < 10 {
            std::thread::yield_now();
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&acknowledged)));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Another mount whose server does not answer, with a file open in it, as any user can have.
#[test]
fn a_silent_server_of_another_mount() {
    let (silent, case) = (Case::new(), Case::new());
    let other = silent.mount();
    let open = fs::File::open(other.disk()).unwrap();
    let server = daemon(&other);
    let mount = case.mount();
    kill(server, Signal::SIGSTOP).unwrap();
    let out = case.tiny.file("out.raw");
    let args = ["60", SYNTHDISK, "finalize", arg(mount.dir()), "-o", arg(&out)];
    let done = output("timeout", &args);
    kill(server, Signal::SIGCONT).unwrap();
    drop(open);
    assert!(done.status.success(), "{}", text(&done.stderr));
    other.unmount();
    mount.unmount();
}

#[test]
fn a_mount_that_is_written_to() {
    const BLOCKS: u64 = 1024;
    let case = Case::new();
    let mount = case.mount_with(&["--swap", "16M"]);
    let out = case.tiny.file("out.raw");
    let qcow2 = case.tiny.file("out.qcow2");
    let part = case.tiny.file("part2.img");
    beside_a_writer(&mount, BLOCKS, |acknowledged| {
        let said = expect_failure(&["finalize", arg(mount.dir()), "-o", arg(&out)], 1);
        assert!(said.contains("--force") && said.contains("crash-consistent"), "{said}");
        assert!(!out.exists());
        for (target, more) in [
            (&out, &["--verify", "--checksum"][..]),
            (&qcow2, &["--format", "qcow2", "--verify"]),
            (&part, &["--partition", "2", "--verify"]),
        ] {
            let before = acknowledged.load(Ordering::SeqCst);
            let args = ["finalize", "--force", arg(mount.dir()), "-o", arg(target)];
            let done = output(SYNTHDISK, &[&args[..], more].concat());
            let said = text(&done.stderr);
            assert!(done.status.success(), "{said}");
            assert!(said.contains("is a crash-consistent snapshot"), "{said}");
            let after = acknowledged.load(Ordering::SeqCst);
            let mut file = target.clone();
            if target == &qcow2 {
                run("qemu-img", &["check", arg(&qcow2)]);
                file = case.tiny.file("back.raw");
                run("qemu-img", &["convert", "-O", "raw", arg(&qcow2), arg(&file)]);
            }
            let at = if target == &part { LANE - 80 * MIB } else { LANE };
            let lane = bytes_of(&file, at, BLOCKS as usize * PAGE);
            let last = last_write(lane.chunks(PAGE)).unwrap();
            assert!((before..=after).contains(&last), "{last} not in {before}..={after}");
            assert!(after > before + 50, "only {} writes meanwhile", after - before);
        }
    });
    // Without a writer it works as before.
    fs::remove_file(&out).unwrap();
    run(SYNTHDISK, &["finalize", "--verify", arg(mount.dir()), "-o", arg(&out)]);
    mount.unmount();
    case.check();
    case.untouched.check();
}

/// The guest goes on; finalize fails with the reason and leaves nothing.
#[test]
fn a_snapshot_that_cannot_be_kept() {
    const BLOCKS: u64 = 25 << 10;
    if !is_root() {
        skip("mounting needs root");
        return;
    }
    let case = Case::new();
    let small = case.tiny.file("small");
    let dir = case.tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&small).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", arg(&small)]);
    let mut mounting = command(SYNTHDISK);
    mounting.env("TMPDIR", &small).args(["mount", "--swap", "110M", "--overlay", &case.overlay()]);
    let result = mounting.arg(&case.tiny.image).arg(&dir).output().unwrap();
    assert!(result.status.success(), "{}", text(&result.stderr));
    let mount = Mount::adopt(&dir);
    let out_dir = case.tiny.file("results");
    fs::create_dir(&out_dir).unwrap();
    let out = out_dir.join("out.raw");
    beside_a_writer(&mount, BLOCKS, |acknowledged| {
        let before = acknowledged.load(Ordering::SeqCst);
        let result = output(SYNTHDISK, &["finalize", "-q", "--force", arg(&dir), "-o", arg(&out)]);
        let said = text(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{said}");
        assert!(said.contains("could not be kept") && said.contains("TMPDIR"), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(acknowledged.load(Ordering::SeqCst) > before);
    });
    assert_eq!(fs::read_dir(&out_dir).unwrap().count(), 0);
    mount.unmount();
    run("umount", &["-l", arg(&small)]);
    case.check();
    case.untouched.check();
}
