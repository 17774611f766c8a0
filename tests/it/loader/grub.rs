//! GRUB's embedding, compared with what `grub-install` writes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::field::table;
use crate::common::file::{bytes_of, write_at, writer};
use crate::common::mount::{LoopDev, Mount};
use crate::common::process::{command, have, is_root, run, skip};
use crate::common::tiny::Tiny;
use synthdisk::loader::grub::{boot_code, core_at};

const MODULES: &str = "/usr/lib/grub/i386-pc";
const SECTOR: u64 = 512;

fn is_possible() -> bool {
    let why = if !is_root() {
        "this needs root"
    } else if !have("grub-install") || !Path::new(MODULES).join("boot.img").exists() {
        "grub-install is not installed (packages grub2-common and grub-pc-bin)"
    } else {
        return true;
    };
    skip(why);
    false
}

/// A disk with an ext2 filesystem, mounted on a directory.
struct Mounted {
    dir: PathBuf,
    _device: LoopDev,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not lazily: a partition in use would stay when its device goes.
        let _ = command("umount").arg(&self.dir).output();
    }
}

/// A disk with the partitions `table`, the last of which has a filesystem, on which grub-install
/// has installed GRUB; and the core image in that filesystem.
fn installed(dir: &Path, table: &str) -> (PathBuf, Vec<u8>) {
    let disk = dir.join("disk.raw");
    let file = fs::File::create(&disk).expect("our own file");
    file.set_len(64 << 20).expect("a sparse file");
    let script = dir.join("table");
    fs::write(&script, table).expect("our own file");
    let status = command("sfdisk")
        .args(["-q", "--no-reread"])
        .arg(&disk)
        .stdin(fs::File::open(&script).expect("our own file"))
        .status();
    assert!(status.expect("sfdisk starts").success());
    let device = LoopDev::attach_partitions(&disk, false);
    let number = u32::try_from(table.matches("start=").count()).expect("few");
    let partition = device.partition(number);
    run("mke2fs", &["-q".as_ref(), partition.as_os_str()]);
    let mount = dir.join("mnt");
    fs::create_dir(&mount).expect("our own directory");
    run("mount", &[partition.as_os_str(), mount.as_os_str()]);
    let boot = format!("--boot-directory={}", mount.display());
    let target = device.device().to_path_buf();
    let mounted = Mounted { dir: mount.clone(), _device: device };
    // Without error correction codes, which would follow the core image.
    let args =
        ["--target=i386-pc", "--no-floppy", "--no-rs-codes", "--modules=part_msdos part_gpt"];
    let done = command("grub-install").args(args).arg(boot).arg(target).output();
    let done = done.expect("grub-install starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let core = fs::read(mount.join("grub/i386-pc/core.img")).expect("grub-install leaves it");
    drop(mounted);
    (disk, core)
}

/// The partition table, the boot code up to the table, and the whole core image.
fn compare(table: &str, core_lba: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (disk, core) = installed(dir.path(), table);
    let boot_image = fs::read(Path::new(MODULES).join("boot.img")).expect("it is installed");
    let code = boot_code(&boot_image, core_lba).expect("boot.img");
    assert_eq!(bytes_of(&disk, 0, 440), code, "boot code");
    let embedded = core_at(core, core_lba).expect("core.img");
    let shown = bytes_of(&disk, core_lba * SECTOR, embedded.len());
    let differs = shown.iter().zip(&embedded).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte of the core image that differs");
}

#[test]
fn an_mbr() {
    if is_possible() {
        compare("label: dos\nstart=2048, type=83\n", 1);
    }
}

#[test]
fn a_gpt_with_a_bios_boot_partition() {
    if is_possible() {
        let types =
            ["21686148-6449-6E6F-744E-656564454649", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"];
        let table = format!(
            "label: gpt\nstart=2048, size=2048, type={}\nstart=4096, type={}\n",
            types[0], types[1]
        );
        compare(&table, 2048);
    }
}

/// Mount, `map` and `finalize` show one GRUB, and guests' partitions lie where `direct` has them.
#[test]
fn the_same_bytes_each_time_and_the_same_offsets() {
    let tiny = Tiny::new();
    let image = tiny.image.to_str().expect("UTF-8");
    for kind in ["mbr", "gpt"] {
        let options = ["--bootloader", "grub", "--table", kind, "--adapt", "none"];
        let first = Mount::new(&options, &tiny.image);
        let second = Mount::new(&options, &tiny.image);
        let direct = Mount::new(&["--table", kind, "--adapt", "none"], &tiny.image);
        let out = tiny.file(&format!("{kind}.raw"));
        let args =
            [&["finalize", "-q"], &options[..], &[image, "-o", out.to_str().expect("UTF-8")]];
        run(crate::common::process::SYNTHDISK, &args.concat());
        let (_, parts) = table(&first.disk());
        assert_eq!(table(&direct.disk()).1, parts);
        let len = usize::try_from(parts[0].start).expect("it fits");
        let area = bytes_of(first.disk(), 0, len);
        assert!(area == bytes_of(second.disk(), 0, len) && area == bytes_of(&out, 0, len));
        // Everything else is equal, except for the boot area.
        let (area, other) = (&area[440..512], bytes_of(direct.disk(), 440, 72));
        assert_eq!(area, other, "partition table");
        let swap = parts[1].start;
        assert_eq!(bytes_of(&out, swap, 4096), bytes_of(direct.disk(), swap, 4096));
        // The boot code names the sector where the core image begins.
        let core = parts.iter().find(|p| p.number == 3).map_or(2048, |p| p.start / SECTOR);
        assert_eq!(bytes_of(&out, 0x5c, 8), core.to_le_bytes());
        assert_eq!(bytes_of(&out, core * SECTOR + 0x1f4, 8), (core + 1).to_le_bytes());
        for mount in [first, second, direct] {
            mount.unmount();
        }
    }
}

/// A guest that writes its partition table has the boot code of that moment in its overlay.
#[test]
fn one_loader_replaces_another_in_an_overlay() {
    let tiny = Tiny::new();
    let image = tiny.image.to_str().expect("UTF-8");
    for kind in ["mbr", "gpt"] {
        let overlay = tiny.file(&format!("{kind}.qcow2"));
        let options = ["--adapt", "none", "--table", kind];
        let with = ["--overlay", overlay.to_str().expect("UTF-8")];
        let mount = Mount::new(&[&options[..], &with].concat(), &tiny.image);
        let head = bytes_of(mount.disk(), 0, 34 * 512);
        // As fdisk: the same table, with a mark in a field that nobody reads.
        let mut written = head.clone();
        written[444] = 0x5a;
        write_at(&writer(mount.disk()), &written, 0);
        mount.unmount();
        for loader in ["grub", "direct", "grub"] {
            let out = tiny.file("out.raw");
            let result = ["--force", "-o", out.to_str().expect("UTF-8")];
            let args = [&["finalize", "-q", "--bootloader", loader], &options[..], &with, &[image]];
            run(crate::common::process::SYNTHDISK, &[&args.concat()[..], &result].concat());
            let fresh =
                Mount::new(&[&["--bootloader", loader], &options[..]].concat(), &tiny.image);
            // The loader, the table, and stage 2 of the direct loader in sectors 40 to 47.
            let parts = |disk: &Path| {
                let stage2 = if loader == "direct" { 4096 } else { 0 };
                [bytes_of(disk, 0, 34 * 512), bytes_of(disk, 40 * SECTOR, stage2)]
            };
            let mut expected = parts(&fresh.disk());
            expected[0][444] = 0x5a;
            assert!(parts(&out) == expected, "{kind}, {loader}");
            fresh.unmount();
            // The next round starts with this loader's code in the overlay.
            let bootloader = ["--bootloader", loader];
            let mount = Mount::new(&[&bootloader[..], &options, &with].concat(), &tiny.image);
            assert!(parts(&mount.disk()) == expected, "{kind}, {loader}");
            mount.unmount();
        }
        // What the guest installs is left alone.
        let mount = Mount::new(&[&options[..], &with].concat(), &tiny.image);
        write_at(&writer(mount.disk()), &[0xeb; 440], 0);
        mount.unmount();
        let out = tiny.file("out.raw");
        let result = ["--force", "-o", out.to_str().expect("UTF-8")];
        let args = [&["finalize", "-q"], &options[..], &with, &[image], &result].concat();
        run(crate::common::process::SYNTHDISK, &args);
        assert_eq!(bytes_of(&out, 0, 440), [0xeb; 440]);
    }
}
