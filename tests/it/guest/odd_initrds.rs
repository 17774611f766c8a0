//! Initrds of many makers: what they contain decides, not how the guest is configured.

use crate::common::cpio::Cpio;
use crate::common::field::{Field, ROOT};
use crate::common::process::{SYNTHDISK, run};
use crate::common::tiny::fake_kernel;
use serde_json::Value;

const VERSION: &str = "6.1.0-tiny";
const VIRTIO: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// An archive with these files; those that end in `/` are directories.
fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    for (name, bytes) in files {
        match name.strip_suffix('/') {
            Some(dir) => cpio.add(dir, 0o040_755, b""),
            None => cpio.add(name, 0o100_755, bytes),
        }
    }
    cpio.finish()
}

/// With modules of virtio for the kernel.
fn with_virtio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = format!("usr/lib/modules/{VERSION}/kernel");
    let names = VIRTIO.map(|name| format!("{dir}/{name}.ko"));
    let modules = names.iter().map(|name| (name.as_str(), &b"module"[..]));
    cpio(&files.iter().copied().chain(modules).collect::<Vec<_>>())
}

/// How the kernel has virtio.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kernel {
    Builtin,
    /// Known from `/boot/config-VERSION` only.
    Configured,
    Modules,
    /// Nothing is known.
    Monolithic,
}

/// What `inspect` says of a guest without any initrd.
fn inspect_without(module: &[u8], menu: &str, options: &[&str]) -> Value {
    let field = Field::new();
    let dir = format!("lib/modules/{VERSION}");
    let names = ["virtio_pci", "virtio_blk", "ext4"];
    let list = names.map(|name| format!("kernel/{name}.ko:\n")).concat();
    let paths = names.map(|name| format!("{dir}/kernel/{name}.ko"));
    let (dep, builtin) = (format!("{dir}/modules.dep"), format!("{dir}/modules.builtin"));
    let kernel = fake_kernel(1);
    let mut files: Vec<(&str, &[u8])> = vec![
        ("boot/vmlinuz-1", &kernel),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", b"/dev/xvda1 / ext4 defaults 0 1\n"),
        (&dep, list.as_bytes()),
        (&builtin, b""),
    ];
    files.extend(paths.iter().map(|path| (path.as_str(), module)));
    let image = field.ext4("root.img", ROOT, &files);
    let args = [&["inspect", "--json"], options, &[image.to_str().expect("UTF-8")]].concat();
    serde_json::from_slice(&run(SYNTHDISK, &args).stdout).expect("JSON")
}

/// The head of a module for a kernel of this many bits.
fn module(bits: u32) -> Vec<u8> {
    let mut out = vec![0; 64];
    let (class, machine) = if bits == 64 { (2, 62) } else { (1, 3) };
    out[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
    out[16..20].copy_from_slice(&[1, 0, machine, 0]);
    out
}

#[test]
fn a_guest_without_an_initrd_gets_one() {
    let menu = "default 0\ntitle T\nkernel /boot/vmlinuz-1 root=/dev/xvda1 rw init=/sbin/myinit\n";
    let report = inspect_without(&module(64), menu, &[]);
    assert_eq!(verdict(&report), ("boots-with-edits", true), "{report:#}");
    let text = report["verdict"]["text"].as_str().expect("a text");
    assert!(text.contains("an initrd made for it"), "{text}");
    for (bits, options) in [(32, &[][..]), (64, &["--bootloader", "grub"])] {
        let report = inspect_without(&module(bits), menu, options);
        assert_eq!(verdict(&report), ("does-not-boot", false), "{bits} {options:?}");
    }
}

/// What `inspect` says of a guest that is configured to make initrds for any machine, and has this
/// one.
fn inspect(initrd: &[u8], kernel: Kernel) -> Value {
    let field = Field::new();
    let menu = "default 0\ntitle T\nkernel /boot/vmlinuz-1 root=/dev/xvda1 ro\n\
                initrd /boot/initrd.img-1\n";
    let dir = format!("lib/modules/{VERSION}");
    let (dep, builtin) = (format!("{dir}/modules.dep"), format!("{dir}/modules.builtin"));
    let modules = VIRTIO.map(|name| format!("{dir}/kernel/{name}.ko"));
    let mut elf = vec![0; 64];
    elf[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3e\0");
    let list = VIRTIO.map(|name| format!("kernel/{name}.ko:\n")).concat();
    let config = format!("boot/config-{VERSION}");
    let kernel_file = fake_kernel(1);
    let mut files: Vec<(&str, &[u8])> = vec![
        ("boot/vmlinuz-1", &kernel_file),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("boot/initrd.img-1", initrd),
        ("etc/fstab", b"/dev/xvda1 / ext4 defaults 0 1\n"),
        ("usr/sbin/mkinitramfs", b""),
        ("etc/initramfs-tools/initramfs.conf", b"MODULES=most\n"),
    ];
    match kernel {
        Kernel::Builtin => files.extend([
            (dep.as_str(), &b""[..]),
            (&builtin, b"kernel/a/virtio_pci.ko\nkernel/a/virtio_blk.ko\n"),
        ]),
        Kernel::Configured => files.push((&config, b"CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\n")),
        Kernel::Modules => {
            files.extend([(dep.as_str(), list.as_bytes()), (&builtin, b"")]);
            files.extend(modules.iter().map(|path| (path.as_str(), elf.as_slice())));
        }
        Kernel::Monolithic => {}
    }
    let image = field.ext4("root.img", ROOT, &files);
    let image = image.to_str().expect("UTF-8");
    serde_json::from_slice(&run(SYNTHDISK, &["inspect", "--json", image]).stdout).expect("JSON")
}

/// The answer, and whether drivers are added.
fn verdict(report: &Value) -> (&str, bool) {
    let boots = report["command_line"]["boots"].as_str().expect("a command line");
    (report["verdict"]["answer"].as_str().expect("an answer"), boots.contains("rdinit="))
}

fn root(report: &Value) -> &str {
    let boots = report["command_line"]["boots"].as_str().expect("a command line");
    boots.split(' ').find_map(|word| word.strip_prefix("root=")).expect("a root")
}

const SHELL: &[u8] = b"#!/bin/sh\nmount -t ext4 \"$root\" /mnt\nexec switch_root /mnt /sbin/init\n";
const FINDS: &[u8] =
    b"#!/bin/sh\nmount \"$(findfs $root)\" /mnt\nexec switch_root /mnt /sbin/init\n";

#[test]
fn what_an_initrd_contains_decides() {
    let conf: (&str, &[u8]) = ("conf/initramfs.conf", b"MODULES=most\n");
    let dep: (&str, &[u8]) = ("conf/initramfs.conf", b"MODULES=dep\n");
    let init: (&str, &[u8]) = ("init", b"#!/bin/sh\n");
    let tiny: [(&str, &[u8]); 4] =
        [("dev/", b""), ("init", b"\x7fELF"), ("proc/", b""), ("target/", b"")];
    let microcode = cpio(&[("kernel/x86/microcode/GenuineIntel.bin", b"x")]);
    let after_microcode = [microcode.clone(), cpio(&[conf, init])].concat();
    for (what, initrd, kernel, answer, adds) in [
        ("initramfs-tools", cpio(&[conf, init]), Kernel::Modules, "boots-with-edits", false),
        ("microcode first", after_microcode, Kernel::Modules, "boots-with-edits", false),
        (
            "MODULES=dep when it was made",
            cpio(&[dep, init]),
            Kernel::Modules,
            "boots-with-edits",
            true,
        ),
        (
            "MODULES=dep in conf.d when it was made",
            // Sorted by name, as mkinitramfs does.
            cpio(&[("conf/conf.d/local", b"# ours\nMODULES=dep\n"), conf, init]),
            Kernel::Modules,
            "boots-with-edits",
            true,
        ),
        ("tiny-initramfs", cpio(&tiny), Kernel::Modules, "boots-with-edits", true),
        ("tiny-initramfs, built in", cpio(&tiny), Kernel::Builtin, "boots-with-edits", false),
        ("a shell", cpio(&[("init", FINDS)]), Kernel::Modules, "boots-with-edits", true),
        (
            "a shell with modules",
            with_virtio(&[("init", FINDS)]),
            Kernel::Modules,
            "boots-with-edits",
            true,
        ),
        (
            "booster",
            with_virtio(&[("etc/booster.init.yaml", b""), init]),
            Kernel::Modules,
            "boots-with-edits",
            false,
        ),
        (
            "mkinitcpio",
            with_virtio(&[("config", b""), ("init_functions", b""), init]),
            Kernel::Modules,
            "boots-with-edits",
            false,
        ),
        (
            "dracut, host-only",
            cpio(&[("usr/lib/dracut/x", b""), init]),
            Kernel::Modules,
            "boots-with-edits",
            true,
        ),
        ("configured", cpio(&[conf, init]), Kernel::Configured, "boots-with-edits", false),
        ("nothing known", cpio(&[init]), Kernel::Monolithic, "unknown", false),
        (
            "initrd known, kernel not",
            with_virtio(&[("usr/lib/dracut/x", b""), init]),
            Kernel::Monolithic,
            "boots-with-edits",
            false,
        ),
        ("damaged", b"no archive at all".to_vec(), Kernel::Builtin, "unknown", false),
        ("without init", microcode, Kernel::Modules, "does-not-boot", false),
    ] {
        let report = inspect(&initrd, kernel);
        assert_eq!(verdict(&report), (answer, adds), "{what}: {:#}", report["checks"]);
    }
}

/// A simple initrd mounts what `root=` says, and the kernel itself knows no UUIDs.
#[test]
fn the_root_has_a_name_that_its_finder_knows() {
    let uuid = format!("UUID={ROOT}");
    let tiny: [(&str, &[u8]); 4] =
        [("dev/", b""), ("init", b"\x7fELF"), ("proc/", b""), ("target/", b"")];
    for (what, initrd, expected) in [
        ("a shell", cpio(&[("init", SHELL)]), "/dev/vda1"),
        ("a shell with findfs", cpio(&[("init", FINDS)]), uuid.as_str()),
        ("an unknown program", cpio(&[("init", b"\x7fELF"), ("x", b"")]), &uuid),
        ("tiny-initramfs", cpio(&tiny), &uuid),
        ("dracut", cpio(&[("usr/lib/dracut/x", b""), ("init", SHELL)]), &uuid),
        ("microcode only", cpio(&[("kernel/x86/microcode/GenuineIntel.bin", b"x")]), "PARTUUID="),
    ] {
        let report = inspect(&initrd, Kernel::Builtin);
        assert!(root(&report).starts_with(expected), "{what}: {}", report["command_line"]);
    }
}
