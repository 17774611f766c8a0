//! Disks for UEFI: their partition table and their EFI system partition, judged by other programs.

use std::path::Path;

use crate::common::field::table;
use crate::common::file::{bytes_of, write_at, writer};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, expect_failure, output, run, run_text, text};
use crate::common::tiny::Tiny;
use synthdisk::loader::direct::{EFI_PROGRAM, PARAMS_LBA, SECTOR, STAGE1};

const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const MIB: u64 = 1 << 20;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Checks the table and the filesystem of a disk, and gives the program that UEFI starts from it.
fn program_of(disk: &Path, dir: &Path) -> Vec<u8> {
    let said = run_text("sgdisk", &["--verify", arg(disk)]);
    assert!(said.contains("No problems found"), "{said}");
    let verified = output("sfdisk", &["--verify", arg(disk)]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    let (label, parts) = table(disk);
    assert_eq!(label, "gpt");
    let efi = parts.iter().find(|p| p.kind == EFI_SYSTEM).expect("an EFI system partition");
    assert_eq!(efi.len, 64 * MIB);
    let guest = parts.iter().find(|p| p.number == 1).expect("the guest's root");
    assert!(efi.start + efi.len <= guest.start);
    let copy = dir.join("esp");
    let bytes = bytes_of(disk, efi.start, usize::try_from(efi.len).expect("it fits"));
    std::fs::write(&copy, bytes).expect("our own file");
    run("fsck.vfat", &["-n", arg(&copy)]);
    let found = output("mtype", &["-i", arg(&copy), "::/EFI/BOOT/BOOTX64.EFI"]);
    assert!(found.status.success(), "{}", text(&found.stderr));
    found.stdout
}

/// Mount and `finalize` make the same disk, twice; `uefi` and `both` differ in the BIOS's code only.
#[test]
fn tables_and_partitions_are_what_the_tools_expect() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mut areas = Vec::new();
    for firmware in ["uefi", "both"] {
        let options = ["--bootloader", "direct", "--firmware", firmware, "--adapt", "none"];
        let first = Mount::new(&options, &tiny.image);
        let second = Mount::new(&options, &tiny.image);
        let out = tiny.file("out.raw");
        let result = ["--force", "-o", arg(&out), arg(&tiny.image)];
        run(SYNTHDISK, &[&["finalize", "-q"], &options[..], &result].concat());
        assert!(program_of(&first.disk(), tiny.path()) == EFI_PROGRAM);
        assert!(program_of(&out, tiny.path()) == EFI_PROGRAM);
        let (_, parts) = table(&first.disk());
        let start = parts.iter().find(|p| p.number == 1).expect("the root").start;
        let area = bytes_of(first.disk(), 0, usize::try_from(start).expect("it fits"));
        assert!(area == bytes_of(second.disk(), 0, area.len()));
        assert!(area == bytes_of(&out, 0, area.len()));
        first.unmount();
        second.unmount();
        areas.push(area);
    }
    let (uefi, both) = (&areas[0], &areas[1]);
    assert_eq!((&both[..440], &uefi[..440]), (&STAGE1[..], &[0; 440][..]));
    let differ = (0..both.len()).filter(|i| uefi[*i] != both[*i]);
    let stage2 = 40 * 512..48 * 512;
    assert!(differ.into_iter().all(|i| i < 440 || stage2.contains(&i)));
    assert_eq!(uefi.len(), both.len());
    untouched.check();
}

/// What boots changes; the filesystem that the firmware reads does not.
#[test]
fn the_partition_does_not_follow_the_guest() {
    let tiny = Tiny::new();
    let mount = Mount::new(&["--firmware", "uefi"], &tiny.image);
    let before = program_of(&mount.disk(), tiny.path());
    let parameters = || bytes_of(mount.disk(), PARAMS_LBA * SECTOR, 512);
    let planned = parameters();
    // The superblock's magic: nothing boots from this filesystem now.
    write_at(&writer(mount.part(1)), &[0, 0], 1024 + 0x38);
    let broken = parameters();
    assert_ne!(planned, broken);
    let message = String::from_utf8_lossy(&broken[80..480]).into_owned();
    assert!(broken[76] > 0 && message.is_ascii(), "{message}");
    assert!(before == program_of(&mount.disk(), tiny.path()));
    mount.unmount();
}

#[test]
fn overlays_keep_their_firmware() {
    let tiny = Tiny::new();
    let overlay = tiny.file("overlay.qcow2");
    let with = ["--adapt", "none", "--overlay", arg(&overlay)];
    let mount = Mount::new(&[&["--firmware", "uefi"], &with[..]].concat(), &tiny.image);
    // As fdisk: the same table, with a mark where nobody reads.
    let mut head = bytes_of(mount.disk(), 0, 34 * 512);
    head[444] = 0x5a;
    write_at(&writer(mount.disk()), &head, 0);
    mount.unmount();
    // The same layout, for a BIOS too, and with what the BIOS needs.
    let mount = Mount::new(&[&["--firmware", "both"], &with[..]].concat(), &tiny.image);
    assert_eq!(bytes_of(mount.disk(), 0, 440), STAGE1);
    mount.unmount();
    let mount = Mount::new(&with, &tiny.image);
    assert!(program_of(&mount.disk(), tiny.path()) == EFI_PROGRAM);
    assert_eq!(bytes_of(mount.disk(), 444, 1), [0x5a]);
    mount.unmount();
    let dir = tiny.file("mnt");
    std::fs::create_dir(&dir).expect("our own directory");
    let args = ["mount", "--firmware", "bios"];
    let args = [&args[..], &with, &[arg(&tiny.image), arg(&dir)]].concat();
    let said = expect_failure(&args, 1);
    assert!(said.contains("--firmware contradicts the overlay"), "{said}");
}

#[test]
fn what_cannot_be_is_refused() {
    let tiny = Tiny::new();
    let refused = |options: &[&str], image: &Path, code| {
        expect_failure(&[&["map"], options, &[arg(image)]].concat(), code)
    };
    let said = refused(&["--firmware", "both", "--table", "mbr"], &tiny.image, 2);
    assert!(said.contains("--firmware uefi and both need a GPT; drop --table mbr"), "{said}");
    for (byte, reason) in [(b'X', "it has no EFI stub"), (b'M', "it is a 32-bit kernel")] {
        let other = Tiny::with(|tree| {
            let kernel = tree.join("boot/vmlinuz-1");
            let mut bytes = std::fs::read(&kernel).expect("our own file");
            bytes[0] = byte;
            bytes[0x44..0x46].copy_from_slice(&[0x4c, 0x01]);
            std::fs::write(&kernel, bytes).expect("our own file");
        });
        let said = refused(&["--firmware", "uefi"], &other.image, 1);
        assert!(said.contains(reason) && said.contains("--firmware bios"), "{said}");
        run(SYNTHDISK, &["map", "--firmware", "bios", arg(&other.image)]);
    }
}

/// The host's GRUB for both kinds of firmware, and one linux module for each.
#[test]
fn grub_for_both() {
    let tiny = Tiny::new();
    let options = ["--bootloader", "grub", "--firmware", "both", "--adapt", "none"];
    let mount = Mount::new(&options, &tiny.image);
    let program = program_of(&mount.disk(), tiny.path());
    assert!(program.starts_with(b"MZ") && program.len() > 100_000, "{}", program.len());
    let other = Mount::new(&options, &tiny.image);
    assert!(program == program_of(&other.disk(), tiny.path()), "the same GRUB, the same bytes");
    for (platform, lba) in [("i386-pc", 4096 + 64), ("x86_64-efi", 6144)] {
        let module = std::fs::read(format!("/usr/lib/grub/{platform}/linux.mod"));
        let module = module.expect("packages grub-pc-bin and grub-efi-amd64-bin");
        assert!(bytes_of(mount.disk(), lba * SECTOR, module.len()) == module, "{platform}");
    }
    other.unmount();
    mount.unmount();
}

/// `run` and the line that `mount` prints have the firmware in two flash memories; libvirt's
/// definition names the same files.
#[test]
fn machines_have_the_firmware() {
    let tiny = Tiny::new();
    let line = |firmware: &str| {
        let run = ["run", "--dry-run", "--accel", "tcg", "--aio", "threads"];
        run_text(SYNTHDISK, &[&run[..], &["--firmware", firmware, arg(&tiny.image)]].concat())
    };
    let uefi = line("uefi");
    let flash =
        |unit: u32| format!("-drive if=pflash,unit={unit},format=raw,file=/usr/share/OVMF/");
    assert!(uefi.contains(&flash(0)) && uefi.contains(&flash(1)), "{uefi}");
    assert!(uefi.contains("VARS") && uefi.contains("snapshot=on"), "{uefi}");
    assert!(!line("both").contains("pflash") && !line("bios").contains("pflash"));
    let mount = Mount::new(&["--firmware", "uefi"], &tiny.image);
    assert!(mount.printed().contains(&flash(0)), "{}", mount.printed());
    let config = tiny.file("web1.cfg");
    let text = format!("name = 'web1'\ndisk = ['file:{},xvda1,w']\n", arg(&tiny.image));
    std::fs::write(&config, text).expect("our own file");
    let options = ["--mountpoint", arg(mount.dir())];
    let xml = |options: &[&str]| {
        run_text(SYNTHDISK, &[&["libvirt-xml", "--config", arg(&config)], options].concat())
    };
    for options in [&options[..], &["--firmware", "uefi"]] {
        let xml = xml(options);
        assert!(xml.contains("<loader readonly='yes' type='pflash'>/usr/share/OVMF/"), "{xml}");
        assert!(xml.contains("<nvram template='/usr/share/OVMF/"), "{xml}");
        let file = tiny.file("domain.xml");
        std::fs::write(&file, xml).expect("our own file");
        run("virt-xml-validate", &[arg(&file), "domain"]);
    }
    assert!(!xml(&[]).contains("<loader"));
    mount.unmount();
}

/// UEFI starts what an image with a partition table of its own has; nothing is added to it.
#[test]
fn whole_disks_have_their_own_loader() {
    let tiny = Tiny::new();
    let disk = tiny.file("disk.raw");
    let options = ["--firmware", "uefi", "--bootloader", "direct", "--adapt", "none"];
    let result = [arg(&tiny.image), "-o", arg(&disk)];
    run(SYNTHDISK, &[&["finalize", "-q"], &options[..], &result].concat());
    let untouched = Untouched::remember(&disk);
    let mount = Mount::new(&["--firmware", "uefi"], &disk);
    let len = std::fs::metadata(&disk).expect("our own file").len();
    assert_eq!(std::fs::metadata(mount.disk()).expect("it is there").len(), len);
    assert!(program_of(&mount.disk(), tiny.path()) == EFI_PROGRAM);
    assert!(mount.printed().contains("pflash"), "{}", mount.printed());
    mount.unmount();
    for more in [["--bootloader", "grub"], ["--entry", "0"]] {
        let args = [&["map", "--firmware", "uefi"], &more[..], &[arg(&disk)]].concat();
        let said = expect_failure(&args, 1);
        assert!(said.contains("only the image's own loader can boot under UEFI"), "{said}");
    }
    untouched.check();
}
