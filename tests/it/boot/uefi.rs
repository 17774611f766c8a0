//! Guests under UEFI firmware (package ovmf), and disks that boot under a BIOS too.

use std::path::Path;
use std::time::Duration;

use crate::common::console::{Disk, Guest, GuestBuilder};
use crate::common::guests::{domu, extract_kernel, mini_guest, mini_guest_with};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, run};

/// Ten to fifteen seconds on an idle machine under TCG: the firmware takes some of them.
const BOOT: Duration = Duration::from_secs(150);
/// A whole Debian.
const LONG: Duration = Duration::from_secs(400);

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn on(disk: impl Into<std::path::PathBuf>) -> GuestBuilder {
    Guest::builder().disk(Disk::new(disk).cache("writeback"))
}

/// The loader has said once that it loads Linux, and the guest runs with UEFI.
fn log_in_under_uefi(guest: &mut Guest, limit: Duration) {
    guest.expect("synthdisk: loading Linux", limit);
    guest.login("root", "root", limit);
    guest.run_ok("test -d /sys/firmware/efi");
}

/// One mount, one disk: UEFI starts it, then a BIOS; the guest has replaced its kernel in between.
#[test]
#[ignore = "boots QEMU"]
fn both_kinds_of_firmware_boot_one_disk_and_a_new_kernel() {
    let image = mini_guest_with(&["--size", "96M"]);
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&["--firmware", "both"], &image);
    let mut guest = on(mount.disk()).uefi().start();
    log_in_under_uefi(&mut guest, BOOT);
    let said = guest.console();
    assert_eq!(said.matches("synthdisk: loading Linux").count(), 1, "printed once");
    super::new_kernel::install(&mut guest, "second", "from the second");
    guest.reboot(BOOT);
    guest.expect("initramfs: note: from the second", BOOT);
    guest.login("root", "root", BOOT);
    guest.run_ok("test -d /sys/firmware/efi");
    guest.poweroff_and_wait(BOOT);

    let mut guest = on(mount.disk()).start();
    guest.expect("initramfs: note: from the second", BOOT);
    guest.login("root", "root", BOOT);
    guest.run_ok("test ! -d /sys/firmware/efi");
    guest.poweroff_and_wait(BOOT);
    mount.unmount();
    untouched.check();
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU"]
    fn a_finalized_file_boots() {
        let image = mini_guest();
        let untouched = Untouched::remember(&image);
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let out = dir.path().join("out.raw");
        let options = ["--firmware", "uefi", "--bootloader", "direct"];
        let result = [arg(&image), "-o", arg(&out)];
        run(SYNTHDISK, &[&["finalize", "-q"], &options[..], &result].concat());
        let mut guest = on(&out).uefi().start();
        log_in_under_uefi(&mut guest, BOOT);
        guest.poweroff_and_wait(BOOT);
        untouched.check();
    }

    /// Kernels before Linux 5.8 say so in their header; this one is a newer one that says the same.
    #[test]
    #[ignore = "boots QEMU"]
    fn by_the_handover_protocol() {
        let image = mini_guest();
        let untouched = Untouched::remember(&image);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (kernel, initrd) = extract_kernel(&image, dir.path());
        let mut bytes = std::fs::read(&kernel).expect("our own file");
        let pe = usize::from(u16::from_le_bytes([bytes[0x3c], bytes[0x3d]]));
        assert_eq!((&bytes[pe..pe + 4], bytes[pe + 69]), (&b"PE\0\0"[..], 0));
        assert!(bytes[pe + 68] > 0, "the test kernel takes its initrd by LoadFile2");
        bytes[pe + 68] = 0;
        let old = dir.path().join("old");
        std::fs::write(&old, bytes).expect("our own file");
        let options = ["--firmware", "uefi", "--kernel", arg(&old), "--initrd", arg(&initrd)];
        let mount = Mount::new(&[&options[..], &["--append", "of=thehost"]].concat(), &image);
        let mut guest = on(mount.disk()).uefi().start();
        log_in_under_uefi(&mut guest, BOOT);
        guest.run_ok("grep -q of=thehost /proc/cmdline");
        guest.poweroff_and_wait(BOOT);
        mount.unmount();
        untouched.check();
    }

    /// What the host has to say is printed, and the loader waits.
    #[test]
    #[ignore = "boots QEMU"]
    fn without_a_kernel_the_loader_says_so() {
        let image = mini_guest();
        let untouched = Untouched::remember(&image);
        let mount = Mount::new(&["--firmware", "uefi"], &image);
        let mut guest = on(mount.disk()).uefi().start();
        log_in_under_uefi(&mut guest, BOOT);
        guest.run_ok("rm /boot/vmlinuz-* /vmlinuz && sync");
        guest.reboot(BOOT);
        let said = guest.expect("synthdisk: ", BOOT) + &guest.expect("\r\n", BOOT);
        let line = said.lines().last().unwrap_or_default();
        assert!(line.contains("kernel") && !line.contains("loading"), "{line}");
        guest.kill();
        mount.unmount();
        untouched.check();
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_domu() {
        let domu = domu("bookworm");
        let untouched = Untouched::remember(&domu.disk);
        let mount = Mount::of(&["--firmware", "both", "--config", arg(&domu.config)], &[]);
        let mut guest = on(mount.disk()).memory(512).cpus(2).uefi().start();
        log_in_under_uefi(&mut guest, LONG);
        guest.poweroff_and_wait(LONG);
        mount.unmount();
        untouched.check();
    }

    /// The host's GRUB in the EFI system partition, by the guest's own menu; the BIOS's GRUB on the
    /// same disk.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn grub_boots_a_domu() {
        let domu = domu("bookworm");
        let untouched = Untouched::remember(&domu.disk);
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let out = dir.path().join("out.raw");
        let args = ["finalize", "-q", "--firmware", "both", "--config", arg(&domu.config)];
        run(SYNTHDISK, &[&args[..], &["--append", "marker=1", "-o", arg(&out)]].concat());
        for uefi in [true, false] {
            let builder = on(&out).memory(512).cpus(2);
            let mut guest = if uefi { builder.uefi() } else { builder }.start();
            guest.expect("GNU GRUB", BOOT);
            guest.login("root", "root", LONG);
            let has = if uefi { "-d" } else { "! -d" };
            guest.run_ok(&format!("test {has} /sys/firmware/efi"));
            let cmdline = guest.run_ok("cat /proc/cmdline");
            let fits = cmdline.contains("root=UUID=") && cmdline.contains("console=ttyS0");
            assert!(fits && !cmdline.contains("hvc0") && cmdline.contains("marker=1"), "{cmdline}");
            guest.poweroff_and_wait(LONG);
        }
        untouched.check();
    }
}
