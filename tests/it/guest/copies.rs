//! Copies of a guest's disks that are attached to it too, as backups do: names mean what they meant.

use std::fs;

use crate::common::field::{BOOT, Field, ROOT, SWAP, cmdline, map, word};
use crate::common::process::{SYNTHDISK, run, run_text};
use crate::common::tiny::{fake_kernel, initrd};

const FSTAB: &str = "UUID=74696e79-6775-4573-8074-0000000000a1 / ext4 defaults 0 1\n\
    UUID=74696e79-6775-4573-8074-0000000000a2 none swap sw 0 0\n\
    UUID=74696e79-6775-4573-8074-0000000000a1 /bind ext4 ro 0 0\n";

/// A root whose menu names it by UUID, and its swap area.
fn guest(root: &str) -> Field {
    let field = Field::new();
    let (kernel, initrd) = (fake_kernel(1), initrd(101));
    let menu = format!(
        "default 0\ntitle T\nkernel /boot/vmlinuz-1 root={root} ro resume=UUID={SWAP}\n\
         initrd /boot/initrd.img-1\n"
    );
    let resume = format!("RESUME=UUID={SWAP}\n");
    let files: &[(&str, &[u8])] = &[
        ("boot/vmlinuz-1", &kernel),
        ("boot/initrd.img-1", &initrd),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", FSTAB.as_bytes()),
        ("etc/initramfs-tools/conf.d/resume", resume.as_bytes()),
    ];
    let options = ["-t", "ext4", "-b", "4096", "-L", "myroot"];
    field.ext4_with("root.img", ROOT, 16 << 20, &options, files);
    field.swap("swap.img", 1 << 20, "s");
    field
}

fn copy(field: &Field, from: &str, to: &str) {
    fs::copy(field.path(from), field.path(to)).expect("room for a copy");
    field.guard(&field.path(to));
}

/// The edits of a guest, as text.
fn edits(config: &str) -> String {
    run_text(SYNTHDISK, &["adapt", "--dry-run", "--config", config])
}

#[test]
fn a_snapshot_of_the_root_on_another_disk() {
    for root in [format!("UUID={ROOT}"), "LABEL=myroot".into(), "/dev/xvda2".into()] {
        let field = guest(&root);
        copy(&field, "root.img", "snapshot.img");
        // The first disk by its letter is the guest's own, whatever was listed first.
        for disks in [
            "'root.img,,xvda2', 'swap.img,,xvda1', 'snapshot.img,,xvdb1'",
            "'root.img,,xvda2,w', 'swap.img,,xvda1', 'snapshot.img,,xvdb1,r'",
        ] {
            let config = field.config(&format!("bootloader = 'pygrub'\ndisk = [{disks}]\n"));
            let found = map(&config, &[]);
            let line = cmdline(&found);
            let name = word(&line, "root=");
            assert!(name.starts_with("PARTUUID=") && name.ends_with("-02"), "{line}");
            // The swap area is the only one.
            assert_eq!(word(&line, "resume="), format!("UUID={SWAP}"), "{line}");
            let edits = edits(&config);
            assert!(edits.contains(&format!("+{name} / ext4")), "{edits}");
            assert!(edits.contains(&format!("+{name} /bind ext4")), "{edits}");
            assert!(!edits.contains("+UUID="), "{edits}");
            let report = run_text(SYNTHDISK, &["inspect", "--config", &config]);
            let said = format!("xvda2 and xvdb1 have the UUID {ROOT}");
            assert!(report.contains("fixed    names") && report.contains(&said), "{report}");
        }
    }
}

#[test]
fn a_snapshot_of_root_and_swap_on_one_disk_before_the_root() {
    let field = guest(&format!("UUID={ROOT}"));
    copy(&field, "root.img", "snapshot.img");
    copy(&field, "swap.img", "swap2.img");
    let config = field.config(
        "bootloader = 'pygrub'\ndisk = ['root.img,,xvda3', 'snapshot.img,,xvda1', \
         'swap.img,,xvda2', 'swap2.img,,xvda4']\n",
    );
    let line = cmdline(&map(&config, &[]));
    let name = word(&line, "root=");
    assert!(name.ends_with("-03"), "the one that pygrub reads: {line}");
    assert!(word(&line, "resume=").starts_with("PARTUUID="), "{line}");
    let edits = edits(&config);
    assert!(edits.contains(&format!("+{name} / ext4")), "{edits}");
    assert!(edits.contains("+RESUME=PARTUUID="), "{edits}");
    // The config says which, if the menu is elsewhere.
    let hinted = field.config(
        "bootloader = 'pygrub'\nroot = '/dev/xvda1 ro'\ndisk = ['boot.img,,xvda4', \
         'root.img,,xvda3', 'snapshot.img,,xvda1']\n",
    );
    let (kernel, menu) = (
        fake_kernel(1),
        format!("default 0\ntitle T\nkernel /vmlinuz-1 root=UUID={ROOT} ro\ninitrd /vmlinuz-1\n"),
    );
    let boot: &[(&str, &[u8])] = &[("vmlinuz-1", &kernel), ("grub/menu.lst", menu.as_bytes())];
    field.ext4("boot.img", BOOT, boot);
    let line = cmdline(&map(&hinted, &[]));
    assert!(word(&line, "root=").ends_with("-01"), "{line}");
}

/// Two images of one disk: even the identifiers in their partition tables are the same.
#[test]
fn a_copy_of_a_whole_disk() {
    let field = guest(&format!("UUID={ROOT}"));
    let (disk, root) = (field.path("disk.img"), field.path("root.img"));
    let bytes = fs::read(root).expect("the root");
    let mut whole = vec![0; 1 << 20];
    whole.extend(bytes);
    whole.resize(whole.len() + (1 << 20), 0);
    fs::write(&disk, whole).expect("room for a disk");
    let script = "label: dos\nlabel-id: 0x12345678\nstart=2048, size=32768, type=83\n";
    fs::write(field.path("script"), script).expect("our own file");
    let sfdisk = format!("sfdisk -q {} < {}", field.arg("disk.img"), field.arg("script"));
    run("sh", &["-c", &sfdisk]);
    field.guard(&disk);
    copy(&field, "disk.img", "copy.img");
    let config =
        field.config("bootloader = 'pygrub'\ndisk = ['disk.img,,xvda', 'copy.img,,xvdb']\n");
    let name = "/dev/disk/by-id/virtio-xvda-part1";
    assert_eq!(word(&cmdline(&map(&config, &[])), "root="), name);
    assert!(edits(&config).contains(&format!("+{name} / ext4")), "{}", edits(&config));
}
