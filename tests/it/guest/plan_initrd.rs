//! Whether and how an extra initrd with drivers is made: tiny guests, real initrds by cpio.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::field::{Field, HOME, ROOT};
use crate::common::file::bytes_of;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, run, run_text};
use crate::common::tiny::{Tiny, noise};
use serde_json::Value;
use synthdisk::fs::Budget;
use synthdisk::initrd::{Initrd, InitrdEntry, Whole};

const VERSION: &str = "6.1.0-tiny";
const DEP: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/xen-blkfront.ko:
";
/// The modules in the order in which they must be loaded.
const ORDER: [&str; 4] = ["virtio", "virtio_ring", "virtio_pci", "virtio_blk"];

/// The head of an x86-64 module, followed by bytes that differ per module.
fn module(seed: u64) -> Vec<u8> {
    let mut module = noise(3001, seed);
    module[..20].fill(0);
    module[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    module[16..20].copy_from_slice(&[1, 0, 62, 0]);
    module
}

/// Writes what depmod and the kernel's build leave below `dir`; virtio_blk is compressed.
fn write_modules(dir: &Path, with: &[&str]) {
    for (i, line) in DEP.lines().enumerate() {
        let path = line.split(':').next().unwrap();
        let file = dir.join(path.trim_end_matches(".xz"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        if !with.iter().any(|name| path.contains(&format!("/{name}.ko"))) {
            continue;
        }
        fs::write(&file, module(i as u64)).unwrap();
        if path.ends_with(".xz") {
            run("xz", &["--check=crc32".as_ref(), file.as_os_str()]);
        }
    }
    let listed = DEP.lines().filter(|l| with.iter().any(|m| l.contains(&format!("/{m}.ko"))));
    let dep: Vec<&str> = listed.collect();
    fs::write(dir.join("modules.dep"), dep.join("\n") + "\n").unwrap();
    fs::write(
        dir.join("modules.builtin"),
        "kernel/drivers/ata/ahci.ko\nkernel/drivers/scsi/sd_mod.ko\n",
    )
    .unwrap();
}

/// A compressed archive with `/init` and these modules.
fn write_initrd(file: &Path, modules: &[&str]) {
    write_initrd_made_with("list", file, modules);
}

/// The same, with this value of initramfs-tools' MODULES.
fn write_initrd_made_with(setting: &str, file: &Path, modules: &[&str]) {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("init"), "#!/bin/sh\n").unwrap();
    fs::create_dir(tree.path().join("conf")).unwrap();
    fs::write(tree.path().join("conf/initramfs.conf"), format!("MODULES={setting}\n")).unwrap();
    let dir = tree.path().join(format!("usr/lib/modules/{VERSION}/kernel/x"));
    fs::create_dir_all(&dir).unwrap();
    for name in modules {
        fs::write(dir.join(format!("{name}.ko")), "module").unwrap();
    }
    let pack = "cd \"$0\" && find . | cpio -o -H newc --quiet | gzip -n >\"$1\"";
    run("sh", &["-c".as_ref(), pack.as_ref(), tree.path().as_os_str(), file.as_os_str()]);
}

const ALL: [&str; 5] = ["virtio", "virtio_ring", "virtio_pci", "virtio_blk", "xen-blkfront"];

/// A guest with all modules, whose initrd was made for Xen.
fn xen_guest(edit: impl FnOnce(&Path)) -> Tiny {
    Tiny::with(|tree| {
        write_modules(&tree.join("lib/modules").join(VERSION), &ALL);
        write_initrd(&tree.join("boot/initrd.img-1"), &["xen-blkfront"]);
        edit(tree);
    })
}

fn map(image: &Path, options: &[&str]) -> Value {
    let args = [&["map", "--json"], options, &[image.to_str().unwrap()]].concat();
    serde_json::from_str(&run_text(SYNTHDISK, &args)).unwrap()
}

fn initrds(map: &Value) -> Vec<String> {
    let list = map["boot"]["initrds"].as_array().expect("a list");
    list.iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn hardware(map: &Value) -> (&str, &str) {
    let text = |key: &str| map["boot"]["hardware"][key].as_str().unwrap();
    (text("bus"), text("nic"))
}

fn is_left_alone(map: &Value, why: &str) {
    assert_eq!(initrds(map), ["/boot/initrd.img-1"], "{why}");
    assert!(!map["boot"]["cmdline"].as_str().unwrap().contains("rdinit"), "{why}");
    assert_eq!(hardware(map).0, "virtio", "{why}");
    assert_eq!(map["boot"]["warnings"], serde_json::json!([]), "{why}");
}

/// The bytes of the initrd as the loader gets them: all regions of that kind, and zeros between.
fn loaded(map: &Value, disk: &Path) -> Vec<u8> {
    let regions = map["regions"].as_array().unwrap();
    let number = |r: &Value, key: &str| r[key].as_u64().unwrap();
    let found: Vec<_> = regions.iter().filter(|r| r["kind"] == "initrd").collect();
    let start = number(found[0], "start");
    let last = found.last().unwrap();
    let end = number(last, "start") + number(last, "length");
    bytes_of(disk, start, (end - start) as usize)
}

#[test]
fn drivers_are_put_in_front() {
    let guest = xen_guest(|_| ());
    let mapped = map(&guest.image, &[]);
    let names = initrds(&mapped);
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], format!("{} from /lib/modules/{VERSION} in the guest", ORDER.join(", ")));
    let cmdline = mapped["boot"]["cmdline"].as_str().unwrap();
    assert!(cmdline.ends_with(" rdinit=/synthdisk/init"), "{cmdline}");
    assert_eq!(hardware(&mapped), ("virtio", "virtio-net-pci"));
    assert_eq!(mapped, map(&guest.image, &[]), "the same guest gives the same disk");

    let mount = Mount::new(&[], &guest.image);
    let bytes = loaded(&mapped, &mount.disk());
    let found = Initrd::read(&mut Whole(bytes.clone()), &Budget::new()).unwrap();
    assert_eq!(found.problem, None);
    assert_eq!(found.segments.len(), 2);
    assert!(found.has_driver(VERSION, "xen_blkfront"), "the guest's own initrd is there");
    assert_eq!(found.entries["synthdisk"], InitrdEntry::Dir);
    for (name, seed) in ORDER.iter().zip(0..) {
        let path = format!("synthdisk/{name}.ko");
        assert_eq!(found.entries[&path], InitrdEntry::File(3001), "{path}");
        let module = module(seed);
        assert!(bytes.windows(3001).any(|w| w == module), "{name} is unpacked");
    }
    // No directory that the guest's initrd may have as a symlink.
    let own: Vec<_> = found.entries.iter().filter(|(p, _)| p.starts_with("synthdisk")).collect();
    let dirs = found.entries.iter().filter(|(_, e)| **e == InitrdEntry::Dir);
    assert_eq!(own.len(), 6);
    assert!(dirs.clone().any(|(p, _)| p == "usr") && dirs.count() == 8, "{:?}", found.entries);

    // cpio itself unpacks it, and the program is a program.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("initrd");
    fs::write(&file, &bytes).unwrap();
    let unpack = format!("cd {} && cpio -id --quiet <initrd", dir.path().display());
    run("sh", &["-c", &unpack]);
    let init = fs::read(dir.path().join("synthdisk/init")).unwrap();
    let table: String =
        ORDER.iter().map(|name| format!("/synthdisk/{name}.ko\0")).collect::<String>();
    let table = format!("\0/init\0{table}\0");
    assert!(init.ends_with(table.as_bytes()), "{}", String::from_utf8_lossy(&init));
    let ran = Command::new(dir.path().join("synthdisk/init")).stdin(Stdio::null()).output();
    let said = String::from_utf8_lossy(&ran.unwrap().stderr).into_owned();
    assert!(said.contains("cannot load the kernel module /synthdisk/virtio.ko: error 2"), "{said}");
    mount.unmount();
}

#[test]
fn only_where_they_are_needed() {
    let initrd = |names: &'static [&str]| {
        move |tree: &Path| write_initrd(&tree.join("boot/initrd.img-1"), names)
    };
    let has_all = xen_guest(initrd(&["virtio_pci", "virtio_blk"]));
    is_left_alone(&map(&has_all.image, &[]), "the initrd has them");

    let has_one = xen_guest(initrd(&["virtio_pci"]));
    let mapped = map(&has_one.image, &[]);
    let names = initrds(&mapped);
    assert!(names[0].starts_with("virtio, virtio_ring, virtio_blk from"), "{names:?}");

    let builtin = xen_guest(|tree| {
        let file = tree.join("lib/modules").join(VERSION).join("modules.builtin");
        fs::write(
            file,
            "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/block/virtio_blk.ko\n",
        )
        .unwrap();
    });
    is_left_alone(&map(&builtin.image, &[]), "they are built in");

    let plain = xen_guest(|_| ());
    is_left_alone(&map(&plain.image, &["--adapt", "none"]), "it is not wanted");

    let other = xen_guest(|tree| {
        fs::rename(tree.join("lib/modules").join(VERSION), tree.join("lib/modules/6.9")).unwrap();
    });
    is_left_alone(&map(&other.image, &[]), "nothing is known of this kernel");
}

/// Debian's default includes all drivers, so the initrd itself is not read.
#[test]
fn a_configuration_that_says_so_is_believed() {
    let guest = |modules: &str, made_with: &str, initrd: &str| {
        xen_guest(|tree| {
            let modules_of_it = &["xen-blkfront"];
            write_initrd_made_with(made_with, &tree.join("boot/initrd.img-1"), modules_of_it);
            fs::create_dir_all(tree.join("usr/sbin")).unwrap();
            fs::write(tree.join("usr/sbin/mkinitramfs"), "").unwrap();
            fs::create_dir_all(tree.join("etc/initramfs-tools")).unwrap();
            let conf = tree.join("etc/initramfs-tools/initramfs.conf");
            fs::write(&conf, format!("MODULES={modules}\n")).unwrap();
            let initrd_file = tree.join("boot/initrd.img-1");
            run("touch", &["-d".as_ref(), "2020-01-01".as_ref(), conf.as_os_str()]);
            run("touch", &["-d".as_ref(), initrd.as_ref(), initrd_file.as_os_str()]);
        })
    };
    is_left_alone(&map(&guest("most", "most", "2020-01-02").image, &[]), "most");
    for (modules, made_with, initrd) in [
        ("dep", "dep", "2020-01-02"),
        // Made before the configuration was changed.
        ("most", "list", "2019-01-02"),
        // Its own setting decides, whatever its time says.
        ("most", "list", "2020-01-02"),
    ] {
        let mapped = map(&guest(modules, made_with, initrd).image, &[]);
        assert_eq!(initrds(&mapped).len(), 2, "{modules} {made_with} {initrd}");
    }
}

/// Where no driver can be added, the machine gets other devices.
#[test]
fn another_machine_where_drivers_are_missing() {
    let lacks = Tiny::with(|tree| {
        write_modules(&tree.join("lib/modules").join(VERSION), &ALL[..3]);
        let net =
            tree.join("lib/modules").join(VERSION).join("kernel/drivers/net/ethernet/realtek");
        fs::create_dir_all(&net).unwrap();
        fs::write(net.join("8139cp.ko"), "module").unwrap();
        write_initrd(&tree.join("boot/initrd.img-1"), &["xen-blkfront"]);
    });
    let warning = |map: &Value| map["boot"]["warnings"][0].as_str().unwrap_or_default().to_owned();
    let mapped = map(&lacks.image, &[]);
    assert_eq!(hardware(&mapped), ("ahci", "rtl8139"));
    assert_eq!(initrds(&mapped), ["/boot/initrd.img-1"]);
    assert!(warning(&mapped).contains("has no virtio_pci and no virtio_blk"), "{mapped}");
    assert!(warning(&mapped).contains("AHCI"), "{mapped}");

    // --cmdline is used verbatim.
    let whole = xen_guest(|_| ());
    let mapped = map(&whole.image, &["--cmdline", "root=/dev/sda1"]);
    assert_eq!(hardware(&mapped).0, "ahci");
    assert_eq!(mapped["boot"]["cmdline"], "root=/dev/sda1");

    // A file that is no module.
    let broken = xen_guest(|tree| {
        let dir = tree.join("lib/modules").join(VERSION).join("kernel/drivers/virtio");
        fs::write(dir.join("virtio_pci.ko"), "no module").unwrap();
    });
    let mapped = map(&broken.image, &[]);
    assert_eq!(hardware(&mapped).0, "ahci");
    assert!(
        warning(&mapped).contains("virtio_pci.ko in the guest is no kernel module"),
        "{mapped}"
    );

    // The mount's summary says so, and its `try it` command does it.
    let stderr = Command::new(SYNTHDISK)
        .args(["run", "--dry-run", "--accel", "tcg"])
        .arg(&lacks.image)
        .output()
        .unwrap();
    let line = String::from_utf8_lossy(&stderr.stdout).into_owned();
    assert!(line.contains("ide-hd,bus=ahci.0") && line.contains("rtl8139"), "{line}");
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new(SYNTHDISK).arg("mount").arg(&lacks.image).arg(dir.path()).output();
    let mount = Mount::adopt(dir.path());
    let said = String::from_utf8_lossy(&mounted.unwrap().stderr).into_owned();
    assert!(said.contains("note:    the guest's initrd has no virtio_pci"), "{said}");
    let try_it = said.lines().find_map(|l| l.strip_prefix("try it:  ")).expect("a command");
    for word in [
        "if=none,id=d0",
        "-device ich9-ahci,id=ahci",
        "ide-hd,bus=ahci.0,drive=d0",
        "-device rtl8139,netdev=net0",
    ] {
        assert!(try_it.contains(word), "{try_it}");
    }
    mount.unmount();
}

#[test]
fn an_initrd_that_cannot_be_read_is_said() {
    let noise = xen_guest(|tree| {
        fs::write(tree.join("boot/initrd.img-1"), b"neither this nor that").unwrap();
    });
    let mapped = map(&noise.image, &[]);
    assert_eq!(initrds(&mapped).len(), 1);
    assert_eq!(hardware(&mapped).0, "virtio");
    let warning = mapped["boot"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("cannot tell whether") && warning.contains("neither"), "{warning}");
    // lzo is not read here, but by Linux: drivers that are present twice do no harm.
    let lzo = xen_guest(|tree| {
        fs::write(tree.join("boot/initrd.img-1"), b"\x89LZO\0\r\n\x1a\n and so on").unwrap();
    });
    assert_eq!(initrds(&map(&lzo.image, &[])).len(), 2);
}

/// The kernel in a separate /boot, its modules in the root filesystem; and an `rdinit=` of the
/// guest's own.
#[test]
fn a_separate_boot() {
    let field = Field::new();
    let tree = tempfile::tempdir().unwrap();
    let modules = tree.path().join("modules");
    write_modules(&modules, &ALL);
    let initrd = tree.path().join("initrd");
    write_initrd(&initrd, &["xen-blkfront"]);
    let menu = "default 0\ntitle T\nroot (hd0,0)\nkernel /vmlinuz-1 root=/dev/xvda2 rdinit=/start \
                ro -- single\ninitrd /initrd.img-1\n";
    let kernel = crate::common::tiny::fake_kernel(1);
    let initrd = fs::read(initrd).unwrap();
    let boot = [
        ("vmlinuz-1", kernel.as_slice()),
        ("initrd.img-1", &initrd),
        ("grub/menu.lst", menu.as_bytes()),
    ];
    field.ext4("boot.img", HOME, &boot);
    let read = |path: &str| fs::read(modules.join(path)).unwrap();
    let names: Vec<String> = DEP
        .lines()
        .map(|l| l.split(':').next().unwrap().to_owned())
        .chain(["modules.dep".into(), "modules.builtin".into()])
        .collect();
    let files: Vec<(String, Vec<u8>)> =
        names.iter().map(|n| (format!("usr/lib/modules/{VERSION}/{n}"), read(n))).collect();
    let mut root: Vec<(&str, &[u8])> =
        files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    root.push(("etc/fstab", b"/dev/xvda2 / ext4 defaults 0 1\n"));
    field.ext4("root.img", ROOT, &root);
    let config =
        field.config("bootloader = 'pygrub'\ndisk = ['boot.img,,xvda1', 'root.img,,xvda2']\n");
    let mapped = crate::common::field::map(&config, &[]);
    // The guest's initrd has no /start, so there would be no program to continue with.
    assert_eq!(hardware(&mapped).0, "ahci", "{mapped}");
    let menu = menu.replace("rdinit=/start", "rdinit=/init quiet");
    let boot = [boot[0], boot[1], ("grub/menu.lst", menu.as_bytes())];
    field.ext4("boot2.img", HOME, &boot);
    let config =
        field.config("bootloader = 'pygrub'\ndisk = ['boot2.img,,xvda1', 'root.img,,xvda2']\n");
    let mapped = crate::common::field::map(&config, &[]);
    let names = initrds(&mapped);
    assert!(names[0].ends_with(&format!("/usr/lib/modules/{VERSION} in the guest")), "{names:?}");
    let cmdline = mapped["boot"]["cmdline"].as_str().unwrap();
    assert!(cmdline.contains("rdinit=/synthdisk/init -- single"), "{cmdline}");
    assert!(!cmdline.contains("rdinit=/init"), "{cmdline}");
}
