//! The small guest on the disk that synthdisk shows: buses, cache modes, memory, ways to choose
//! what boots.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use crate::common::console::{Bus, Disk, Guest};
use crate::common::guests::{extract_kernel, mini_guest, mini_guest_with};
use crate::common::hash::Untouched;
use crate::common::mount::{Mount, is_mount_point};
use crate::common::process::{SYNTHDISK, command, is_root, run, skip, text};

/// Five to ten seconds on an idle machine under TCG.
const BOOT: Duration = Duration::from_secs(120);

fn log_in(mut guest: Guest) -> Guest {
    guest.login("root", "root", BOOT);
    guest
}

/// Boots, writes, reboots and powers off; for both cache modes.
fn boots_from(bus: Bus, device: &str) {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&[], &image);
    for cache in ["none", "writeback"] {
        let guest = Guest::builder().disk(Disk::new(mount.disk()).bus(bus).cache(cache));
        let mut guest = log_in(guest.start());
        eprintln!("{bus:?}, cache={cache}: shell after {:?}", guest.uptime());
        let mounts = guest.run_ok("cat /proc/mounts /proc/cmdline");
        assert!(mounts.contains("root=UUID="), "{mounts}");
        let shown = guest.console();
        assert!(shown.contains(&format!(" is /dev/{device}1")), "{shown}");
        assert!(guest.run_ok("cat /proc/swaps").contains(&format!("/dev/{device}2")));
        guest.run_ok(&format!("echo {cache} >>/root/file && sync"));
        guest.poweroff_and_wait(BOOT);
    }
    assert_eq!(mount.guest_file("/root/file").as_deref(), Some("none\nwriteback\n"));
    mount.fsck();
    mount.unmount();
    untouched.check();
}

#[test]
#[ignore = "boots QEMU"]
fn boots_from_virtio() {
    boots_from(Bus::Virtio, "vda");
}

#[test]
#[ignore = "boots QEMU"]
fn a_kernel_of_the_host_boots() {
    // The guest's own kernel would panic: there is no way to its root.
    let image = mini_guest_with(&["--cmdline", "root=/dev/nowhere of=theguest"]);
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (kernel, initrd) = extract_kernel(&image, dir.path());
    let (kernel, initrd) = (kernel.to_string_lossy(), initrd.to_string_lossy());
    let options = ["--kernel", &kernel, "--initrd", &initrd, "--append", "of=thehost"];
    let mount = Mount::new(&options, &image);
    let mut guest = log_in(Guest::builder().disk(Disk::new(mount.disk())).start());
    let cmdline = guest.run_ok("cat /proc/cmdline");
    assert!(cmdline.contains("of=thehost") && !cmdline.contains("of=theguest"), "{cmdline}");
    guest.poweroff_and_wait(BOOT);
    mount.unmount();
    untouched.check();
}

/// Without an initramfs the kernel itself must find its root; NVMe is built into it.
#[test]
#[ignore = "boots QEMU"]
fn a_guest_without_initrd_boots_by_partuuid() {
    let image = mini_guest_with(&["--no-initrd"]);
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&["--disk-id", "0badcafe"], &image);
    let mut guest = log_in(Guest::builder().disk(Disk::new(mount.disk()).bus(Bus::Nvme)).start());
    let cmdline = guest.run_ok("cat /proc/cmdline");
    assert!(cmdline.contains("root=PARTUUID=0badcafe-01"), "{cmdline}");
    guest.poweroff_and_wait(BOOT);
    mount.unmount();
    untouched.check();
}

#[test]
#[ignore = "boots QEMU"]
fn an_entry_of_the_menu_can_be_chosen() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&["--entry", "1"], &image);
    assert!(mount.printed().contains("(Single-User)"), "{}", mount.printed());
    let mut guest = log_in(Guest::builder().disk(Disk::new(mount.disk())).start());
    let cmdline = guest.run_ok("cat /proc/cmdline");
    assert!(cmdline.split_whitespace().any(|w| w == "single"), "{cmdline}");
    guest.poweroff_and_wait(BOOT);
    mount.unmount();
    untouched.check();
}

#[test]
#[ignore = "boots QEMU"]
fn a_read_only_disk_boots_with_qemus_snapshot() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&["--read-only"], &image);
    let mut guest = log_in(Guest::builder().disk(Disk::new(mount.disk()).snapshot()).start());
    guest.run_ok("echo kept by QEMU >/root/file && sync");
    guest.poweroff_and_wait(BOOT);
    assert_eq!(mount.guest_file("/root/file"), None);
    mount.unmount();
    untouched.check();
}

/// Everything as a user without privileges: the files, the mount, QEMU.
#[test]
#[ignore = "boots QEMU"]
fn a_plain_user_mounts_and_boots() {
    /// Debian's "nobody".
    const USER: u32 = 65534;
    if !is_root() {
        // Then all other tests show it.
        skip("run by a plain user already");
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    chown(home.path(), Some(USER), Some(USER)).expect("root may chown");
    // The cache and the build may lie where others can't look.
    let own = |from: &Path, name: &str| {
        let to = home.path().join(name);
        run("cp", &["--sparse=always".as_ref(), from.as_os_str(), to.as_os_str()]);
        chown(&to, Some(USER), Some(USER)).expect("root may chown");
        to
    };
    let image = own(&mini_guest(), "image");
    let synthdisk = own(Path::new(SYNTHDISK), "synthdisk");
    let untouched = Untouched::remember(&image);
    let as_user = |args: &[&Path]| {
        let mut command = command(&synthdisk);
        let command = command.args(args).uid(USER).gid(USER).current_dir("/");
        let result = command.output().expect("our own binary");
        assert!(result.status.success(), "{args:?}: {}", text(&result.stderr));
    };
    let dir = home.path().join("mnt");
    fs::create_dir(&dir).expect("mkdir in our own directory");
    chown(&dir, Some(USER), Some(USER)).expect("root may chown");

    as_user(&["mount".as_ref(), &image, &dir]);
    // Root may not look into another user's FUSE mount, so QEMU is the one to tell.
    let disk = Disk::new(dir.join("disk.raw"));
    let guest = Guest::builder().disk(disk).user(USER).start();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let mut guest = log_in(guest);
        guest.run_ok("echo hello >/root/file && sync");
        guest.reboot(BOOT);
        guest = log_in(guest);
        assert_eq!(guest.run_ok("cat /root/file"), "hello");
        guest.poweroff_and_wait(BOOT);
    }));
    as_user(&["umount".as_ref(), &dir]);
    assert!(!is_mount_point(&dir));
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    untouched.check();
}

/// Nothing keeps what is written without `--overlay`.
#[test]
#[ignore = "boots QEMU"]
fn a_temporary_overlay_forgets() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&[], &image);
    let mut guest = log_in(Guest::builder().disk(Disk::new(mount.disk())).start());
    guest.run_ok("echo gone >/root/file && sync");
    guest.poweroff_and_wait(BOOT);
    mount.fsck();
    assert_eq!(mount.guest_file("/root/file").as_deref(), Some("gone\n"));
    mount.unmount();

    let mount = Mount::new(&[], &image);
    assert_eq!(mount.guest_file("/root/file"), None);
    mount.unmount();
    untouched.check();
}

/// What other tests boot in another way; only in `scripts/test --matrix`.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU"]
    fn boots_from_ide() {
        boots_from(Bus::Ide, "sda");
    }

    #[test]
    #[ignore = "boots QEMU"]
    fn boots_from_nvme() {
        boots_from(Bus::Nvme, "nvme0n1p");
    }

    #[test]
    #[ignore = "boots QEMU"]
    fn boots_from_scsi() {
        boots_from(Bus::Scsi, "sda");
    }

    #[test]
    #[ignore = "boots QEMU"]
    fn boots_with_128_mib() {
        let image = mini_guest();
        let untouched = Untouched::remember(&image);
        let mount = Mount::new(&[], &image);
        let mut guest = log_in(Guest::builder().disk(Disk::new(mount.disk())).memory(128).start());
        assert!(guest.run_ok("grep MemTotal /proc/meminfo").contains("kB"));
        guest.poweroff_and_wait(BOOT);
        mount.unmount();
        untouched.check();
    }
}
