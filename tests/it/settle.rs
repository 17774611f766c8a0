//! `synthdisk settle`: a QEMU without a guest writes to its disk by commands.

mod kills;
mod machine;
mod refusals;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::common::hash::sha256;
use crate::common::mount::Mount;
use crate::common::overlay::Case;
use crate::common::process::{SYNTHDISK, output, run, text};
use crate::common::tiny::fake_kernel;
use machine::Machine;
use serde_json::json;

const MIB: u64 = 1 << 20;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The arguments that settle the guest whose QEMU listens on `socket`.
fn settle<'a>(socket: &'a Path, mount: &'a Mount, out: &'a Path) -> Vec<&'a str> {
    vec!["settle", arg(mount.dir()), "--qmp", arg(socket), "-o", arg(out)]
}

/// The disk in `out` has the same bytes as the mount. QEMU may hold locks on both.
fn assert_same(mount: &Mount, out: &Path, format: &str) {
    let copy = out.with_extension("copy");
    fs::copy(out, &copy).unwrap();
    run("qemu-img", &["compare", "-U", "-f", "raw", arg(&mount.disk()), "-F", format, arg(&copy)]);
    fs::remove_file(&copy).unwrap();
}

#[test]
fn a_guest_goes_on_from_a_file() {
    for format in ["raw", "qcow2"] {
        let case = Case::new();
        let mount = case.mount_with(&["--swap", "64M"]);
        let mut machine = Machine::start(&mount);
        machine.write(9 * MIB, 0x11, 300_032);
        machine.write(30 * MIB, 0x22, 4096);
        let out = case.tiny.file(&format!("out.{format}"));
        let mut args = settle(&machine.socket, &mount, &out);
        args.extend(["--format", format]);
        let done = run(SYNTHDISK, &args);
        assert_eq!(text(&done.stdout).trim(), arg(&out));
        let said = text(&done.stderr);
        assert!(said.contains("settled: the guest was paused for"), "{said}");
        assert!(said.contains("warning: this disk always boots the kernel"), "{said}");
        assert!(machine.is_running());
        // It has nothing of the mount open any more, so that can end.
        assert_eq!(machine.open_files(mount.dir()), [""; 0]);
        machine.lock_free(|| assert_same(&mount, &out, format));
        mount.unmount();
        // The image's permissions, and holes for what is zero.
        let meta = fs::metadata(&out).unwrap();
        assert_eq!(meta.permissions().mode() & 0o077, 0o644 & 0o077 & !umask());
        assert!(meta.blocks() * 512 < 8 * MIB, "{}", meta.blocks());
        machine.write(40 * MIB, 0x33, 65536);
        machine.quit();
        let raw = case.tiny.file("read.raw");
        run("qemu-img", &["convert", "-f", format, "-O", "raw", arg(&out), arg(&raw)]);
        let bytes = fs::read(&raw).unwrap();
        let at = |at: u64, len: usize| &bytes[at as usize..at as usize + len];
        assert!(at(9 * MIB, 300_032).iter().all(|b| *b == 0x11));
        assert!(at(30 * MIB, 4096).iter().all(|b| *b == 0x22));
        assert!(at(40 * MIB, 65536).iter().all(|b| *b == 0x33));
        if format == "qcow2" {
            run("qemu-img", &["check", "-q", arg(&out)]);
        }
        case.untouched.check();
    }
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|l| l.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(mask.trim(), 8).unwrap()
}

/// The boot gap shows another kernel at the end than when it was copied.
#[test]
fn the_boot_gap_is_that_of_the_last_moment() {
    for format in ["raw", "qcow2"] {
        let case = Case::new();
        let mount = case.mount_with(&["--swap", "64M"]);
        let mut machine = Machine::start(&mount);
        let before = sha256(mount.disk());
        let changes = install(&case, &mount);
        let start = mount_start(&mount);
        let out = case.tiny.file(&format!("out.{format}"));
        let mut args = settle(&machine.socket, &mount, &out);
        args.extend(["--format", format, "--rate", "64K"]);
        let mut child = machine.spawn(&args);
        let job = machine.await_job();
        // The gap is at the start of the disk, and copied first.
        machine.await_progress(&job, start);
        for (offset, bytes) in changes {
            machine.write_bytes(start + offset, &bytes);
        }
        assert!(!out.exists());
        machine.execute("block-job-set-speed", json!({ "device": job, "speed": 0 }));
        assert!(child.wait().unwrap().success());
        assert_ne!(sha256(mount.disk()), before);
        machine.lock_free(|| assert_same(&mount, &out, format));
        machine.quit();
        mount.unmount();
        case.untouched.check();
    }
}

/// The blocks of the first partition, with their offsets, that change when a guest installs another
/// kernel.
fn install(case: &Case, mount: &Mount) -> Vec<(u64, Vec<u8>)> {
    let (old, new) = (case.tiny.file("old.img"), case.tiny.file("new.img"));
    fs::copy(mount.part(1), &old).unwrap();
    fs::copy(&old, &new).unwrap();
    let (kernel, commands) = (case.tiny.file("kernel"), case.tiny.file("commands"));
    fs::write(&kernel, fake_kernel(2)).unwrap();
    let script = format!("rm /boot/vmlinuz-1\nwrite {} /boot/vmlinuz-1\n", arg(&kernel));
    fs::write(&commands, script).unwrap();
    run("debugfs", &["-w", "-f", arg(&commands), arg(&new)]);
    let (old, new) = (fs::read(old).unwrap(), fs::read(new).unwrap());
    let blocks = old.chunks(4096).zip(new.chunks(4096)).enumerate();
    let changed = blocks.filter(|(_, (old, new))| old != new);
    let changed: Vec<_> = changed.map(|(i, (_, new))| (i as u64 * 4096, new.to_vec())).collect();
    assert!(changed.len() > 50, "{}", changed.len());
    changed
}

/// Where the first partition starts, in bytes.
fn mount_start(mount: &Mount) -> u64 {
    let table = text(&output("sfdisk", &["-d", arg(&mount.disk())]).stdout);
    let start = table.split("start=").nth(1).unwrap().split(',').next().unwrap();
    start.trim().parse::<u64>().unwrap() * 512
}
