//! The boot harness tests itself: the small guest, started by QEMU and not by synthdisk, must come
//! up. When these fail, a failing boot test says nothing about synthdisk.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::time::Duration;

use crate::common::console::{Bus, Disk, Guest, plain};
use crate::common::guests::{domu, extract_kernel, mini_guest, mini_guest_with, test_kernel};
use crate::common::hash::Untouched;
use crate::common::mount::LoopDev;
use crate::common::process::{is_root, output, run, run_text, skip};

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
    // Longer than a terminal line, and with more output than a pipe buffer holds.
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

/// The same disk, made by copying: shows that the guest copes with such a partition table.
#[test]
#[ignore = "boots QEMU"]
fn mini_guest_boots_from_a_partition_and_reboots() {
    const SECTOR: u64 = 512;
    let image = mini_guest();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (kernel, initrd) = extract_kernel(&image, dir.path());
    let sectors = fs::metadata(&image).expect("the image is there").len() / SECTOR;
    let (start, swap_sectors) = (2048, 64 << 11);
    let swap_start = start + sectors;
    let disk = dir.path().join("disk, copied.raw");
    let mut file = File::create(&disk).expect("a file in our own directory");
    file.set_len((swap_start + swap_sectors) * SECTOR).expect("a sparse file");
    file.seek(SeekFrom::Start(start * SECTOR)).expect("seek in a file");
    io::copy(&mut File::open(&image).expect("readable"), &mut file).expect("copy the image");
    drop(file);
    let table = format!(
        "label: dos\nlabel-id: 0x0badcafe\nstart={start}, size={sectors}, type=83, bootable\n\
         start={swap_start}, size={swap_sectors}, type=82\n"
    );
    let script = dir.path().join("table");
    fs::write(&script, table).expect("a file in our own directory");
    run(
        "sh",
        &["-c", "sfdisk -q \"$0\" <\"$1\"", &disk.to_string_lossy(), &script.to_string_lossy()],
    );
    let swap = dir.path().join("swap");
    File::create(&swap).and_then(|f| f.set_len(swap_sectors * SECTOR)).expect("a sparse file");
    run("mkswap", &[&swap]);
    let mut file = File::options().write(true).open(&disk).expect("our own file");
    file.seek(SeekFrom::Start(swap_start * SECTOR)).expect("seek in a file");
    io::copy(&mut File::open(&swap).expect("readable"), &mut file).expect("copy the swap area");

    let mut guest = Guest::builder()
        .kernel(&kernel, Some(&initrd), "root=PARTUUID=0badcafe-01 ro console=ttyS0")
        .disk(Disk::new(&disk))
        .start();
    guest.login("root", "root", BOOT);
    assert!(guest.run_ok("cat /proc/swaps").contains("/dev/vda2"));
    guest.run_ok("echo kept >/root/file");
    guest.reboot(BOOT);
    guest.login("root", "root", BOOT);
    assert_eq!(guest.run_ok("cat /root/file"), "kept");
    guest.poweroff_and_wait(Duration::from_secs(60));
}

#[test]
fn a_loop_device_shows_partitions() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = dir.path().join("disk.raw");
    File::create(&disk).and_then(|f| f.set_len(8 << 20)).expect("a sparse file");
    run("sh", &["-c", "echo 2048,2048 | sfdisk -q \"$0\"", &disk.to_string_lossy()]);
    let device = {
        let device = LoopDev::attach_partitions(&disk, true);
        let size = run_text("blockdev", &["--getsz".as_ref(), device.partition(1).as_os_str()]);
        assert_eq!(size, "2048");
        device.device().to_path_buf()
    };
    assert!(!output("losetup", &[&device]).status.success(), "{} stayed", device.display());
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

/// Only in `scripts/test --matrix`.
mod matrix {
    use super::*;

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

    /// bash, systemd and their messages on the console.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn domu_boots_and_answers() {
        let domu = domu("bookworm");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (kernel, initrd) = extract_kernel(&domu.disk, dir.path());
        // Its fstab names Xen's devices, for which systemd would wait 90 s.
        let mut guest = Guest::builder()
            .kernel(&kernel, Some(&initrd), "root=/dev/vda rw fstab=no console=ttyS0")
            .disk(Disk::new(&domu.disk).snapshot())
            .memory(512)
            .cpus(2)
            .start();
        guest.login("root", "root", 3 * BOOT);
        eprintln!("domU: shell {:?}", guest.uptime());
        assert_eq!(guest.run_ok("echo \"$BASH_VERSION\" | cut -c1"), "5");
        assert_eq!(guest.run("echo one; echo two >&2; (exit 7)"), (7, "one\ntwo".to_string()));
        assert_eq!(guest.run_ok("cd /etc && pwd"), "/etc");
        assert_eq!(guest.run_ok("pwd"), "/etc");
        guest.poweroff_and_wait(BOOT);
    }

    /// The one way to a root without an initramfs: NVMe and ext4 are built into the cloud kernel.
    #[test]
    #[ignore = "boots QEMU"]
    fn mini_guest_boots_without_initramfs() {
        let image = mini_guest_with(&["--fs", "ext3", "--no-initrd"]);
        let mut guest = Guest::builder()
            .kernel(&test_kernel(), None, "root=/dev/nvme0n1 ro console=ttyS0")
            .disk(Disk::new(&image).bus(Bus::Nvme).snapshot())
            .start();
        guest.login("root", "root", BOOT);
        assert_eq!(guest.run("test -e /boot/initrd.img-$(uname -r)").0, 1);
        guest.poweroff_and_wait(Duration::from_secs(60));
    }
}
