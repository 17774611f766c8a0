//! Images with a partition table of their own: what is shown of them, and where a loader is put.

use std::fs;
use std::path::{Path, PathBuf};

use synthdisk::loader::direct::{PARAMS_LBA, Params, STAGE1};

use crate::common::field::{
    BOOT, DATA, FSTAB, Field, ROOT, SWAP, blkid, cmdline, map, table, word,
};
use crate::common::file::{bytes_of, write_at, writer};
use crate::common::mount::{Mount, expect_no_mount};
use crate::common::process::{SYNTHDISK, expect_failure, run, run_text};
use crate::common::tiny::{KERNEL_LEN, fake_kernel, menu, noise};
use crate::common::whole::{SHAPES, Shape, put, whole_disk};

const MIB: u64 = 1 << 20;

/// A root and a swap area as xen-tools makes them.
fn field() -> (Field, PathBuf, PathBuf) {
    let field = Field::new();
    let root = field.root("root.img", FSTAB);
    let swap = field.swap("swap.img", MIB, "swap");
    (field, root, swap)
}

fn made(field: &Field, shape: &Shape, root: &Path, swap: &Path) -> PathBuf {
    let disk = field.path(&format!("{}.img", shape.name));
    shape.make(&disk, root, Some(swap));
    field.guard(&disk);
    disk
}

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Everything but the code area of the MBR is the image's, up to its end.
fn keeps_the_image(image: &Path, shown: &Path) {
    let len = fs::metadata(image).unwrap().len();
    assert!(fs::metadata(shown).unwrap().len() > len);
    let all = usize::try_from(len).unwrap() - 440;
    let (image, shown) = (bytes_of(image, 440, all), bytes_of(shown, 440, all));
    let differs = image.iter().zip(&shown).position(|(a, b)| a != b);
    assert_eq!(differs.map(|at| at + 440), None, "first byte that differs");
}

/// Where the tail of a disk made from `image` begins.
fn tail(image: &Path) -> u64 {
    fs::metadata(image).unwrap().len().next_multiple_of(2 * MIB)
}

#[test]
#[ignore = "slow"]
fn tables_and_partitions_stay_and_the_loader_has_the_tail() {
    let (field, root, swap) = field();
    for shape in &SHAPES {
        let image = made(&field, shape, &root, &swap);
        let (number, at) = (shape.root_number, shape.root * 512);
        let direct = Mount::new(&["--adapt", "none"], &image);
        let said = direct.printed();
        assert!(
            said.contains("gets a boot loader of synthdisk: its MBR has no boot code"),
            "{said}"
        );
        assert!(said.contains("boots:   Tiny 1"), "{said}");
        assert!(said.contains(&format!("root=UUID={ROOT}")), "{}: {said}", shape.name);
        keeps_the_image(&image, &direct.disk());
        assert_eq!(table(&direct.disk()), table(&image));
        run("cmp", &[&root, &direct.part(number)]);
        run("cmp", &[&swap, &direct.part(1)]);
        assert_eq!(blkid(&direct.part(1), "UUID"), SWAP);
        assert_eq!(fs::metadata(direct.part(number)).unwrap().len(), 16 * MIB);
        // The boot code reads stage 2 from the tail, which has the kernel.
        let tail = tail(&image);
        let code = bytes_of(direct.disk(), 0, 440);
        let differs = (0..440).filter(|i| code[*i] != STAGE1[*i]).count();
        assert!(differs > 0 && differs <= 8, "{differs}");
        let block = bytes_of(direct.disk(), tail + PARAMS_LBA * 512, 512);
        let params = Params::decode(&block).unwrap();
        let kernel = bytes_of(direct.disk(), params.kernel_lba * 512, KERNEL_LEN);
        assert!(params.kernel_lba * 512 > tail && kernel == fake_kernel(1));

        let grub = Mount::new(&["--adapt", "none", "--bootloader", "grub"], &image);
        keeps_the_image(&image, &grub.disk());
        let core = u64::from_le_bytes(bytes_of(grub.disk(), 0x5c, 8).try_into().unwrap());
        assert!(core * 512 >= tail, "{core}");
        assert_eq!(bytes_of(grub.disk(), core * 512 + 0x1f4, 8), (core + 1).to_le_bytes());
        assert_eq!(
            fs::metadata(grub.disk()).unwrap().len(),
            fs::metadata(direct.disk()).unwrap().len()
        );
        let partition = |mount: &Mount| bytes_of(mount.disk(), at, 16 * MIB as usize);
        assert!(partition(&grub) == partition(&direct));

        let out = field.path("out.raw");
        let args = ["finalize", "-q", "--adapt", "none", "--bootloader", "direct", arg(&image)];
        run(SYNTHDISK, &[&args[..], &["--force", "-o", arg(&out)]].concat());
        run("cmp", &[&out, &direct.disk()]);
        grub.unmount();
        direct.unmount();
    }
}

#[test]
fn an_overlay_keeps_its_writes_under_every_loader() {
    let (field, root, swap) = field();
    let shape = &SHAPES[0];
    let image = made(&field, shape, &root, &swap);
    let overlay = field.path("overlay.qcow2");
    let with = ["--overlay", arg(&overlay)];
    let mount = Mount::new(&with, &image);
    // The guest was adapted in the right partition, and wrote its table as fdisk does.
    let show = |mount: &Mount| {
        let part = mount.part(2);
        run_text("debugfs", &["-R".as_ref(), "cat /etc/fstab".as_ref(), part.as_os_str()])
    };
    let fstab = show(&mount);
    assert!(fstab.contains(&format!("UUID={SWAP} none swap")), "{fstab}");
    assert!(fstab.contains(&format!("UUID={ROOT} / ext4")), "{fstab}");
    let mut head = bytes_of(mount.disk(), 0, 512);
    head[444] = 0x5a;
    write_at(&writer(mount.disk()), &head, 0);
    write_at(&writer(mount.part(2)), b"written", 15 * MIB);
    let first = bytes_of(mount.disk(), 512, 20 * MIB as usize);
    let code = bytes_of(mount.disk(), 0, 440);
    mount.unmount();
    for loader in ["grub", "direct", "grub", "direct"] {
        let mount = Mount::new(&[&with[..], &["--bootloader", loader]].concat(), &image);
        assert!(bytes_of(mount.disk(), 512, 20 * MIB as usize) == first, "{loader}");
        let now = bytes_of(mount.disk(), 0, 512);
        assert_eq!(now[..440] == code[..], loader == "direct");
        assert_eq!(now[440..], head[440..]);
        mount.unmount();
    }
    let said = expect_no_mount(&[&with[..], &["--bootloader", "none", arg(&image)]].concat());
    assert!(said.contains("--bootloader contradicts"), "{said}");
    // A partition that has grown into the tail, by fdisk in the guest.
    let mount = Mount::new(&with, &image);
    let entry = writer(mount.disk());
    write_at(&entry, &(60 * 2048u32).to_le_bytes(), 446 + 16 + 12);
    drop(entry);
    mount.unmount();
    let mount = Mount::new(&with, &image);
    let said = mount.printed();
    assert!(said.contains("partition 2 of xvda now covers the space of the boot loader"), "{said}");
    mount.unmount();
}

#[test]
fn boot_code_of_the_image_is_used_unless_ours_is_requested() {
    let (field, root, swap) = field();
    let image = field.path("own.img");
    SHAPES[1].make(&image, &root, Some(&swap));
    write_at(&writer(&image), b"\xfa\xebLILO", 0);
    field.guard(&image);
    let mount = Mount::new(&["--adapt", "none"], &image);
    let said = mount.printed();
    let expected = "boots:   by its own boot loader (its MBR has boot code of an unknown kind)";
    assert!(said.contains(expected), "{said}");
    run("cmp", &[&image, &mount.disk()]);
    run("cmp", &[&root, &mount.part(2)]);
    mount.unmount();
    for options in [&["--bootloader", "direct"][..], &["--entry", "0"], &["--append", "x"]] {
        let mount = Mount::new(&[options, &["--adapt", "none"]].concat(), &image);
        assert!(mount.printed().contains("boots:   Tiny 1"), "{}", mount.printed());
        keeps_the_image(&image, &mount.disk());
        mount.unmount();
    }
    // The files of the guest are adapted, and nothing else is changed.
    let mount = Mount::new(&[], &image);
    let part = mount.part(2);
    let show = ["-R".as_ref(), "cat /etc/fstab".as_ref(), part.as_os_str()];
    assert!(run_text("debugfs", &show).contains(&format!("UUID={ROOT} / ext4")));
    assert_eq!(bytes_of(mount.disk(), 0, 2 * MIB as usize), bytes_of(&image, 0, 2 * MIB as usize));
    mount.unmount();
    let said = run_text(SYNTHDISK, &["inspect", arg(&image)]);
    let verdict = "not known whether it boots: its MBR has boot code of an unknown kind";
    assert!(said.contains(verdict), "{said}");
    // The tools of the guest find what they expect: its own loader, in a file too.
    let out = field.path("out.raw");
    run(SYNTHDISK, &["finalize", "-q", "--adapt", "none", arg(&image), "-o", arg(&out)]);
    run("cmp", &[&image, &out]);
    let none = Mount::new(&["--bootloader", "none"], &image);
    run("cmp", &[&image, &none.disk()]);
    none.unmount();
    // A clone is edited, whatever boots it.
    let mount = Mount::new(&["--hostname", "web2"], &image);
    let part = mount.part(2);
    let show = ["-R".as_ref(), "cat /etc/hostname".as_ref(), part.as_os_str()];
    assert_eq!(run_text("debugfs", &show), "web2");
    mount.unmount();
}

#[test]
fn a_kernel_of_dom0_starts_a_whole_disk() {
    let (field, root, swap) = field();
    let image = made(&field, &SHAPES[3], &root, &swap);
    fs::write(field.path("vmlinuz"), fake_kernel(7)).unwrap();
    fs::write(field.path("initrd"), noise(5000, 3)).unwrap();
    let text = format!(
        "kernel = 'vmlinuz'\nramdisk = 'initrd'\nroot = '/dev/xvda2 ro'\ndisk = ['{},raw,xvda,rw']\n",
        arg(&image)
    );
    let config = field.config(&text);
    let mapped = map(&config, &[]);
    assert_eq!(word(&cmdline(&mapped), "root="), format!("UUID={ROOT}"));
    let origins = mapped["regions"].to_string();
    assert!(origins.contains("/vmlinuz\"") && origins.contains("/initrd\""), "{origins}");
    assert_eq!(mapped["partitions"][1]["number"], 2);
}

/// /boot on partition 1, the root on partition 3, and another one that looks like a root on 4.
#[test]
fn the_root_is_found_or_must_be_named() {
    let field = Field::new();
    let script = "label: dos\nstart=2048, size=32768, bootable\nstart=34816, size=2048, type=82\n\
                  start=40960, size=32768\nstart=81920, size=32768\n";
    let make = |name: &str, root: &str, third: &str, fourth: &str| {
        let kernel = fake_kernel(1);
        let text = menu("1").replace("/boot/", "/").replace("root=/dev/xvda2", root);
        let boot = field.ext4(
            &format!("{name}-boot"),
            BOOT,
            &[
                ("vmlinuz-1", &kernel),
                ("initrd.img-1", b"initrd"),
                ("grub/menu.lst", text.as_bytes()),
            ],
        );
        let fstab = |text: &str| [("etc/fstab", text.to_owned()), ("etc/hostname", name.into())];
        let part = |file: &str, uuid: &str, text: &str| {
            let files = fstab(text);
            let files: Vec<(&str, &[u8])> =
                files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
            field.ext4(&format!("{name}-{file}"), uuid, &files)
        };
        let (root, other) = (part("root", ROOT, third), part("other", DATA, fourth));
        let disk = field.path(name);
        whole_disk(&disk, 64 * MIB, script);
        for (lba, image) in [(2048, &boot), (40960, &root), (81920, &other)] {
            put(&disk, lba, image);
        }
        field.guard(&disk);
        disk
    };
    let root_of = |disk: &Path, options: &[&str]| {
        let args = [&["map", "--json"], options, &[arg(disk)]].concat();
        let mapped: serde_json::Value = serde_json::from_str(&run_text(SYNTHDISK, &args)).unwrap();
        word(&cmdline(&mapped), "root=")
    };
    let (root, data) = (format!("UUID={ROOT}"), format!("UUID={DATA}"));
    // The menu names it.
    let disk = make("menu.img", "root=/dev/xvda3", "/dev/xvda3 / ext4\n", "/dev/xvda4 / ext4\n");
    assert_eq!(root_of(&disk, &[]), root);
    assert_eq!(root_of(&disk, &["--root-partition", "4"]), data);
    let out = run_text(SYNTHDISK, &["inspect", "--json", arg(&disk)]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["guest"]["partition"], "part3.raw", "{out}");
    // fstab does.
    let disk = make("fstab.img", "", "/dev/sda3 / ext4\n", "/dev/xvda3 / ext4\n");
    assert_eq!(root_of(&disk, &[]), root);
    // Nothing does.
    let disk = make("unsure.img", "root=/dev/xvda7", "", "");
    let said = expect_failure(&["map", arg(&disk)], 1);
    assert!(said.contains("3 of xvda, 4 of xvda") && said.contains("--root-partition"), "{said}");
    assert_eq!(root_of(&disk, &["--root-partition", "3"]), root);
    let said = expect_failure(&["map", "--root-partition", "2", arg(&disk)], 2);
    assert!(said.contains("it has: 1 (ext4), 3 (ext4), 4 (ext4)"), "{said}");
}

#[test]
fn what_cannot_be_is_refused() {
    let (field, root, swap) = field();
    let image = made(&field, &SHAPES[1], &root, &swap);
    for option in [["--swap", "64M"], ["--root-size", "1G"], ["--disk-id", "1234abcd"]] {
        let args = [&["map"], &option[..], &[arg(&image)]].concat();
        let said = expect_failure(&args, 2);
        assert!(said.contains("is not for a whole disk"), "{said}");
    }
    let said = expect_failure(&["map", arg(&image), arg(&root)], 1);
    assert!(said.contains("partition table already"), "{said}");
    // A partition that ends after the image: nothing is known of this disk, and it is shown as it is.
    let cut = field.path("cut.img");
    fs::copy(&image, &cut).unwrap();
    fs::File::options().write(true).open(&cut).unwrap().set_len(8 * MIB).unwrap();
    field.guard(&cut);
    let mount = Mount::new(&[], &cut);
    assert!(mount.printed().contains("is not looked into: partition 2 ends after"));
    run("cmp", &[&cut, &mount.disk()]);
    assert!(!mount.part(1).exists());
    mount.unmount();
    let said = expect_failure(&["map", "--bootloader", "direct", arg(&cut)], 1);
    assert!(said.contains("cannot get a boot loader of synthdisk"), "{said}");
}
