//! The content of an EFI system partition: a FAT32 filesystem with one program.
//!
//! Sources: UEFI specification, section 3.5 (the removable media boot path) and chapter 13 (the file
//! system); Microsoft's FAT32 File System Specification 1.03. (The crate `fatfs` gives `.` and `..`
//! long names, which fsck.vfat takes for damage.)

use super::SECTOR;
use crate::{Error, ErrorKind, Result};

/// Length of an EFI system partition in bytes: FAT32 needs 65 525 clusters, and all of it but the
/// program is zeros that are made up.
pub const EFI_SYSTEM_LEN: u64 = 64 << 20;

/// Bytes at an offset, both relative to the partition.
pub type Run = (u64, Vec<u8>);

const SECTOR_LEN: usize = SECTOR as usize;
const SECTORS: u32 = (EFI_SYSTEM_LEN / SECTOR) as u32;
/// Sectors before the first table.
const RESERVED: u32 = 32;
const TABLES: u32 = 2;
/// Sectors of a table. Clusters are single sectors.
const TABLE_SECTORS: u32 = 1009;
const CLUSTERS: u32 = SECTORS - RESERVED - TABLES * TABLE_SECTORS;
const _: () = assert!(CLUSTERS >= 65_525 && (CLUSTERS + 2) * 4 <= TABLE_SECTORS * SECTOR as u32);
/// Sectors of the information sector and of the copies of both.
const INFO_SECTOR: u16 = 1;
const COPY_SECTOR: u16 = 6;
/// The directories' clusters; the first cluster of a filesystem is number 2.
const ROOT: u32 = 2;
const EFI: u32 = 3;
const BOOT: u32 = 4;
/// First cluster of the program.
const PROGRAM: u32 = 5;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const LABEL: &[u8; 11] = b"SYNTHDISK  ";
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
/// 1980-01-01, the earliest date.
const DATE: u16 = 0x0021;

/// The bytes of an EFI system partition of [`EFI_SYSTEM_LEN`] bytes whose firmware starts `program`:
/// runs of whole sectors in disk order, and zeros between them. `volume_id` is the filesystem's
/// serial number.
///
/// # Errors
/// [`ErrorKind::TooLarge`] for a program that does not fit.
pub fn efi_system(volume_id: u32, program: &[u8]) -> Result<Vec<Run>> {
    let sectors = program.len().div_ceil(SECTOR_LEN);
    let fits = u32::try_from(sectors).ok().filter(|n| *n <= CLUSTERS / 2);
    let Some(clusters) = fits else {
        let what = format!("a boot loader of {} bytes is too large for UEFI", program.len());
        return Err(Error::new(ErrorKind::TooLarge, what));
    };
    let head = [boot_sector(volume_id), info_sector(PROGRAM + clusters)].concat();
    let table = table(clusters);
    let first = if clusters == 0 { 0 } else { PROGRAM };
    let mut data = [
        directory(&[entry(LABEL, VOLUME, 0, 0), entry(b"EFI        ", DIRECTORY, EFI, 0)]),
        // The parent's cluster is 0 if that is the root.
        directory(&[
            entry(b".          ", DIRECTORY, EFI, 0),
            entry(b"..         ", DIRECTORY, 0, 0),
            entry(b"BOOT       ", DIRECTORY, BOOT, 0),
        ]),
        directory(&[
            entry(b".          ", DIRECTORY, BOOT, 0),
            entry(b"..         ", DIRECTORY, EFI, 0),
            entry(b"BOOTX64 EFI", ARCHIVE, first, program.len() as u32),
        ]),
    ]
    .concat();
    data.extend_from_slice(program);
    data.resize(data.len().next_multiple_of(SECTOR_LEN), 0);
    let start = |sector: u32| u64::from(sector) * SECTOR;
    Ok(vec![
        (0, head.clone()),
        (start(COPY_SECTOR.into()), head),
        (start(RESERVED), table.clone()),
        (start(RESERVED + TABLE_SECTORS), table),
        (start(RESERVED + TABLES * TABLE_SECTORS), data),
    ])
}

/// A sector of zeros with some values.
fn sector(values: &[(usize, &[u8])]) -> [u8; SECTOR_LEN] {
    let mut sector = [0; SECTOR_LEN];
    for (at, bytes) in values {
        sector[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    sector
}

fn boot_sector(volume_id: u32) -> [u8; SECTOR_LEN] {
    sector(&[
        (0, &[0xeb, 0x58, 0x90]),
        (3, b"SYNTHDSK"),
        (11, &(SECTOR as u16).to_le_bytes()),
        (13, &[1]), // sectors per cluster
        (14, &(RESERVED as u16).to_le_bytes()),
        (16, &[TABLES as u8]),
        (21, &[0xf8]), // a hard disk
        (24, &63u16.to_le_bytes()),
        (26, &255u16.to_le_bytes()),
        (32, &SECTORS.to_le_bytes()),
        (36, &TABLE_SECTORS.to_le_bytes()),
        (44, &ROOT.to_le_bytes()),
        (48, &INFO_SECTOR.to_le_bytes()),
        (50, &COPY_SECTOR.to_le_bytes()),
        (64, &[0x80, 0, 0x29]), // drive, and that the following fields exist
        (67, &volume_id.to_le_bytes()),
        (71, LABEL),
        (82, b"FAT32   "),
        (510, &[0x55, 0xaa]),
    ])
}

/// The sector that says how many clusters are free, and that `next` is the first of them.
fn info_sector(next: u32) -> [u8; SECTOR_LEN] {
    sector(&[
        (0, b"RRaA"),
        (484, b"rrAa"),
        (488, &(CLUSTERS + 2 - next).to_le_bytes()),
        (492, &next.to_le_bytes()),
        (510, &[0x55, 0xaa]),
    ])
}

/// The used part of a table: two values that are no clusters, the directories, and the program with
/// `clusters` clusters.
fn table(clusters: u32) -> Vec<u8> {
    let mut links = vec![0x0fff_fff8, END_OF_CHAIN, END_OF_CHAIN, END_OF_CHAIN, END_OF_CHAIN];
    links.extend((1..clusters).map(|n| PROGRAM + n));
    links.extend((clusters > 0).then_some(END_OF_CHAIN));
    let mut bytes: Vec<u8> = links.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.resize(bytes.len().next_multiple_of(SECTOR_LEN), 0);
    bytes
}

/// A directory of one cluster.
fn directory(entries: &[[u8; 32]]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(SECTOR_LEN, 0);
    bytes
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u32, len: u32) -> [u8; 32] {
    let mut entry = [0; 32];
    let cluster = cluster.to_le_bytes();
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    // Created, read, written.
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[20..22].copy_from_slice(&cluster[2..]);
    entry[26..28].copy_from_slice(&cluster[..2]);
    entry[28..].copy_from_slice(&len.to_le_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn program(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8 + 1).collect()
    }

    /// The whole partition.
    fn image(runs: &[Run]) -> Vec<u8> {
        let mut image = vec![0; EFI_SYSTEM_LEN as usize];
        for (start, bytes) in runs {
            image[*start as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    #[test]
    fn runs_are_disjoint_and_few() {
        let runs = efi_system(0x1234_abcd, &program(20_000)).unwrap();
        assert_eq!(runs, efi_system(0x1234_abcd, &program(20_000)).unwrap(), "the same bytes");
        assert!(runs.windows(2).all(|w| w[0].0 + (w[0].1.len() as u64) < w[1].0));
        let stored: usize = runs.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(stored < 32 << 10, "{stored}");
        assert_eq!(runs[0].1[0x43..0x47], [0xcd, 0xab, 0x34, 0x12]);
        let other = efi_system(1, &program(20_000)).unwrap();
        let differ = runs.iter().zip(&other).filter(|(a, b)| a != b).count();
        assert_eq!((other.len(), differ), (runs.len(), 2), "both boot sectors");
        let error = efi_system(1, &vec![1; 40 << 20]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn other_programs_read_it() {
        let program = program(1_234_567);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("esp");
        std::fs::write(&file, image(&efi_system(0x1234_abcd, &program).unwrap())).unwrap();
        let run = |name: &str, args: &[&str]| {
            let mut command = Command::new(name);
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(args);
            let done = command.output().unwrap_or_else(|e| {
                panic!("{name} cannot be started ({e}); install dosfstools and mtools")
            });
            let said = String::from_utf8_lossy(&done.stdout).into_owned();
            let errors = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{name}: {said}{errors}");
            (said, done.stdout)
        };
        let file = file.to_str().unwrap();
        let (said, _) = run("fsck.vfat", &["-n", "-v", file]);
        assert!(said.contains("4 files,"), "{said}");
        let (said, bytes) = run("mtype", &["-i", file, "::/EFI/BOOT/BOOTX64.EFI"]);
        assert!(bytes == program, "{} of {} bytes", said.len(), program.len());
        let (said, _) = run("mdir", &["-i", file, "-/", "-b", "::"]);
        let names: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert!(names.contains(&"::/EFI/BOOT/BOOTX64.EFI"), "{names:?}");
    }
}
