//! Guests whose files are on several partitions: looking into them follows their fstab.

use crate::common::field::{BOOT, DATA, Field, HOME, ROOT, cmdline, map};
use crate::common::process::{SYNTHDISK, run, run_text};
use crate::common::tiny::{fake_kernel, initrd};
use serde_json::Value;

const VERSION: &str = "6.1.0-tiny";

/// Root, /boot, /usr and /var on partitions of their own, on two disks, with merged /usr; the initrd
/// was made without virtio.
fn guest() -> (Field, String) {
    let field = Field::new();
    let kernel = fake_kernel(1);
    let menu = "default 0\ntitle T\nkernel /vmlinuz-1 root=/dev/xvda2 ro\ninitrd /initrd.img-1\n";
    let mut cpio = crate::common::cpio::Cpio::default();
    cpio.add("conf/initramfs.conf", 0o100_644, b"MODULES=dep\n");
    cpio.add("init", 0o100_755, b"#!/bin/sh\n");
    let dep = cpio.finish();
    let boot: &[(&str, &[u8])] =
        &[("vmlinuz-1", &kernel), ("initrd.img-1", &dep), ("grub/menu.lst", menu.as_bytes())];
    field.ext4("boot.img", BOOT, boot);
    let fstab = "/dev/xvda2 / ext4 defaults 0 1\n/dev/xvda1 /boot ext4 defaults 0 2\n\
                 /dev/xvda3 /usr ext4 defaults 0 2\n/dev/xvdb1 /usr/lib/systemd/deep ext4 x 0 2\n";
    let root: &[(&str, &[u8])] = &[
        ("etc/fstab", fstab.as_bytes()),
        ("etc/network/interfaces", b"auto enX0\niface enX0 inet dhcp\n"),
        ("boot/.keep", b""),
        ("usr/.keep", b""),
    ];
    let tree = field.path("root.img.tree");
    std::fs::create_dir_all(&tree).expect("our own tree");
    for dir in ["lib", "sbin"] {
        std::os::unix::fs::symlink(format!("usr/{dir}"), tree.join(dir)).expect("our own link");
    }
    field.ext4("root.img", ROOT, root);
    let dir = format!("lib/modules/{VERSION}");
    let names = ["virtio_pci", "virtio_blk"];
    let list = names.map(|name| format!("kernel/{name}.ko:\n")).concat();
    let (dep, builtin) = (format!("{dir}/modules.dep"), format!("{dir}/modules.builtin"));
    let modules = names.map(|name| format!("{dir}/kernel/{name}.ko"));
    let mut elf = vec![0; 64];
    elf[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3e\0");
    let usr: Vec<(&str, &[u8])> = vec![
        (&dep, list.as_bytes()),
        (&builtin, b""),
        (&modules[0], &elf),
        (&modules[1], &elf),
        ("lib/systemd/systemd", b"x"),
        ("lib/systemd/systemd-udevd", b"x"),
        ("lib/systemd/deep/.keep", b""),
        ("lib/os-release", b"ID=tiny\nPRETTY_NAME=\"Tiny\"\n"),
    ];
    let sbin = field.path("usr.img.tree/sbin");
    std::fs::create_dir_all(&sbin).expect("our own tree");
    std::os::unix::fs::symlink("../lib/systemd/systemd", sbin.join("init")).expect("our own link");
    field.ext4("usr.img", HOME, &usr);
    field.ext4("deep.img", DATA, &[("x", &initrd(1))]);
    let config = field.config(
        "bootloader = 'pygrub'\ndisk = ['boot.img,,xvda1', 'root.img,,xvda2', 'usr.img,,xvda3', \
         'deep.img,,xvdb1']\n",
    );
    (field, config)
}

#[test]
fn modules_init_and_tools_are_on_another_partition() {
    let (_field, config) = guest();
    let found = map(&config, &[]);
    let line = cmdline(&found);
    assert!(line.contains("rdinit=/synthdisk/init"), "drivers from /usr: {line}");
    assert!(line.contains("net.ifnames=0"), "{line}");
    let report: Value =
        serde_json::from_slice(&run(SYNTHDISK, &["inspect", "--json", "--config", &config]).stdout)
            .expect("JSON");
    assert_eq!(report["verdict"]["answer"], "boots-with-edits", "{report:#}");
    assert_eq!(report["guest"]["init"], "systemd");
    let dir = &report["kernels"][0]["drivers"]["modules_dir"];
    assert_eq!(dir, &format!("/lib/modules/{VERSION}"));
    // The interface keeps its name: udev is on /usr.
    let edits = run_text(SYNTHDISK, &["adapt", "--dry-run", "--config", &config]);
    assert!(edits.contains("/etc/systemd/network/10-synthdisk-enX0.link"), "{edits}");
}
