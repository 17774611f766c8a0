//! A guest that changes what it boots, and reboots under the same mount.

use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::{mini_guest, mini_guest_with};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::run;

const BOOT: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(300);

fn start(mount: &Mount, cache: &'static str) -> Guest {
    let mut guest = Guest::builder().disk(Disk::new(mount.disk()).cache(cache)).start();
    guest.login("root", "root", BOOT);
    guest
}

fn reboot(guest: &mut Guest) {
    guest.reboot(BOOT);
    guest.login("root", "root", BOOT);
}

/// Puts `word` at the end of each kernel line of menu.lst.
fn add_to_cmdline(guest: &mut Guest, word: &str) {
    guest.run_ok(&format!("sed -i 's|^kernel .*|& {word}|' /boot/grub/menu.lst"));
}

fn assert_cmdline(guest: &mut Guest, word: &str, there: bool) {
    let cmdline = guest.run_ok("cat /proc/cmdline");
    assert_eq!(cmdline.split_whitespace().any(|w| w == word), there, "{word} in {cmdline}");
}

/// Installs copies of kernel and initrd under new names, as a package's update does, removes the
/// old ones, and lets other data have their blocks. The new initrd holds `note`.
pub(super) fn install(guest: &mut Guest, name: &str, note: &str) {
    guest.run_ok("cp /boot/vmlinuz-* /tmp/vmlinuz && cp /boot/initrd.img-* /tmp/initrd");
    guest.run_ok(&format!("echo '{note}' >/tmp/note"));
    guest.run_ok("cd /tmp && echo note | cpio -o -H newc | gzip >>/tmp/initrd; cd /");
    // The new files first: theirs are other blocks.
    guest.run_ok(&format!("cp /tmp/vmlinuz /boot/new-vmlinuz-{name}"));
    guest.run_ok(&format!("cp /tmp/initrd /boot/new-initrd.img-{name}"));
    guest.run_ok("rm /tmp/vmlinuz /tmp/initrd /boot/vmlinuz-* /boot/initrd.img-*");
    guest.run_ok(&format!("mv /boot/new-vmlinuz-{name} /boot/vmlinuz-{name}"));
    guest.run_ok(&format!("mv /boot/new-initrd.img-{name} /boot/initrd.img-{name}"));
    guest.run_ok(&format!(
        "sed -i -e 's|/boot/vmlinuz-[^ ]*|/boot/vmlinuz-{name}|' \
         -e 's|/boot/initrd.img-[^ ]*|/boot/initrd.img-{name}|' /boot/grub/menu.lst && sync"
    ));
    // Fill what is free, then give it back.
    let fill = "yes overwritten | head -c 1000000 >/tmp/fill; \
                while cat /tmp/fill >>/root/fill; do :; done; sync; rm /root/fill /tmp/fill; sync";
    guest.try_run(fill, LONG).unwrap_or_else(|e| panic!("{e}"));
}

fn boots_what_is_installed(cache: &'static str) {
    // Small, so that filling it up is quick.
    let image = mini_guest_with(&["--size", "96M"]);
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let overlay = dir.path().join("overlay.qcow2");
    let overlay = overlay.to_str().expect("UTF-8");
    let mount = Mount::new(&["--overlay", overlay], &image);
    let mut guest = start(&mount, cache);

    add_to_cmdline(&mut guest, "marker=1");
    assert_cmdline(&mut guest, "marker=1", false);
    reboot(&mut guest);
    assert_cmdline(&mut guest, "marker=1", true);

    for (name, note) in [("first", "from the first"), ("second", "from the second")] {
        install(&mut guest, name, note);
        guest.reboot(BOOT);
        guest.expect(&format!("initramfs: note: {note}"), BOOT);
        guest.login("root", "root", BOOT);
        assert_cmdline(&mut guest, "marker=1", true);
    }

    // The same file, length and blocks, with other bytes. gzip's checksum does not cover cpio, and
    // the note was appended, so the two archives in a row are replaced by themselves.
    guest.run_ok("cp /boot/initrd.img-second /tmp/initrd && echo 'from the spot' >/tmp/note");
    guest.run_ok("cd /tmp && echo note | cpio -o -H newc | gzip >>/tmp/initrd; cd /");
    guest.run_ok("cat /tmp/initrd >/boot/initrd.img-second && sync");
    guest.reboot(BOOT);
    guest.expect("initramfs: note: from the spot", BOOT);
    guest.login("root", "root", BOOT);
    guest.poweroff_and_wait(BOOT);

    mount.fsck();
    mount.unmount();
    run("qemu-img", &["check", overlay]);
    // A later mount looks through the overlay.
    let mount = Mount::new(&["--overlay", overlay], &image);
    assert!(mount.printed().contains("/boot/initrd.img-second"), "{}", mount.printed());
    assert!(mount.printed().contains("marker=1"), "{}", mount.printed());
    mount.unmount();
    untouched.check();
}

/// The gap's pages are in the host's page cache from the boot before.
#[test]
#[ignore = "boots QEMU"]
fn without_a_kernel_the_loader_says_so() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let mount = Mount::new(&[], &image);
    let mut guest = start(&mount, "writeback");
    guest.run_ok("rm /boot/vmlinuz-* /vmlinuz && sync");
    guest.reboot(BOOT);
    let said = guest.expect("synthdisk: ", BOOT) + &guest.expect("\r\n", BOOT);
    let line = said.lines().last().unwrap_or_default();
    eprintln!("{line}");
    assert!(line.contains("kernel"), "{line}");
    // It stops there.
    assert!(guest.try_expect("Linux version", Duration::from_secs(5)).is_err());
    assert_eq!(guest.console().matches("synthdisk: ").count(), 2, "{}", guest.console());
    guest.kill();
    mount.unmount();
    untouched.check();
}

/// A guest may write its partition table; the overlay then keeps the MBR as it is at that moment.
#[test]
#[ignore = "boots QEMU"]
fn a_guest_that_writes_its_partition_table_boots_what_is_installed() {
    let image = mini_guest_with(&["--size", "96M"]);
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let overlay = dir.path().join("overlay.qcow2");
    let overlay = overlay.to_str().expect("UTF-8");
    let mount = Mount::new(&["--overlay", overlay], &image);
    let mut guest = start(&mount, "none");

    // The same sector, and with it its cluster in the overlay.
    guest.run_ok("dd if=/dev/vda of=/tmp/mbr count=1 && dd if=/tmp/mbr of=/dev/vda conv=fsync");
    reboot(&mut guest);
    add_to_cmdline(&mut guest, "marker=1");
    reboot(&mut guest);
    assert_cmdline(&mut guest, "marker=1", true);

    // A real change: the swap partition goes.
    assert!(guest.run_ok("ls /dev").contains("vda2"));
    guest.run_ok("swapoff -a; printf 'd\\n2\\nw\\n' | fdisk /dev/vda; sync");
    reboot(&mut guest);
    assert!(!guest.run_ok("ls /dev").contains("vda2"));
    install(&mut guest, "new", "after fdisk");
    guest.reboot(BOOT);
    guest.expect("initramfs: note: after fdisk", BOOT);
    guest.login("root", "root", BOOT);
    assert_cmdline(&mut guest, "marker=1", true);
    guest.poweroff_and_wait(BOOT);

    mount.fsck();
    mount.unmount();
    run("qemu-img", &["check", overlay]);
    untouched.check();
}

/// Only in `scripts/test --matrix`.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU"]
    fn a_new_kernel_boots_with_cache_writeback() {
        boots_what_is_installed("writeback");
    }

    #[test]
    #[ignore = "boots QEMU"]
    fn a_new_kernel_boots_with_cache_none() {
        boots_what_is_installed("none");
    }
}
