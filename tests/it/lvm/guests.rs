//! Guests whose root filesystem is on a logical volume, as CentOS and RHEL install them: /boot on
//! the first partition, and a physical volume on the second.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::field::{BOOT, Field, ROOT, SWAP, cmdline, map, mount, table, word};
use crate::common::file::{bytes_of, write_at, writer};
use crate::common::hash::Untouched;
use crate::common::lvm::Group;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, output, run, run_text, text};
use crate::common::tiny::{Tiny, fake_kernel, initrd};
use crate::common::whole::{put, whole_disk};

const MIB: u64 = 1 << 20;

/// A guest with /boot on xvda1, and `vg-01/root` and `vg-01/swap` on xvda2.
struct Centos {
    field: Field,
    group: Group,
    config: String,
}

const FSTAB: &str = "/dev/mapper/vg--01-root / ext4 defaults 0 1\n/dev/xvda1 /boot ext4 defaults 0 2\n\
                     /dev/mapper/vg--01-swap none swap sw 0 0\n";

impl Centos {
    fn new(files: &[(&str, &[u8])]) -> Option<Self> {
        Self::of(&format!("root={}", "/dev/mapper/vg--01-root"), files)
    }

    fn of(root: &str, files: &[(&str, &[u8])]) -> Option<Self> {
        let mut group = Group::new("vg-01", MIB, &[(40 * MIB, &[])])?;
        let field = Field::new();
        let menu = format!(
            "default=0\ntitle CentOS\n\troot (hd0,0)\n\tkernel /vmlinuz-1 ro {root} \
             rd_LVM_LV=vg-01/root console=hvc0\n\tinitrd /initrd.img-1\n"
        );
        field.ext4(
            "boot.img",
            BOOT,
            &[
                ("vmlinuz-1", &fake_kernel(1)),
                ("initrd.img-1", &initrd(101)),
                ("grub/grub.conf", menu.as_bytes()),
            ],
        );
        let modules = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/block/virtio_blk.ko\n\
                       kernel/fs/ext4/ext4.ko\nkernel/drivers/md/dm-mod.ko\n";
        let mut tree: Vec<(&str, &[u8])> = vec![
            ("etc/fstab", FSTAB.as_bytes()),
            ("boot/.keep", b""),
            ("lib/modules/6.1.0-tiny/modules.dep", b""),
            ("lib/modules/6.1.0-tiny/modules.builtin", modules.as_bytes()),
        ];
        tree.extend(files);
        let root = field.ext4("root.img", ROOT, &tree);
        let swap = field.swap("swap.img", 4 * MIB, "sw");
        group.create_from("swap", 4, &swap);
        group.create_from("root", 16, &root);
        group.detach();
        field.guard(&group.part(0));
        let pv = group.part(0).to_string_lossy().into_owned();
        let config = field.config(&format!(
            "bootloader = 'pygrub'\nmemory = 512\nname = 'centos'\n\
             disk = ['boot.img,,xvda1', '{pv},,xvda2']\n"
        ));
        Some(Self { field, group, config })
    }
}

fn inspect(args: &[&str]) -> Value {
    let args = [&["inspect", "--json"], args].concat();
    serde_json::from_slice(&run(SYNTHDISK, &args).stdout).expect("JSON")
}

/// A file of the filesystem in an image.
fn cat(image: &Path, path: &str) -> String {
    let found = output("debugfs", &["-R", &format!("cat {path}"), &image.to_string_lossy()]);
    text(&found.stdout)
}

#[test]
fn it_boots_by_its_own_names_and_is_adapted() {
    let Some(centos) = Centos::new(&[]) else { return };
    let mapped = map(&centos.config, &[]);
    let words = cmdline(&mapped);
    assert_eq!(word(&words, "root="), "/dev/mapper/vg--01-root");
    assert_eq!(word(&words, "rd_LVM_LV="), "vg-01/root");
    assert!(words.ends_with("console=ttyS0"), "{words}");
    assert_eq!(mapped["boot"]["title"], "CentOS");

    let mount = mount(&centos.config, &[]);
    let printed = mount.printed();
    assert!(printed.contains("adapted: /etc/fstab: /dev/xvda1 became UUID="), "{printed}");
    let root = mount.dir().join("vg--01-root.raw");
    run("e2fsck", &["-fn".as_ref(), root.as_os_str()]);
    let fstab = cat(&root, "/etc/fstab");
    assert_eq!(fstab, FSTAB.replace("/dev/xvda1", &format!("UUID={BOOT}")));
    assert_eq!(
        run_text("blkid", &["-p", "-o", "value", "-s", "UUID", &root.to_string_lossy()]),
        ROOT
    );
    let swap = mount.dir().join("vg--01-swap.raw");
    run("cmp", &[swap.as_os_str(), centos.field.path("swap.img").as_os_str()]);
    let kinds: Vec<String> = table(&mount.disk()).1.into_iter().map(|p| p.kind).collect();
    assert_eq!(kinds, ["83", "8e"]);
    mount.unmount();
}

/// The same guest as one image with a partition table, as XenServer has it.
#[test]
fn on_a_whole_disk() {
    let Some(centos) = Centos::new(&[]) else { return };
    let disk = centos.field.path("disk.img");
    let script = "label: dos\nstart=63, size=32768, bootable\nstart=34816, size=81920, type=8e\n";
    whole_disk(&disk, 60 * MIB, script);
    put(&disk, 63, &centos.field.path("boot.img"));
    put(&disk, 34816, &centos.group.part(0));
    centos.field.guard(&disk);
    let mount = Mount::new(&[], &disk);
    let printed = mount.printed();
    assert!(printed.contains("root=/dev/mapper/vg--01-root"), "{printed}");
    let root = mount.dir().join("vg--01-root.raw");
    run("e2fsck", &["-fn".as_ref(), root.as_os_str()]);
    assert_eq!(cat(&root, "/etc/fstab"), FSTAB.replace("/dev/xvda1", &format!("UUID={BOOT}")));
    let swap = mount.dir().join("vg--01-swap.raw");
    run("cmp", &[swap.as_os_str(), centos.field.path("swap.img").as_os_str()]);
    assert_eq!(table(&mount.disk()), table(&disk));
    mount.unmount();
}

#[test]
fn inspect_looks_into_volumes() {
    let filter = b"devices {\n\tfilter = [ \"a|^/dev/xvd|\", \"r|.*|\" ]\n}\n";
    let Some(centos) = Centos::new(&[("etc/lvm/lvm.conf", filter), ("etc/hostname", b"centos6\n")])
    else {
        return;
    };
    let report = inspect(&["--config", &centos.config]);
    assert_eq!(report["verdict"]["answer"], "boots-with-edits", "{report:#}");
    let volumes = report["volumes"].as_array().unwrap();
    let of = |i: usize, key: &str| volumes[i][key].clone();
    assert_eq!((of(0, "name"), of(0, "type")), (json!("swap"), json!("swap")));
    assert_eq!(of(0, "uuid"), SWAP);
    assert_eq!((of(1, "file"), of(1, "group")), (json!("vg--01-root.raw"), json!("vg-01")));
    assert_eq!((of(1, "type"), of(1, "uuid")), (json!("ext4"), json!(ROOT)));
    assert_eq!((of(1, "size"), of(1, "journal")), (json!(16 * MIB), json!("clean")));
    assert_eq!(report["disks"][0]["partitions"][1]["type"], "LVM2_member");
    assert_eq!(report["guest"]["partition"], "vg--01-root.raw");
    assert_eq!(report["guest"]["hostname"], "centos6");
    let checks = report["checks"].as_array().unwrap();
    let check = |name: &str| checks.iter().find(|c| c["name"] == name).unwrap();
    assert_eq!(check("root")["outcome"], "ok");
    assert_eq!(check("lvm")["outcome"], "warn");
    let text = run_text(SYNTHDISK, &["inspect", "--config", &centos.config]);
    assert!(text.contains("volume   vg--01-root.raw  ext4 16 MiB, "), "{text}");
}

/// The other names of a volume mean the same.
#[test]
fn roots_by_other_names() {
    for root in ["root=/dev/vg-01/root", "root=UUID=74696e79-6775-4573-8074-0000000000a1"] {
        let Some(centos) = Centos::of(root, &[]) else { return };
        assert_eq!(format!("root={}", word(&cmdline(&map(&centos.config, &[])), "root=")), root);
        let report = inspect(&["--config", &centos.config]);
        assert_eq!(report["guest"]["partition"], "vg--01-root.raw", "{root}");
    }
}

#[test]
fn a_clone_is_edited_and_its_overlay_remembered() {
    let Some(centos) = Centos::new(&[("etc/hostname", b"golden\n")]) else { return };
    let overlay = centos.field.arg("clone.qcow2");
    let options = ["--overlay", &overlay, "--hostname", "clone7"];
    let root_of = |mount: &Mount| mount.dir().join("vg--01-root.raw");
    let first = mount(&centos.config, &options);
    assert_eq!(cat(&root_of(&first), "/etc/hostname"), "clone7\n");
    first.unmount();
    let again = mount(&centos.config, &options);
    assert!(!again.printed().contains("adapted: "), "{}", again.printed());
    assert_eq!(cat(&root_of(&again), "/etc/hostname"), "clone7\n");
    again.unmount();
    // What is written out is the same.
    let raw = centos.field.arg("clone.raw");
    let args = ["finalize", "--config", &centos.config, "--overlay", &overlay, "-o", &raw];
    run(SYNTHDISK, &[&args[..], &["--bootloader", "direct", "-q"]].concat());
    let mount = mount(&centos.config, &options);
    run("cmp", &[mount.disk().as_os_str(), raw.as_ref()]);
    mount.unmount();
}

/// The guest extended its root volume in its overlay: the next mount shows all of it.
#[test]
fn volumes_are_read_through_the_overlay() {
    let Some(mut group) = Group::new("vgtest", MIB, &[(32 * MIB, &[])]) else { return };
    group.create("root", 4, &[]);
    let before = fs::read(group.part(0)).unwrap();
    group.run("lvextend", &["-q", "-l", "+5", "vgtest/root"]);
    let after = fs::read(group.part(0)).unwrap();
    group.detach();
    fs::write(group.part(0), &before).unwrap();
    let untouched = Untouched::remember(group.part(0));
    let overlay = group.file("overlay.qcow2").to_string_lossy().into_owned();
    let options = ["--bootloader", "none", "--swap", "0", "--overlay", &overlay];
    let len = |mount: &Mount| fs::metadata(mount.dir().join("vgtest-root.raw")).unwrap().len();
    let mount = Mount::new(&options, group.part(0));
    assert_eq!(len(&mount), 4 * MIB);
    write_at(&writer(mount.part(1)), &after, 0);
    mount.unmount();
    let mount = Mount::new(&options, group.part(0));
    assert_eq!(len(&mount), 9 * MIB);
    mount.unmount();
    untouched.check();
}

/// A bare physical volume where a disk was expected becomes a partition.
#[test]
fn a_physical_volume_as_a_whole_disk() {
    let Some(centos) = Centos::new(&[]) else { return };
    let pv = centos.group.part(0).to_string_lossy().into_owned();
    let config = centos.field.config(&format!(
        "bootloader = 'pygrub'\nname = 'centos'\ndisk = ['boot.img,,xvda1', '{pv},,xvdb']\n"
    ));
    let report = inspect(&["--config", &config]);
    assert_eq!(report["guest"]["partition"], "vg--01-root.raw");
    assert_eq!(report["disks"][1]["partitions"][0]["type"], "LVM2_member");
    let mount = mount(&config, &[]);
    let fstab = cat(&mount.dir().join("vg--01-root.raw"), "/etc/fstab");
    assert!(fstab.contains(&format!("UUID={BOOT} /boot")), "{fstab}");
}

/// A guest without a separate /boot boots from its root volume, with either loader.
#[test]
fn boot_on_the_root_volume() {
    let Some(mut group) = Group::new("vg", MIB, &[(20 * MIB, &[])]) else { return };
    let tiny = Tiny::new();
    group.create_from("root", 16, &tiny.image);
    group.detach();
    let untouched = Untouched::remember(group.part(0));
    for loader in ["direct", "grub"] {
        let mount = Mount::new(&["--bootloader", loader], group.part(0));
        let printed = mount.printed();
        assert!(printed.contains("boots:   Tiny 1"), "{printed}");
        // The menu names a partition of the Xen machine that is not here.
        assert!(printed.contains("root=/dev/mapper/vg-root ro"), "{printed}");
        // GRUB's script is at a fixed place in the gap.
        let gap = bytes_of(mount.disk(), 4096 * 512, 64 * 512);
        let script = b"set synthdisk_volume='lvm/vg-root'";
        let has_script = gap.windows(script.len()).any(|window| window == script);
        assert_eq!(has_script, loader == "grub");
        mount.unmount();
    }
    untouched.check();
}
