//! What boots according to the domU config: the guest's menu, a separate /boot, files of the dom0.

use std::fs;

use crate::common::field::{BOOT, Field, HOME, ROOT, blkid, cmdline, map, mount, table, word};
use crate::common::hash::sha256;
use crate::common::process::{SYNTHDISK, text};
use crate::common::tiny::{KERNEL_LEN, fake_kernel, noise};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// The bytes of the only region of this kind.
fn region(map: &Value, disk: &std::path::Path, kind: &str) -> Vec<u8> {
    let regions = map["regions"].as_array().expect("regions");
    let found: Vec<_> = regions.iter().filter(|r| r["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}: {found:?}");
    let number = |key: &str| found[0][key].as_u64().expect("a number");
    crate::common::file::bytes_of(disk, number("start"), number("length") as usize)
}

/// A separate /boot, with its paths beginning at `prefix`, beside a root without kernels.
fn separate_boot(prefix: &str) -> Field {
    let field = Field::new();
    let (kernel, initrd) = (fake_kernel(3), noise(50_000, 5));
    let menu = format!(
        "default 0\ntitle Separate\nroot (hd0,0)\n\
         kernel {prefix}/vmlinuz-3 root=/dev/xvda3 ro console=hvc0\ninitrd {prefix}/initrd.img-3\n"
    );
    field.ext4(
        "boot.img",
        BOOT,
        &[("vmlinuz-3", &kernel), ("initrd.img-3", &initrd), ("grub/menu.lst", menu.as_bytes())],
    );
    let fstab = "/dev/xvda3 / ext4 defaults 0 1\n/dev/xvda1 /boot ext4 defaults 0 2\n";
    field.ext4(
        "root.img",
        ROOT,
        &[
            ("etc/fstab", fstab.as_bytes()),
            ("etc/network/interfaces", b"auto eth0\niface eth0 inet dhcp\n"),
            ("boot/.keep", b""),
        ],
    );
    field.swap("swap.img", MIB, "s");
    field
}

const SEPARATE: &str = "bootloader = 'pygrub'\nroot = '/dev/xvda3 ro'\ndisk = [\n\
    'root.img,,xvda3', 'boot.img,,xvda1', 'swap.img,,xvda2']\n";

#[test]
fn the_menu_on_a_separate_boot() {
    for prefix in ["", "/boot"] {
        let field = separate_boot(prefix);
        let config = field.config(SEPARATE);
        let mapped = map(&config, &[]);
        assert_eq!(mapped["boot"]["title"], "Separate", "prefix {prefix:?}");
        let line = cmdline(&mapped);
        assert_eq!(word(&line, "root="), format!("UUID={ROOT}"));
        // The network is configured in the root filesystem, wherever the menu is.
        assert_eq!(word(&line, "net.ifnames="), "0");
        let mount = mount(&config, &[]);
        assert_eq!(region(&mapped, &mount.disk(), "kernel"), fake_kernel(3));
        assert_eq!(region(&mapped, &mount.disk(), "initrd"), noise(50_000, 5));
        let fstab = ["-R", "cat /etc/fstab", &mount.part(3).to_string_lossy()].map(str::to_owned);
        let fstab = crate::common::process::run_text("debugfs", &fstab);
        assert_eq!(
            fstab,
            format!("UUID={ROOT} / ext4 defaults 0 1\nUUID={BOOT} /boot ext4 defaults 0 2")
        );
        mount.unmount();
    }
}

/// /boot on one disk and the root on another: edits and the network belong to the root's disk.
#[test]
fn boot_and_root_on_two_disks() {
    let field = separate_boot("");
    let text = "bootloader = 'pygrub'\nroot = '/dev/xvdb3'\ndisk = ['boot.img,,xvda1', \
                'swap.img,,xvda2', 'root.img,,xvdb3']\n";
    // The menu names xvda3, which does not exist.
    let mounted = field.mount(text, &[]);
    let printed = mounted.printed();
    for part in [&format!("root=UUID={ROOT} "), "net.ifnames=0", "adapted: /etc/fstab: "] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    let part = mounted.dir().join("disk-b-part3.raw");
    let cat = ["-R", "cat /etc/fstab", &part.to_string_lossy()].map(str::to_owned);
    let fstab = crate::common::process::run_text("debugfs", &cat);
    assert!(fstab.starts_with(&format!("UUID={ROOT} / ext4 ")), "{fstab}");
    mounted.unmount();
}

/// pygrub looks at the disk that is listed first, whatever its letter.
#[test]
fn the_disk_that_is_listed_first() {
    let field = Field::new();
    field.root("root.img", "");
    field.ext4("data.img", HOME, &[]);
    let disks = "disk = ['root.img,,xvdb', 'data.img,,xvda']\n";
    let mapped = map(&field.config(&format!("bootloader = 'pygrub'\n{disks}")), &[]);
    assert_eq!((&mapped["vdev"], &mapped["file"]), (&"xvdb".into(), &"disk.raw".into()));
    assert_eq!(mapped["disks"][1]["file"], "disk-a.raw");
    assert!(field.refused(disks, &[]).contains("no kernel found"));
}

/// Without an initrd the kernel itself must find the root: by the partition's identifier.
#[test]
fn partuuid_without_initrd() {
    let field = Field::new();
    let (kernel, menu) = (fake_kernel(1), "title A\nkernel /vmlinuz-1 root=/dev/xvda2 ro\n");
    field.ext4("boot.img", BOOT, &[("vmlinuz-1", &kernel), ("grub/menu.lst", menu.as_bytes())]);
    field.ext4("root.img", ROOT, &[("etc/fstab", b"")]);
    field.ext4("home.img", HOME, &[]);
    for (number, kind) in [(3, "dos"), (7, "gpt")] {
        let config = field.config(&format!(
            "bootloader = 'pygrub'\ndisk = ['boot.img,,xvda1', 'root.img,,xvda2', \
             'home.img,,xvda{number}']\n"
        ));
        let mapped = map(&config, &[]);
        let mount = mount(&config, &[]);
        let (label, parts) = table(&mount.disk());
        assert_eq!(label, kind);
        let expected = match kind {
            "dos" => format!("{}-02", blkid(&mount.disk(), "PTUUID")),
            _ => parts[1].guid.to_lowercase(),
        };
        let root = word(&cmdline(&mapped), "root=");
        assert_eq!(root.to_lowercase(), format!("partuuid={expected}"));
        assert!(mount.printed().contains(&root), "{}", mount.printed());
        mount.unmount();
    }
}

/// `kernel`, `ramdisk`, `root` and `extra` of the config are dom0's files, mapped and not copied.
#[test]
fn a_kernel_of_the_dom0() {
    let (field, _) = Field::xen_tools();
    fs::create_dir(field.path("dom0")).unwrap();
    fs::write(field.path("dom0/vmlinuz"), fake_kernel(1)).unwrap();
    fs::write(field.path("dom0/initrd"), noise(60_000, 8)).unwrap();
    for file in ["dom0/vmlinuz", "dom0/initrd"] {
        field.guard(&field.path(file));
    }
    let disks = "disk = ['disk.img,,xvda2', 'swap.img,,xvda1']\n";
    let both = format!("kernel = 'dom0/vmlinuz'\nramdisk = 'dom0/initrd'\n{disks}");
    let text = format!("{both}root = '/dev/xvda2 ro'\nextra = 'quiet console=hvc0 xencons=tty'\n");
    let config = field.config(&text);
    let mapped = map(&config, &[]);
    let line = cmdline(&mapped);
    assert!(line.starts_with(&format!("root=UUID={ROOT} ro quiet ")), "{line}");
    assert!(!line.contains("hvc0") && !line.contains("xencons"), "{line}");
    assert_eq!(mapped["boot"]["kernel_version"], "6.1.0-tiny");
    assert_eq!(mapped["notes"], Value::Array(vec![]), "its modules are there");
    let mounted = mount(&config, &[]);
    assert_eq!(region(&mapped, &mounted.disk(), "kernel"), fake_kernel(1));
    assert_eq!(region(&mapped, &mounted.disk(), "initrd"), noise(60_000, 8));
    mounted.unmount();

    // cmdline takes precedence over root and extra, and a note says so.
    let mapped = map(&field.config(&format!("{text}cmdline = 'root=/dev/xvda2 rw own=1'\n")), &[]);
    let line = cmdline(&mapped);
    assert!(line.starts_with(&format!("root=UUID={ROOT} rw own=1")), "{line}");
    assert!(!line.contains("quiet"), "{line}");
    assert!(mapped["notes"].to_string().contains("cmdline"), "{mapped}");

    // Options take precedence over the config.
    let config = field.config(&text);
    let own = map(&config, &["--guest-kernel"]);
    assert_eq!(own["boot"]["title"], "Tiny 1");
    let line = cmdline(&map(&config, &["--cmdline", "root=/dev/vda2 rw"]));
    assert_eq!(line, "root=/dev/vda2 rw");
    let line = cmdline(&map(&config, &["--append", "single"]));
    assert!(line.contains("quiet") && line.ends_with(" single"), "{line}");

    // No root= at all: there is only one candidate.
    let line = cmdline(&map(&field.config(&both), &[]));
    assert_eq!(word(&line, "root="), format!("UUID={ROOT}"));
}

#[test]
fn a_kernel_without_modules_in_the_guest() {
    let (field, _) = Field::xen_tools();
    fs::write(field.path("vmlinuz"), fake_kernel(5)).unwrap();
    let config = field.config(
        "kernel = 'vmlinuz'\nroot = '/dev/xvda2'\ndisk = ['disk.img,,xvda2', 'swap.img,,xvda1']\n",
    );
    let mounted = mount(&config, &[]);
    let printed = mounted.printed();
    let note = printed.lines().find(|l| l.starts_with("note: ")).expect("a note");
    for part in ["/lib/modules/6.5.0-tiny", "--guest-kernel"] {
        assert!(note.contains(part), "{note}");
    }
    mounted.unmount();
    assert_eq!(map(&config, &["--guest-kernel"])["notes"], Value::Array(vec![]));
}

/// PV-only kernels can't boot on KVM: the message suggests the guest's own kernel.
#[test]
fn a_kernel_for_xen_alone() {
    let (field, _) = Field::xen_tools();
    let mut elf = noise(200_000, 4);
    elf[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    fs::write(field.path("vmlinux"), &elf).unwrap();
    fs::write(field.path("gzip"), [b"\x1f\x8b\x08\0", &elf[..]].concat()).unwrap();
    let disks = "disk = ['disk.img,,xvda2', 'swap.img,,xvda1']\n";
    for kernel in ["vmlinux", "gzip"] {
        let text = format!("kernel = '{kernel}'\n{disks}");
        let said = field.refused(&text, &[]);
        for part in [kernel, "Xen", "--guest-kernel"] {
            assert!(said.contains(part), "{said}");
        }
        let mounted = field.mount(&text, &["--guest-kernel"]);
        assert!(mounted.printed().contains("Tiny 1"), "{}", mounted.printed());
        mounted.unmount();
    }
}

/// Options for pygrub are honoured.
#[test]
fn arguments_of_the_boot_loader() {
    let field = Field::new();
    let (one, two, initrd) = (fake_kernel(1), fake_kernel(2), noise(9000, 1));
    let menu = "default 0\ntitle First one\nkernel /boot/vmlinuz-1 root=/dev/xvda1 first\n\
                initrd /boot/initrd\ntitle Second one\n\
                kernel /boot/vmlinuz-2 root=/dev/xvda1 second\ninitrd /boot/initrd\n";
    field.ext4(
        "root.img",
        ROOT,
        &[
            ("boot/vmlinuz-1", &one),
            ("boot/vmlinuz-2", &two),
            ("boot/initrd", &initrd),
            ("boot/grub/menu.lst", menu.as_bytes()),
            ("etc/fstab", b""),
        ],
    );
    let with = |settings: &str, options: &[&str]| {
        let text = format!("{settings}\ndisk = ['root.img,,xvda1']\n");
        let mapped = map(&field.config(&text), options);
        format!("{} | {}", mapped["boot"]["title"].as_str().unwrap(), cmdline(&mapped))
    };
    for (settings, title, words) in [
        ("bootloader = 'pygrub'", "First one", "first"),
        ("bootloader = 'pygrub'\nbootargs = '--entry=1'", "Second one", "second"),
        ("bootloader = 'pygrub'\nbootloader_args = ['--entry', '1']", "Second one", "second"),
        ("bootloader = 'pygrub'\nbootargs = '--entry=\"Second one\"'", "Second one", "second"),
        (
            "bootloader = 'pygrub'\nbootloader_args = ['--args=more words']",
            "First one",
            "more words",
        ),
        ("bootloader = 'pygrub'\nroot = '/dev/xvda1 ro'\nextra = 'more'", "First one", "more"),
        ("bootloader = 'pygrub'\nkernel = '/boot/vmlinuz-2'\nramdisk = '/boot/initrd'", "", ""),
        ("kernel = '/usr/lib/xen-4.17/boot/pv-grub-x86_64.gz'\nextra = '(hd0,0)/m'", "First", ""),
        ("type = 'hvm'", "First one", "first"),
        ("", "First one", "first"),
    ] {
        let found = with(settings, &[]);
        assert!(found.starts_with(title) && found.contains(words), "{settings}: {found}");
        assert!(!found.contains("hd0,0"), "{settings}: {found}");
    }
    // --entry on the command line takes precedence over the config's.
    let found = with("bootloader = 'pygrub'\nbootargs = '--entry=1'", &["--entry", "0"]);
    assert!(found.starts_with("First one"), "{found}");
    let config = "bootloader = 'pygrub'\nbootargs = '--entry=7'\ndisk = ['root.img,,xvda1']\n";
    let said =
        crate::common::process::output(SYNTHDISK, &["map", "--config", &field.config(config)]);
    let (code, said) = (said.status.code(), text(&said.stderr));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no boot entry 7") && said.contains("  1  Second one"), "{said}");
}

/// The same config gives the same bytes, at any place and time.
#[test]
fn the_same_config_gives_the_same_disk() {
    let (field, config) = Field::xen_tools();
    let sum = || {
        let mounted = mount(&config, &[]);
        let sums = (sha256(mounted.disk()), sha256(mounted.part(2)));
        mounted.unmount();
        sums
    };
    let first = sum();
    crate::common::clock::next_second(1);
    assert_eq!(sum(), first);
    assert!(fs::metadata(field.path("disk.img")).unwrap().len() > KERNEL_LEN as u64);
}
