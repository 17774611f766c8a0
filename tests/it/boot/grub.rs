//! Guests that the host's GRUB boots by their own menu, with and without synthdisk.

use std::path::Path;
use std::time::Duration;

use super::new_kernel::install;
use crate::common::console::{Disk, Guest};
use crate::common::guests::{
    domu, domu_variant, domu_with, mini_guest, mini_guest_with, split_domu,
};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, run, run_text};

const BOOT: Duration = Duration::from_secs(120);
/// A whole Debian.
const LONG: Duration = Duration::from_secs(400);

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn words(guest: &mut Guest) -> Vec<String> {
    guest.run_ok("cat /proc/cmdline").split_whitespace().map(str::to_owned).collect()
}

fn has(words: &[String], word: &str) -> bool {
    words.iter().any(|w| w == word)
}

/// Nothing of Xen is on the command line, and the serial port is the console.
fn fits_kvm(guest: &mut Guest) {
    let words = words(guest);
    let xen = words.iter().find(|w| w.contains("xvd") || w.contains("hvc"));
    assert_eq!(xen, None, "{words:?}");
    assert!(has(&words, "console=ttyS0"), "{words:?}");
    let begins = |what: &str| words.iter().any(|w| w.starts_with(what));
    assert!(begins("root=UUID=") && begins("BOOT_IMAGE="), "{words:?}");
}

/// The guest's menu is GRUB legacy's. Its kernel is replaced while it is mounted, and again when
/// there is no synthdisk any more; its menu speaks of Xen's devices all the time.
#[test]
#[ignore = "boots QEMU"]
fn a_kernel_that_the_guest_installs_boots_mounted_and_as_a_file() {
    let image = mini_guest_with(&["--size", "96M"]);
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let overlay = dir.path().join("overlay.qcow2");
    // GRUB is not what the overlay was made for.
    let mount = Mount::new(&["--overlay", arg(&overlay)], &image);
    mount.unmount();
    let mount = Mount::new(&["--bootloader", "grub", "--overlay", arg(&overlay)], &image);
    let mut guest = Guest::builder().disk(Disk::new(mount.disk()).cache("writeback")).start();
    guest.expect("GNU GRUB", BOOT);
    guest.login("root", "root", BOOT);
    fits_kvm(&mut guest);
    install(&mut guest, "mounted", "while it is mounted");
    guest.run_ok("grep -q 'kernel.*root=/dev/xvda2.*hvc0' /boot/grub/menu.lst");
    guest.reboot(BOOT);
    guest.expect("initramfs: note: while it is mounted", BOOT);
    guest.login("root", "root", BOOT);
    fits_kvm(&mut guest);
    guest.poweroff_and_wait(BOOT);
    mount.fsck();
    mount.unmount();

    let out = dir.path().join("out.raw");
    run(SYNTHDISK, &["finalize", "-q", "--overlay", arg(&overlay), arg(&image), "-o", arg(&out)]);
    std::fs::remove_file(&overlay).expect("our own file");
    let mut guest = Guest::builder().disk(Disk::new(&out)).start();
    guest.expect("initramfs: note: while it is mounted", BOOT);
    guest.login("root", "root", BOOT);
    install(&mut guest, "alone", "without synthdisk");
    guest.reboot(BOOT);
    guest.expect("initramfs: note: without synthdisk", BOOT);
    guest.login("root", "root", BOOT);
    fits_kvm(&mut guest);
    assert_eq!(guest.run_ok("ls /boot/vmlinuz-*"), "/boot/vmlinuz-alone");
    guest.poweroff_and_wait(BOOT);
    untouched.check();
}

/// A domU as it comes from xen-tools, written with the default loader.
fn boots_alone(config: &Path, options: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let out = dir.path().join("out.raw");
    let args = ["finalize", "-q", "--config", arg(config), "-o", arg(&out)];
    run(SYNTHDISK, &[&args, options].concat());
    let mut guest = Guest::builder()
        .disk(Disk::new(&out))
        .memory(512)
        .cpus(2)
        .args(&["-nic", "user,model=virtio-net-pci"])
        .start();
    guest.expect("GNU GRUB", BOOT);
    guest.login("root", "root", LONG);
    let (_, state) = guest.try_run("systemctl is-system-running --wait", LONG).expect("an answer");
    let failed = guest.run_ok("systemctl --failed --no-legend --plain");
    assert_eq!((state.as_str(), failed.as_str()), ("running", ""));
    fits_kvm(&mut guest);
    let words = words(&mut guest);
    guest.poweroff_and_wait(LONG);
    words
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_domu() {
        let domu = domu("bookworm");
        let untouched = Untouched::remember(&domu.disk);
        // The menu's fifth entry names symlinks.
        let words = boots_alone(&domu.config, &["--entry", "4", "--append", "marker=1"]);
        assert!(has(&words, "BOOT_IMAGE=/vmlinuz") && has(&words, "marker=1"), "{words:?}");
        untouched.check();
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn an_xfs_root() {
        let domu = domu_with("domu-bookworm-xfs", &["--dist", "bookworm", "--fs", "xfs"]);
        boots_alone(&domu.config, &[]);
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_btrfs_root() {
        let domu = domu_with("domu-bookworm-btrfs", &["--dist", "bookworm", "--fs", "btrfs"]);
        boots_alone(&domu.config, &[]);
    }

    /// The initrd with drivers, which the guest does not have, precedes the guest's own.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn an_initrd_without_drivers() {
        let words = boots_alone(&domu_variant("bookworm", "dracut").config, &[]);
        assert!(has(&words, "rdinit=/synthdisk/init"), "{words:?}");
    }

    /// Six partitions make a GPT; GRUB is in a BIOS boot partition, the menu on a separate /boot.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_separate_boot_on_a_gpt() {
        let (images, swap) = split_domu();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("split.cfg");
        let image = |name: &str| images.join(name).display().to_string();
        let text = format!(
            "bootloader = 'pygrub'\nname = 'split'\nroot = '/dev/xvda3 ro'\ndisk = [\n\
             'file:{},xvda1,w', 'file:{},xvda2,w', 'file:{},xvda3,w', 'file:{},xvda4,w',\n\
             'file:{},xvda6,w' ]\n",
            image("boot.img"),
            swap.display(),
            image("root.img"),
            image("home.img"),
            image("var.img"),
        );
        std::fs::write(&config, text).expect("our own file");
        let map = run_text(SYNTHDISK, &["map", "--bootloader", "grub", "--config", arg(&config)]);
        assert!(map.contains("gpt") && map.contains("GRUB's core image"), "{map}");
        boots_alone(&config, &[]);
    }

    /// `update-grub` and `grub-install` in a guest, below the direct loader: the guest's own GRUB boots
    /// when it reboots, at the next mount, and in a file.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn the_guest_takes_over() {
        let domu = domu_with("domu-bookworm-grub", &["--dist", "bookworm", "--role", "grub"]);
        let untouched = Untouched::remember(&domu.disk);
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let overlay = dir.path().join("overlay.qcow2");
        let options = ["--config", arg(&domu.config), "--overlay", arg(&overlay)];
        let own_grub = |guest: &mut Guest| {
            // The direct loader prints nothing that looks like this, and ours has other settings.
            guest.expect("GNU GRUB", BOOT);
            guest.expect("own menu", BOOT);
            guest.login("root", "root", LONG);
            fits_kvm(guest);
        };

        let mount = Mount::of(&options, &[]);
        assert!(mount.printed().contains("/etc/default/grub: console=hvc0"), "{}", mount.printed());
        let disk = Disk::new(mount.disk());
        let mut guest = Guest::builder().disk(disk).memory(512).cpus(2).start();
        guest.login("root", "root", LONG);
        guest.run_ok("echo GRUB_TERMINAL=serial >>/etc/default/grub");
        guest.run_ok("echo 'GRUB_DISTRIBUTOR=\"own menu\"' >>/etc/default/grub");
        for command in ["update-grub", "grub-install /dev/vda"] {
            let (code, said) = guest.try_run(command, LONG).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(code, 0, "{command}: {said}");
        }
        guest.run_ok("sync");
        guest.reboot(LONG);
        own_grub(&mut guest);
        guest.poweroff_and_wait(LONG);
        run("e2fsck", &["-fn".as_ref(), mount.part(2).as_os_str()]);
        mount.unmount();

        let out = dir.path().join("out.raw");
        run(SYNTHDISK, &[&["finalize", "-q", "-o", arg(&out)], &options[..]].concat());
        let mount = Mount::of(&options, &[]);
        let code = |disk: &Path| crate::common::file::bytes_of(disk, 0, 440);
        assert_eq!(code(&out), code(&mount.disk()), "the guest's GRUB, whatever loader we have");
        mount.unmount();
        let mut guest = Guest::builder().disk(Disk::new(&out)).memory(512).cpus(2).start();
        own_grub(&mut guest);
        guest.poweroff_and_wait(LONG);
        untouched.check();
    }

    /// Menus of all kinds, one after the other, each written by the guest and tried by a reboot.
    #[test]
    #[ignore = "boots QEMU"]
    fn menus_of_all_kinds() {
        let image = mini_guest();
        let mount = Mount::new(&["--bootloader", "grub"], &image);
        let mut guest = Guest::builder().disk(Disk::new(mount.disk()).cache("writeback")).start();
        guest.login("root", "root", BOOT);
        let kernel = guest.run_ok("cd /boot; echo vmlinuz-*");
        let initrd = guest.run_ok("cd /boot; echo initrd.img-*");
        let xen = "root=/dev/xvda2 ro console=hvc0";
        let grub_cfg = format!(
            "set default=\"More>two\"\nmenuentry 'one' --class gnu {{\nlinux /boot/{kernel} {xen}\n}}\n\
             submenu 'More' {{\nmenuentry 'two' {{\nset root='(xen/xvda,msdos2)'\n\
             search --no-floppy --fs-uuid --set=root 0123-4567\nlinux /boot/{kernel} {xen} \
             'kind=grub cfg'\ninitrd /boot/{initrd}\n}}\n}}\n"
        );
        let blocks = format!(
            "default two\ntimeout 50\nlabel one\nkernel /boot/{kernel}\nappend {xen}\nlabel two\n\
             kernel /boot/{kernel}\nappend initrd=/boot/{initrd} {xen} kind=extlinux\n"
        );
        let entry = format!(
            "title Linux (a name) & more\nversion 6\nlinux /boot/{kernel}\ninitrd /boot/{initrd}\n\
             options {xen}\noptions kind=entries\n"
        );
        let hypervisor = format!(
            "default=1\ntitle Xen\nreboot\ntitle Linux under Xen\nroot (hd0,0)\nkernel /xen.gz\n\
             module /boot/{kernel} {xen} kind=legacy\nmodule /boot/{initrd}\n"
        );
        for (path, text, kind) in [
            ("/boot/grub/menu.lst", hypervisor, "kind=legacy"),
            ("/boot/extlinux/extlinux.conf", blocks, "kind=extlinux"),
            ("/boot/grub/grub.cfg", grub_cfg, "cfg"),
            ("/boot/loader/entries/a-6.conf", entry, "kind=entries"),
            ("/boot/nothing", String::new(), "BOOT_IMAGE="),
        ] {
            let dir = path.rsplit_once('/').expect("an absolute path").0;
            guest.run_ok("rm -rf /boot/grub /boot/extlinux /boot/loader");
            guest.run_ok(&format!("mkdir -p {dir} && : >{path}"));
            for line in text.lines() {
                let line = line.replace('\'', r"'\''");
                guest.run_ok(&format!("echo '{line}' >>{path}"));
            }
            guest.run_ok("sync");
            guest.reboot(BOOT);
            guest.login("root", "root", BOOT);
            fits_kvm(&mut guest);
            let words = words(&mut guest);
            eprintln!("{path}: {words:?}");
            assert!(words.iter().any(|w| w.contains(kind)), "{path}: {words:?}");
        }
        guest.poweroff_and_wait(BOOT);
        mount.fsck();
        mount.unmount();
    }
}
