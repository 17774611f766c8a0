//! Whether a disk with a partition table has boot code that a BIOS can start, and the evidence.
//!
//! A table that a partitioning tool made has no boot code, or a stub that starts the active
//! partition. GRUB's first sector may still be there when its core image is not. Sources: GRUB
//! `grub-core/boot/i386/pc/boot.S`, GRUB legacy `stage1/stage1.S`, parted `libparted/labels/dos.c`,
//! syslinux `mbr/`.

use super::table::DiskTable;
use crate::bytes::ReadAt;
use crate::layout::{BOOTSTRAP_LEN, SECTOR};
use std::io;

/// What a BIOS would find. The text is the evidence, to follow a colon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BootCode {
    /// Something that starts; what it does then is not known.
    Present(String),
    /// Code that is not known: it may start something.
    Unknown(String),
    /// Nothing, or code that cannot get further.
    Absent(String),
}

/// The stub that parted writes, which starts the active partition: its first bytes.
const PARTED: [u8; 16] = [
    0xfa, 0xb8, 0x00, 0x10, 0x8e, 0xd0, 0xbc, 0x00, 0xb0, 0xb8, 0x00, 0x00, 0x8e, 0xd8, 0x8e, 0xc0,
];
/// Messages of programs that start the active partition: those of DOS, Windows and syslinux.
const CHAIN_LOADERS: [&[u8]; 5] = [
    b"Missing operating system",
    b"Missing OS",
    b"Error loading operating system",
    b"Operating system load error",
    b"Invalid partition table",
];
/// Where GRUB 2 and GRUB legacy have the first sector of what they load next.
const GRUB_CORE: usize = 0x5c;
const LEGACY_STAGE2: usize = 0x44;

/// What a BIOS finds on `disk`, which has this `table`.
///
/// # Errors
/// Errors from reading it.
pub fn boot_code(disk: &dyn ReadAt, table: &DiskTable) -> io::Result<BootCode> {
    let absent = |why: &str| Ok(BootCode::Absent(why.to_owned()));
    let present = |what: String| Ok(BootCode::Present(what));
    let Some(mbr) = sector(disk, 0)? else { return absent("it has no sectors") };
    let code = &mbr[..BOOTSTRAP_LEN];
    if code.iter().all(|byte| *byte == code[0]) {
        return absent("its MBR has no boot code");
    }
    if contains(code, b"GRUB") && contains(code, b"Hard Disk") {
        let candidates = [number(code, GRUB_CORE, 8), number(code, LEGACY_STAGE2, 4)];
        for lba in candidates.into_iter().filter(|lba| *lba > 0) {
            if sector(disk, lba)?.is_some_and(|s| s.iter().any(|byte| *byte != 0)) {
                return present(format!("GRUB is in its MBR and in sector {lba}"));
            }
        }
        return absent("GRUB's code is in its MBR, and what it loads next is missing");
    }
    if code.starts_with(&PARTED) || CHAIN_LOADERS.iter().any(|text| contains(code, text)) {
        let Some(active) = table.partitions.iter().find(|p| p.placed.active) else {
            return absent("its MBR starts the active partition, and there is none");
        };
        let number = active.placed.number;
        let first = sector(disk, active.placed.start / SECTOR)?;
        let starts = first.is_some_and(|s| {
            s[510..] == [0x55, 0xaa] && s[..BOOTSTRAP_LEN].iter().any(|byte| *byte != 0)
        });
        return match starts {
            true => present(format!("its MBR starts partition {number}, which has a boot sector")),
            false => Ok(BootCode::Absent(format!(
                "its MBR starts partition {number}, which has no boot sector"
            ))),
        };
    }
    if contains(code, b"synthdisk") {
        return present("synthdisk's loader is in its MBR".to_owned());
    }
    Ok(BootCode::Unknown("its MBR has boot code of an unknown kind".to_owned()))
}

/// A sector; `None` after the end.
fn sector(disk: &dyn ReadAt, lba: u64) -> io::Result<Option<[u8; SECTOR as usize]>> {
    let start = lba.checked_mul(SECTOR);
    let fits = |start: &u64| start.checked_add(SECTOR).is_some_and(|end| end <= disk.len());
    let Some(start) = start.filter(fits) else { return Ok(None) };
    let mut out = [0; SECTOR as usize];
    disk.read_at(&mut out, start)?;
    Ok(Some(out))
}

fn contains(code: &[u8], text: &[u8]) -> bool {
    code.windows(text.len()).any(|window| window == text)
}

/// The little-endian number of `len` bytes at `at`.
fn number(code: &[u8], at: usize, len: usize) -> u64 {
    code[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TableKind;
    use uuid::Uuid;

    fn disk(code: &[u8], also: &[(usize, &[u8])], active: bool) -> (Vec<u8>, DiskTable) {
        use crate::fs::table::TablePartition;
        use crate::layout::{PartitionKind, Placed};
        let mut bytes = vec![0; 1 << 20];
        bytes[..code.len()].copy_from_slice(code);
        for (at, text) in also {
            bytes[*at..at + text.len()].copy_from_slice(text);
        }
        let placed =
            Placed { number: 3, start: 63 * 512, len: 512, kind: PartitionKind::Linux, active };
        let partitions = vec![TablePartition { placed, partuuid: String::new() }];
        let (kind, disk_guid) = (TableKind::Mbr, Uuid::nil());
        (bytes, DiskTable { kind, disk_id: 0, disk_guid, partitions })
    }

    fn found(code: &[u8], also: &[(usize, &[u8])], active: bool) -> Result<String, String> {
        let (bytes, table) = disk(code, also, active);
        match boot_code(&bytes, &table).unwrap() {
            BootCode::Present(what) => Ok(what),
            BootCode::Unknown(what) => Ok(format!("?{what}")),
            BootCode::Absent(why) => Err(why),
        }
    }

    /// GRUB's first sector with the number `lba` at `at`.
    fn grub(at: usize, lba: u8) -> Vec<u8> {
        let mut code = vec![0; 440];
        code[0] = 0xeb;
        code[at] = lba;
        code[0x180..][..24].copy_from_slice(b"GRUB \0Geom\0Hard Disk\0Rea");
        code
    }

    #[test]
    fn evidence() {
        let missing =
            Err("GRUB's code is in its MBR, and what it loads next is missing".to_owned());
        assert_eq!(found(&[0; 440], &[], true), Err("its MBR has no boot code".into()));
        assert_eq!(found(&[0xf6; 440], &[], true), Err("its MBR has no boot code".into()));
        assert_eq!(found(&grub(GRUB_CORE, 1), &[], true), missing);
        assert_eq!(found(&grub(GRUB_CORE + 7, 1), &[], true), missing, "after the end");
        for at in [GRUB_CORE, LEGACY_STAGE2] {
            let said = found(&grub(at, 2), &[(1024, b"x")], false);
            assert_eq!(said, Ok("GRUB is in its MBR and in sector 2".into()));
        }
        let none = Err("its MBR starts the active partition, and there is none".to_owned());
        let empty = Err("its MBR starts partition 3, which has no boot sector".to_owned());
        let boots = Ok("its MBR starts partition 3, which has a boot sector".to_owned());
        let sector = 63 * 512;
        for code in [&PARTED[..], b"\xfa\x33\xc0Missing operating system\0"] {
            assert_eq!(found(code, &[], false), none);
            assert_eq!(found(code, &[], true), empty);
            assert_eq!(found(code, &[(sector + 510, &[0x55, 0xaa])], true), empty);
            assert_eq!(found(code, &[(sector, b"XFSB")], true), empty);
            let whole: [(usize, &[u8]); 2] = [(sector, b"\xeb"), (sector + 510, &[0x55, 0xaa])];
            assert_eq!(found(code, &whole, true), boots);
        }
        let ours = found(b"\xfasynthdisk: ", &[], false);
        assert_eq!(ours, Ok("synthdisk's loader is in its MBR".into()));
        let other = found(b"\xfaLILO", &[], false);
        assert_eq!(other, Ok("?its MBR has boot code of an unknown kind".into()));
        let (_, table) = disk(&[], &[], false);
        assert!(matches!(boot_code(&vec![1; 100], &table).unwrap(), BootCode::Absent(_)));
    }

    /// What parted itself writes.
    #[test]
    fn a_new_table_has_no_boot_code() {
        use std::process::Command;
        for (tool, script) in [
            ("parted", "parted -s \"$0\" mklabel msdos mkpart primary 1MiB 2MiB set 1 boot on"),
            ("parted", "parted -s \"$0\" mklabel gpt mkpart p 1MiB 2MiB"),
            ("sfdisk", "printf 'label: dos\\nstart=63, bootable\\n' | sfdisk -q \"$0\""),
            ("sfdisk", "printf 'label: gpt\\nstart=2048\\n' | sfdisk -q \"$0\""),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(8 << 20).unwrap();
            let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin; command -v ";
            let script = format!("{path}{tool} >/dev/null || exit 77; {script}");
            let done = Command::new("sh").arg("-c").arg(script).arg(file.path()).output().unwrap();
            if done.status.code() == Some(77) && tool == "parted" {
                eprintln!("skipped: parted is not installed");
                continue;
            }
            assert!(done.status.success(), "{done:?}");
            let bytes = std::fs::read(file.path()).unwrap();
            let table = DiskTable::read(&bytes).unwrap();
            assert_eq!(table.partitions.len(), 1);
            let found = boot_code(&bytes, &table).unwrap();
            assert!(matches!(found, BootCode::Absent(_)), "{tool}: {found:?}");
        }
    }
}
