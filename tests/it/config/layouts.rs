//! Disks made from domU configs: layouts from production, compared with what sfdisk and others say.

use std::fs;
use std::path::Path;

use crate::common::field::{BOOT, DATA, Field, HOME, ROOT, SWAP, blkid, map, mount, table, word};
use crate::common::mount::{LoopDev, Mount};
use crate::common::process::{is_root, run, run_text, skip};
use crate::common::tiny::noise;

const MIB: u64 = 1 << 20;
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
/// For a GRUB that the guest installs.
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const LINUX_SWAP: &str = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F";

/// Number, kind and length of each partition.
fn shape(disk: &Path) -> Vec<(u32, String, u64)> {
    table(disk).1.into_iter().map(|p| (p.number, p.kind, p.len)).collect()
}

fn same(image: &Path, shown: &Path) {
    run("cmp", &[image, shown]);
}

/// The synthesised swap area has what mkswap had written into the image.
fn same_swap(image: &Path, shown: &Path) {
    let label = run_text("swaplabel", &[image]);
    assert!(label.contains(SWAP), "{label}");
    assert_eq!(run_text("swaplabel", &[shown]), label);
    assert_eq!(fs::metadata(shown).unwrap().len(), fs::metadata(image).unwrap().len());
    assert_eq!(blkid(shown, "TYPE"), "swap");
}

fn gpt_is_clean(disk: &Path) {
    let verdict = run_text("sgdisk", &["-v".as_ref(), disk.as_os_str()]);
    assert!(verdict.contains("No problems found"), "{verdict}");
}

#[test]
fn as_xen_tools_writes_it() {
    let (field, config) = Field::xen_tools();
    let mount = mount(&config, &["--adapt", "none"]);
    let expected = [(1, "82".to_owned(), MIB), (2, "83".to_owned(), 16 * MIB)];
    assert_eq!(shape(&mount.disk()), expected);
    assert_eq!(table(&mount.disk()).0, "dos");
    same(&field.path("disk.img"), &mount.part(2));
    same_swap(&field.path("swap.img"), &mount.part(1));
    assert!(mount.printed().contains("boots:   Tiny 1\n"), "{}", mount.printed());
    assert!(!mount.dir().join("part3.raw").exists());
    mount.unmount();
    let mapped = map(&config, &[]);
    assert_eq!(mapped["name"], "domu");
    let cmdline = crate::common::field::cmdline(&mapped);
    assert_eq!(word(&cmdline, "root="), format!("UUID={ROOT}"));
    assert_eq!(cmdline.matches("root=").count(), 1, "{cmdline}");
}

/// Old contents of a swap image stay hidden: the area is generated.
#[test]
fn what_lay_in_swap_is_not_shown() {
    let field = Field::new();
    field.root("root.img", "");
    let swap = field.path("swap.img");
    fs::write(&swap, noise(MIB as usize, 4)).unwrap();
    run("chmod", &["600".as_ref(), swap.as_os_str()]);
    run("mkswap", &["-q", "-U", SWAP, &swap.to_string_lossy()]);
    field.guard(&swap);
    let mount = field.mount("disk = ['root.img,,xvda2', 'swap.img,,xvda1']\n", &[]);
    same_swap(&swap, &mount.part(1));
    let shown = fs::read(mount.part(1)).unwrap();
    assert!(shown[4096..].iter().all(|b| *b == 0));
    mount.unmount();
}

#[test]
fn root_first_swap_second() {
    let field = Field::new();
    let root = field.root("root.img", "/dev/xvda1 / ext4 defaults 0 1\n");
    let swap = field.swap("swap.img", 3 * MIB, "s");
    let text = "root = '/dev/xvda1 ro'\ndisk = ['phy:root.img,xvda1,w', 'phy:swap.img,xvda2,w']\n";
    let mount = field.mount(text, &["--adapt", "none"]);
    let expected = [(1, "83".to_owned(), 16 * MIB), (2, "82".to_owned(), 3 * MIB)];
    assert_eq!(shape(&mount.disk()), expected);
    same(&root, &mount.part(1));
    same_swap(&swap, &mount.part(2));
    mount.unmount();
}

#[test]
fn bare_filesystem_and_bare_swap() {
    let field = Field::new();
    let root =
        field.root("root.img", "/dev/xvda / ext4 defaults 0 1\n/dev/xvdb none swap sw 0 0\n");
    let swap = field.swap("swap.img", MIB, "s");
    let text = "root = '/dev/xvda ro'\ndisk = ['root.img,raw,xvda,rw', 'swap.img,raw,xvdb,rw']\n";
    let config = field.config(text);
    let mount = mount(&config, &[]);
    let b = |name: &str| mount.dir().join(name);
    assert_eq!(shape(&mount.disk()), [(1, "83".to_owned(), 16 * MIB)]);
    assert_eq!(shape(&b("disk-b.raw")), [(1, "82".to_owned(), MIB)]);
    assert_eq!(blkid(&mount.part(1), "UUID"), ROOT);
    same_swap(&swap, &b("disk-b-part1.raw"));
    assert_eq!(
        mount.guest_file("/etc/fstab").unwrap(),
        format!("UUID={ROOT} / ext4 defaults 0 1\nUUID={SWAP} none swap sw 0 0\n")
    );
    run("e2fsck", &["-fn".as_ref(), mount.part(1).as_os_str()]);
    assert_ne!(blkid(&mount.disk(), "PTUUID"), blkid(&b("disk-b.raw"), "PTUUID"));
    mount.unmount();
    let plain = crate::common::field::mount(&config, &["--adapt", "none"]);
    same(&root, &plain.part(1));
    plain.unmount();
}

/// Disks made from copies of one image get different identifiers.
#[test]
fn copies_have_identifiers_of_their_own() {
    let field = Field::new();
    let root = field.root("root.img", "");
    fs::copy(root, field.path("copy.img")).unwrap();
    let text = "disk = ['root.img,,xvda1', 'copy.img,,xvdb1', 'copy.img,,xvdc1']\n";
    for table in ["mbr", "gpt"] {
        let mount = field.mount(text, &["--table", table]);
        let disks = ["disk.raw", "disk-b.raw", "disk-c.raw"].map(|name| mount.dir().join(name));
        let mut ids: Vec<_> = disks.iter().map(|disk| blkid(disk, "PTUUID")).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3, "{ids:?}");
        mount.unmount();
    }
}

/// The firmware boots the first bootable disk.
#[test]
fn bare_swap_before_the_bare_root() {
    let field = Field::new();
    field.root("root.img", "/dev/xvdb / ext4 defaults 0 1\n/dev/xvda none swap sw 0 0\n");
    let swap = field.swap("swap.img", MIB, "s");
    let text = "root = '/dev/xvdb ro'\ndisk = ['swap.img,raw,xvda,rw', 'root.img,raw,xvdb,rw']\n";
    let config = field.config(text);
    let mapped = map(&config, &[]);
    assert_eq!(word(&crate::common::field::cmdline(&mapped), "root="), format!("UUID={ROOT}"));
    assert_eq!((&mapped["file"], &mapped["vdev"]), (&"disk.raw".into(), &"xvdb".into()));
    let mount = mount(&config, &[]);
    assert_eq!(blkid(&mount.part(1), "UUID"), ROOT);
    same_swap(&swap, &mount.dir().join("disk-a-part1.raw"));
    let fstab = mount.guest_file("/etc/fstab").unwrap();
    assert!(fstab.contains(&format!("UUID={SWAP} none swap")), "{fstab}");
    mount.unmount();
}

/// A disk with its own partition table, as HVM guests have, and partitions beside it.
#[test]
fn a_whole_disk_with_boot_code_is_passed_through() {
    let field = Field::new();
    let whole = field.path("whole.img");
    let bytes = noise(8 * MIB as usize, 9);
    fs::write(&whole, &bytes).unwrap();
    let script = "printf 'label: dos\\nstart=2048, type=83\\n' | sfdisk -q \"$0\"";
    run("sh", &["-c".as_ref(), script.as_ref(), whole.as_os_str()]);
    field.guard(&whole);
    let data = field.ext4("data.img", DATA, &[("file", b"data")]);
    let mount = field.mount("disk = ['whole.img,,xvda', 'data.img,,xvdb1']\n", &[]);
    same(&whole, &mount.disk());
    assert_eq!(shape(&mount.disk()), [(1, "83".to_owned(), 7 * MIB)]);
    assert!(mount.printed().contains("boots:   by its own boot loader"), "{}", mount.printed());
    crate::common::file::bytes_of(mount.part(1), 7 * MIB - 1, 1);
    let b = mount.dir().join("disk-b.raw");
    assert_eq!(shape(&b), [(1, "83".to_owned(), 16 * MIB)]);
    same(&data, &mount.dir().join("disk-b-part1.raw"));
    // Copy-on-write.
    let disk = crate::common::file::writer(mount.disk());
    crate::common::file::write_at(&disk, b"written", 3 * MIB);
    assert_eq!(crate::common::file::bytes_of(mount.disk(), 3 * MIB, 7), b"written");
    drop(disk);
    mount.unmount();
}

#[test]
fn five_partitions_make_a_gpt() {
    let field = Field::new();
    let root = field.root("root.img", "/dev/xvda1 / ext4 defaults 0 1\n");
    let swap = field.swap("swap.img", MIB, "five");
    let extra: Vec<_> = [(5, HOME), (6, DATA), (9, BOOT)]
        .iter()
        .map(|(n, uuid)| {
            let text = n.to_string();
            (*n, field.ext4(&format!("p{n}.img"), uuid, &[("number", text.as_bytes())]))
        })
        .collect();
    let text = "root = '/dev/xvda1 ro'\ndisk = ['p9.img,,xvda9', 'root.img,,xvda1', \
                'swap.img,,xvda2', 'p5.img,,xvda5', 'p6.img,,xvda6']\n";
    let mount = field.mount(text, &["--adapt", "none"]);
    gpt_is_clean(&mount.disk());
    let (label, parts) = table(&mount.disk());
    assert_eq!(label, "gpt");
    let found: Vec<_> = parts.iter().map(|p| (p.number, &*p.kind)).collect();
    let own = (10, BIOS_BOOT);
    assert_eq!(found, [(1, LINUX), (2, LINUX_SWAP), (5, LINUX), (6, LINUX), (9, LINUX), own]);
    same(&root, &mount.part(1));
    same_swap(&swap, &mount.part(2));
    for (n, image) in &extra {
        same(image, &mount.part(*n));
    }
    // At the offsets in the table, the disk shows the partitions' bytes.
    for p in &parts {
        let shown = crate::common::file::bytes_of(mount.part(p.number), 0, MIB as usize);
        assert_eq!(crate::common::file::bytes_of(mount.disk(), p.start, MIB as usize), shown);
    }
    if is_root() {
        let device = LoopDev::attach_partitions(mount.disk(), false);
        for (n, uuid) in [(1, ROOT), (2, SWAP), (5, HOME), (6, DATA), (9, BOOT)] {
            assert_eq!(blkid(&device.partition(n), "UUID"), uuid);
        }
    }
    mount.unmount();
}

/// Numbers above 4 do not fit an MBR of primaries, however few there are.
#[test]
fn gaps_in_the_numbering_are_kept() {
    let field = Field::new();
    field.root("root.img", "");
    field.swap("swap.img", MIB, "s");
    field.ext4("home.img", HOME, &[]);
    let disks = |n| format!("disk = ['root.img,,xvda1', 'swap.img,,xvda2', 'home.img,,xvda{n}']\n");
    for (n, kind) in [(4, "dos"), (5, "gpt")] {
        let mount = field.mount(&disks(n), &[]);
        let (label, parts) = table(&mount.disk());
        assert_eq!(label, kind);
        let own = (kind == "gpt").then_some(n + 1);
        let numbers: Vec<u32> = [1, 2, n].into_iter().chain(own).collect();
        assert_eq!(parts.iter().map(|p| p.number).collect::<Vec<_>>(), numbers);
        assert_eq!(blkid(&mount.part(n), "UUID"), HOME);
        mount.unmount();
    }
    let mount = field.mount(&disks(4), &["--table", "gpt"]);
    gpt_is_clean(&mount.disk());
    mount.unmount();
    let said = field.refused(&disks(5), &["--table", "mbr"]);
    assert!(said.contains("gpt") && said.contains('5'), "{said}");
}

#[test]
fn more_than_two_tebibytes_make_a_gpt() {
    let field = Field::new();
    field.root("root.img", "");
    let huge = field.path("huge.img");
    let len = (2 << 40) + 12_345 * 4096;
    let file = fs::File::create(&huge).unwrap();
    if file.set_len(len).is_err() {
        skip("this filesystem takes no file of 2 TiB");
        return;
    }
    crate::common::file::write_at(&file, b"the start", 0);
    crate::common::file::write_at(&file, b"the end", len - 7);
    let config = field.config("disk = ['root.img,,xvda1', 'huge.img,,xvda3']\n");
    let mapped = map(&config, &[]);
    assert_eq!(mapped["table"], "gpt");
    let mount = mount(&config, &[]);
    gpt_is_clean(&mount.disk());
    let (_, parts) = table(&mount.disk());
    assert_eq!((parts[1].number, parts[1].len), (3, len));
    assert_eq!(
        crate::common::file::bytes_of(mount.disk(), parts[1].start + len - 7, 7),
        b"the end"
    );
    assert_eq!(crate::common::file::bytes_of(mount.part(3), 0, 9), b"the start");
    mount.unmount();
    let said = field.refused("disk = ['root.img,,xvda1', 'huge.img,,xvda3']\n", &["--table=mbr"]);
    assert!(said.contains("2 TiB"), "{said}");
}

/// Paths are relative to the config, not to the current directory; `phy:` may be a device.
#[test]
fn paths_and_prefixes() {
    let field = Field::new();
    fs::create_dir(field.path("images")).unwrap();
    let root = field.root("images/root.img", "");
    let swap = field.swap("swap.img", MIB, "s");
    for spec in [
        "images/root.img,,xvda1",
        "file:images/root.img,xvda1,w",
        "tap:aio:images/root.img,xvda1,w",
    ] {
        let mount = field.mount(&format!("disk = ['{spec}']\n"), &["--adapt=none"]);
        same(&root, &mount.part(1));
        mount.unmount();
    }
    let absolute = field.arg("images/root.img");
    for spec in [
        format!("phy:{absolute},xvda1,w"),
        format!("{absolute},raw,xvda1,w"),
        format!("vdev=xvda1, access=rw, target={absolute}"),
    ] {
        let mount = field.mount(&format!("disk = ['{spec}']\n"), &["--adapt=none"]);
        same(&root, &mount.part(1));
        mount.unmount();
    }
    if is_root() {
        let device = LoopDev::attach(&root, true);
        let name = device.device().file_name().unwrap().to_str().unwrap();
        // As with xm: relative to /dev.
        for target in [format!("phy:{name}"), format!("phy:/dev/{name}")] {
            let text = format!("disk = ['{target},xvda2,w', 'file:swap.img,xvda1,w']\n");
            let mount = field.mount(&text, &["--adapt=none"]);
            same(&root, &mount.part(2));
            same_swap(&swap, &mount.part(1));
            mount.unmount();
        }
    }
}

/// Several images without a config are partitions 1, 2, 3.
#[test]
fn several_images() {
    let field = Field::new();
    let root =
        field.root("root.img", "/dev/xvda1 / ext4 defaults 0 1\n/dev/xvda3 /home ext4 x 0 2\n");
    let swap = field.swap("swap.img", MIB, "s");
    let home = field.ext4("home.img", HOME, &[("file", b"at home")]);
    let mount = Mount::of(&[], &[&root, &swap, &home]);
    let expected = [(1, "83", 16 * MIB), (2, "82", MIB), (3, "83", 16 * MIB)];
    assert_eq!(shape(&mount.disk()), expected.map(|(n, k, l)| (n, k.to_owned(), l)));
    same_swap(&swap, &mount.part(2));
    same(&home, &mount.part(3));
    assert_eq!(
        mount.guest_file("/etc/fstab").unwrap(),
        format!("UUID={ROOT} / ext4 defaults 0 1\nUUID={HOME} /home ext4 x 0 2\n")
    );
    mount.unmount();
    // Swap is wanted but none is there.
    let mount = Mount::of(&["--swap", "2M"], &[&root, &home]);
    let expected = [(1, "83", 16 * MIB), (2, "83", 16 * MIB), (3, "82", 2 * MIB)];
    assert_eq!(shape(&mount.disk()), expected.map(|(n, k, l)| (n, k.to_owned(), l)));
    mount.unmount();
}
