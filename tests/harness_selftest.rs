//! The boot harness tests itself: the small guest, started by QEMU and not by synthdisk, must come
//! up. When these fail, a failing boot test says nothing about synthdisk.

mod common;

use std::time::Duration;

use common::console::{Bus, Disk, Guest, plain};
use common::guests::{extract_kernel, mini_guest};
use common::hash::Untouched;

const BOOT: Duration = Duration::from_secs(120);

/// Boots the bare image on `bus`, uses the shell, and powers off.
fn boot_bare_image(bus: Bus, root: &str) {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (kernel, initrd) = extract_kernel(&image, dir.path());
    let mut guest = Guest::builder()
        .kernel(&kernel, Some(&initrd), &format!("root={root} ro console=ttyS0"))
        .disk(Disk::new(&image).bus(bus).snapshot())
        .no_reboot()
        .start();
    guest.expect("Linux version", BOOT);
    let kernel_at = guest.uptime();
    guest.login("root", "root", BOOT);
    eprintln!("{bus:?}: first kernel line {kernel_at:?}, shell {:?}", guest.uptime());

    assert_eq!(guest.run("echo one; echo two >&2; (exit 7)"), (7, "one\ntwo".to_string()));
    guest.run_ok("echo hello >/root/file && sync");
    assert_eq!(guest.run_ok("cat /root/file"), "hello");
    // Longer than any terminal line is wide, and with more output than one pipe buffer.
    let word = "x".repeat(1000);
    assert_eq!(guest.run_ok(&format!("echo {word}")), word);
    assert_eq!(guest.run_ok("seq 1 2000").lines().count(), 2000);
    guest.poweroff_and_wait(Duration::from_secs(60));
    untouched.check();
}

#[test]
#[ignore = "boots QEMU"]
fn mini_guest_boots_on_virtio() {
    boot_bare_image(Bus::Virtio, "/dev/vda");
}

#[test]
#[ignore = "boots QEMU"]
fn mini_guest_boots_on_ide_by_uuid() {
    boot_bare_image(Bus::Ide, "UUID=6d696e69-6775-4573-8074-6b65726e656c");
}

#[test]
#[ignore = "boots QEMU"]
fn mini_guest_boots_on_nvme_by_label() {
    boot_bare_image(Bus::Nvme, "LABEL=mini");
}

#[test]
#[ignore = "boots QEMU"]
fn mini_guest_boots_on_scsi() {
    boot_bare_image(Bus::Scsi, "/dev/sda");
}

#[test]
fn a_wait_ends_when_qemu_does() {
    let mut guest = Guest::builder().args(&["-this-is-no-option"]).start();
    let error = guest.try_expect("login:", Duration::from_secs(60)).expect_err("QEMU refuses");
    assert!(error.contains("QEMU ended"), "{error}");
    assert!(guest.uptime() < Duration::from_secs(30));
}

#[test]
fn control_sequences_are_taken_out() {
    assert_eq!(plain("a\x1b[6nb\r\n\x1b[1;31mc\x1b[0m"), "ab\nc");
}
