//! Images with a partition table of their own, and without boot code.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::{domu, mini_guest};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, run, run_text};
use crate::common::whole::Shape;

const BOOT: Duration = Duration::from_secs(120);
/// A whole Debian.
const LONG: Duration = Duration::from_secs(400);

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn words(guest: &mut Guest) -> String {
    let words = guest.run_ok("cat /proc/cmdline");
    assert!(words.contains("root=UUID=") && !words.contains("xvd"), "{words}");
    words
}

/// The file that a test has written in its guest.
fn note(mount: &Mount, number: u32) -> String {
    let part = mount.part(number);
    run("e2fsck", &["-fn".as_ref(), part.as_os_str()]);
    run_text("debugfs", &["-R".as_ref(), "cat /root/file".as_ref(), part.as_os_str()])
}

/// A GPT whose first partition follows its entries, so that nothing of a loader fits before it. One
/// overlay boots with both loaders.
#[test]
#[ignore = "boots QEMU"]
fn a_gpt_without_room_boots_with_both_loaders() {
    let root = mini_guest();
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let (image, overlay) = (dir.path().join("disk.img"), dir.path().join("overlay.qcow2"));
    Shape::named("gpt-without-room").make(&image, &root, None);
    let untouched = Untouched::remember(&image);
    for loader in ["direct", "grub"] {
        let mount = Mount::new(&["--bootloader", loader, "--overlay", arg(&overlay)], &image);
        let mut guest = Guest::builder().disk(Disk::new(mount.disk())).start();
        guest.login("root", "root", BOOT);
        let by_grub = words(&mut guest).contains("BOOT_IMAGE=");
        assert_eq!(by_grub, loader == "grub");
        guest.run_ok(&format!("echo {loader} >>/root/file && sync"));
        guest.poweroff_and_wait(BOOT);
        assert_eq!(note(&mount, 2).split_whitespace().next_back(), Some(loader));
        mount.unmount();
    }
    let mount = Mount::new(&["--overlay", arg(&overlay)], &image);
    assert_eq!(note(&mount, 2), "direct\ngrub");
    mount.unmount();
    untouched.check();
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    /// The bookworm domU as a whole disk, with the boot menu of xen-tools or with this one.
    fn bookworm(dir: &Path, shape: &str, grub_cfg: Option<&str>) -> PathBuf {
        let domu = domu("bookworm");
        let (root, swap) = (dir.join("root.img"), dir.join("swap.img"));
        run("cp", &["--sparse=always".as_ref(), domu.disk.as_os_str(), root.as_os_str()]);
        fs::File::create(&swap).and_then(|f| f.set_len(1 << 20)).expect("our own file");
        run("mkswap", &["-q", arg(&swap)]);
        if let Some(text) = grub_cfg {
            let menu = dir.join("grub.cfg");
            fs::write(&menu, text).expect("our own file");
            let write = format!("write {} /boot/grub/grub.cfg", arg(&menu));
            run("debugfs", &["-w", "-R", &write, arg(&root)]);
        }
        let image = dir.join("disk.img");
        Shape::named(shape).make(&image, &root, Some(&swap));
        fs::remove_file(&root).expect("our own file");
        image
    }

    fn start(disk: &Path) -> Guest {
        let nic = ["-nic", "user,model=virtio-net-pci"];
        let guest = Guest::builder().disk(Disk::new(disk)).memory(512).cpus(2).args(&nic);
        let mut guest = guest.start();
        guest.login("root", "root", LONG);
        guest
    }

    /// No unit has failed, the root partition is the right one, and its swap is in use.
    fn runs(guest: &mut Guest, number: u32) -> String {
        let (_, state) =
            guest.try_run("systemctl is-system-running --wait", LONG).expect("an answer");
        let failed = guest.run_ok("systemctl --failed --no-legend --plain");
        assert_eq!((state.as_str(), failed.as_str()), ("running", ""));
        let root = guest.run_ok("findmnt -no SOURCE /");
        assert_eq!(root, format!("/dev/vda{number}"));
        guest.run_ok("grep ^/dev/vda1 /proc/swaps");
        words(guest)
    }

    /// Boots it twice from one overlay, with a write between.
    fn boots(shape: &str, grub_cfg: Option<&str>, options: &[&str]) {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let image = bookworm(dir.path(), shape, grub_cfg);
        let number = Shape::named(shape).root_number;
        let untouched = Untouched::remember(&image);
        let overlay = dir.path().join("overlay.qcow2");
        let options = [options, &["--overlay", arg(&overlay)]].concat();
        let mount = Mount::new(&options, &image);
        assert!(mount.printed().contains("gets a boot loader"), "{}", mount.printed());
        let mut guest = start(&mount.disk());
        let words = runs(&mut guest, number);
        eprintln!("{shape}: {words}");
        eprintln!("{}", guest.run_ok("dmesg | grep -iE 'gpt|vda' || true"));
        let tables = guest.run_ok("sfdisk -d /dev/vda 2>&1; fdisk -l /dev/vda 2>&1");
        eprintln!("{tables}");
        guest.run_ok("echo written >/root/file && sync");
        guest.poweroff_and_wait(LONG);
        mount.unmount();
        let mount = Mount::new(&options, &image);
        let mut guest = start(&mount.disk());
        assert_eq!(guest.run_ok("cat /root/file"), "written");
        guest.poweroff_and_wait(LONG);
        assert_eq!(note(&mount, number), "written");
        mount.unmount();
        untouched.check();
    }

    /// Kernels as `update-grub` lists them under Xen.
    const GRUB_CFG: &str = "set default=0\nmenuentry 'Debian' {\n\
        linux /vmlinuz root=/dev/xvda2 ro console=hvc0 kind=cfg\ninitrd /initrd.img\n}\n";

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn an_mbr_from_sector_63() {
        boots("mbr-63", None, &[]);
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn an_mbr_from_sector_2048_with_grub_cfg() {
        boots("mbr-2048", Some(GRUB_CFG), &[]);
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_gpt() {
        boots("gpt", None, &[]);
    }

    /// GRUB starts it as a file, written without an option.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn finalized_with_grub() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let image = bookworm(dir.path(), "mbr-63", Some(GRUB_CFG));
        let untouched = Untouched::remember(&image);
        let out = dir.path().join("out.qcow2");
        run(SYNTHDISK, &["finalize", "-q", arg(&image), "-o", arg(&out)]);
        let raw = dir.path().join("out.raw");
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", arg(&out), arg(&raw)]);
        let mut guest = start(&raw);
        let words = runs(&mut guest, 2);
        assert!(words.contains("BOOT_IMAGE=") && words.contains("kind=cfg"), "{words}");
        guest.poweroff_and_wait(LONG);
        untouched.check();
    }
}
