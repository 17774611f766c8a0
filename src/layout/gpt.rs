//! The GUID partition table (GPT), for disks that an MBR cannot describe.
//!
//! Source: UEFI specification, chapter 5.

use super::kind::GPT_NUMBERS;
use super::mbr::{BOOTSTRAP_LEN, check_code};
use super::{Ids, Layout, Placed, SECTOR};
use crate::crc::ISO_3309;
use crate::{Error, ErrorKind, Result};
use uuid::Uuid;

const REVISION: u32 = 0x0001_0000;
const HEADER_LEN: usize = 92;
const ENTRY_LEN: usize = 128;
const ENTRIES_LEN: usize = GPT_NUMBERS as usize * ENTRY_LEN;
const PRIMARY_LBA: u64 = 1;

/// The bytes of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpt {
    /// Sector 0: loader code and the protective MBR.
    pub mbr: [u8; SECTOR as usize],
    /// Header and entries, from sector 1 on; [`GPT_LEN`](super::GPT_LEN) bytes.
    pub primary: Vec<u8>,
    /// Entries and header for the end of the disk; [`GPT_LEN`](super::GPT_LEN) bytes.
    pub backup: Vec<u8>,
}

impl Gpt {
    /// The table of `layout`, with `code` in the MBR.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if `code` does not fit; [`ErrorKind::Invalid`] if the layout cannot
    /// be described.
    pub fn encode(layout: &Layout, ids: &Ids, code: &[u8]) -> Result<Self> {
        check_code(code)?;
        let sectors = layout.len / SECTOR;
        let entry_sectors = ENTRIES_LEN as u64 / SECTOR;
        // The protective MBR, then a header and entries at both ends.
        let usable = PRIMARY_LBA + 1 + entry_sectors..sectors.saturating_sub(1 + entry_sectors);
        if usable.is_empty() {
            let what = format!("a disk of {} bytes has no room for a GPT", layout.len);
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut entries = vec![0; ENTRIES_LEN];
        for p in &layout.partitions {
            let lbas = p.start / SECTOR..p.end() / SECTOR;
            if lbas.start < usable.start || lbas.end > usable.end {
                let what = format!("partition {} lies outside of what a GPT describes", p.number);
                return Err(Error::new(ErrorKind::Invalid, what));
            }
            let slot = p
                .number
                .checked_sub(1)
                .and_then(|i| entries.chunks_exact_mut(ENTRY_LEN).nth(usize::try_from(i).ok()?));
            let slot = slot.ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("a GPT has no partition {}", p.number))
            })?;
            put_entry(slot, p, ids.partition_guid(p.number));
        }
        let backup_lba = sectors - 1;
        let header = |lba, other_lba, entries_lba| {
            let place = HeaderPlace { lba, other_lba, entries_lba };
            header(&place, usable.start, usable.end - 1, ids.disk_guid, crc32(&entries))
        };
        let primary_header = header(PRIMARY_LBA, backup_lba, PRIMARY_LBA + 1);
        let backup_header = header(backup_lba, PRIMARY_LBA, usable.end);
        let primary = [&primary_header[..], &entries].concat();
        let backup = [&entries, &backup_header[..]].concat();
        Ok(Self { mbr: protective_mbr(sectors, code), primary, backup })
    }
}

/// The position of one of the two headers, in sectors.
struct HeaderPlace {
    lba: u64,
    other_lba: u64,
    entries_lba: u64,
}

fn header(
    place: &HeaderPlace,
    first_usable: u64,
    last_usable: u64,
    disk_guid: Uuid,
    entries_crc: u32,
) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"EFI PART");
    put(8, &REVISION.to_le_bytes());
    put(12, &(HEADER_LEN as u32).to_le_bytes());
    put(24, &place.lba.to_le_bytes());
    put(32, &place.other_lba.to_le_bytes());
    put(40, &first_usable.to_le_bytes());
    put(48, &last_usable.to_le_bytes());
    put(56, &disk_guid.to_bytes_le());
    put(72, &place.entries_lba.to_le_bytes());
    put(80, &GPT_NUMBERS.to_le_bytes());
    put(84, &(ENTRY_LEN as u32).to_le_bytes());
    put(88, &entries_crc.to_le_bytes());
    // The header's own checksum field is zero during the computation.
    let crc = crc32(&sector[..HEADER_LEN]);
    sector[16..20].copy_from_slice(&crc.to_le_bytes());
    sector
}

/// No attributes, no name.
fn put_entry(entry: &mut [u8], p: &Placed, guid: Uuid) {
    entry[..16].copy_from_slice(&p.kind.properties().guid.to_bytes_le());
    entry[16..32].copy_from_slice(&guid.to_bytes_le());
    entry[32..40].copy_from_slice(&(p.start / SECTOR).to_le_bytes());
    entry[40..48].copy_from_slice(&(p.end() / SECTOR - 1).to_le_bytes());
}

/// One entry of type 0xEE over the whole disk, or as much as 32 bits can address.
fn protective_mbr(sectors: u64, code: &[u8]) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    sector[..code.len()].copy_from_slice(code);
    debug_assert!(code.len() <= BOOTSTRAP_LEN);
    let entry = &mut sector[446..462];
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff; 3]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    let len = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    entry[12..16].copy_from_slice(&len.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// CRC-32 of ISO 3309, as used by Ethernet and zlib.
pub fn crc32(bytes: &[u8]) -> u32 {
    !ISO_3309.update(u32::MAX, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{GPT_LEN, LayoutSpec, PartitionKind, PartitionSpec, TableKind};
    use std::os::unix::fs::FileExt;

    fn layout(len: u64) -> Layout {
        let part = |number, len, kind| PartitionSpec { number, len, kind, active: false };
        Layout::compute(&LayoutSpec {
            align: 1 << 20,
            gap: 1 << 20,
            table: Some(TableKind::Gpt),
            partitions: vec![
                part(128, 1 << 20, PartitionKind::BiosBoot),
                part(9, 2 << 20, PartitionKind::EfiSystem),
                part(7, len, PartitionKind::Linux),
                part(2, 1 << 20, PartitionKind::Swap),
            ],
        })
        .unwrap()
    }

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn both_ends_agree() {
        let layout = layout(3 << 40);
        let gpt = Gpt::encode(&layout, &Ids::derive(b"x"), &[0xeb; 440]).unwrap();
        assert_eq!((gpt.primary.len() as u64, gpt.backup.len() as u64), (GPT_LEN, GPT_LEN));
        assert_eq!(&gpt.mbr[..440], &[0xeb; 440]);
        assert_eq!(gpt.mbr[450], 0xee);
        assert_eq!(&gpt.mbr[458..462], &[0xff; 4], "more than 32 bits can say");
        assert_eq!(&gpt.mbr[510..], &[0x55, 0xaa]);
        assert_eq!(&gpt.primary[..8], b"EFI PART");
        assert_eq!(&gpt.backup[32 * 512..][..8], b"EFI PART");
        assert_eq!(gpt.primary[512..], gpt.backup[..32 * 512], "the entries");
        assert!(Gpt::encode(&layout, &Ids::derive(b"x"), &[0; 441]).is_err());
    }

    #[test]
    fn what_cannot_be_described_is_refused() {
        let spoil = |f: fn(&mut Layout)| {
            let mut bad = layout(1 << 20);
            f(&mut bad);
            Gpt::encode(&bad, &Ids::derive(b"x"), &[]).unwrap_err().kind()
        };
        assert_eq!(spoil(|l| l.partitions[0].number = 129), ErrorKind::Invalid);
        assert_eq!(spoil(|l| l.partitions[0].number = 0), ErrorKind::Invalid);
        assert_eq!(spoil(|l| l.partitions[0].start = 33 * SECTOR), ErrorKind::Invalid);
        assert_eq!(spoil(|l| l.len = 1 << 20), ErrorKind::Invalid);
        assert_eq!(spoil(|l| l.len = 0), ErrorKind::Invalid);
    }

    /// sfdisk checks both headers and all checksums as it reads, and reports problems on standard
    /// error.
    #[test]
    fn sfdisk_reads_what_was_written() {
        let (layout, ids) = (layout(5 << 20), Ids::derive(b"x"));
        let gpt = Gpt::encode(&layout, &ids, &[]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(layout.len).unwrap();
        file.as_file().write_all_at(&gpt.mbr, 0).unwrap();
        file.as_file().write_all_at(&gpt.primary, SECTOR).unwrap();
        file.as_file().write_all_at(&gpt.backup, layout.len - GPT_LEN).unwrap();
        let sfdisk = |option: &str| {
            let output = std::process::Command::new("sfdisk")
                .arg(option)
                .arg(file.path())
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .output()
                .expect("sfdisk cannot be started; install fdisk");
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(sfdisk("--verify").contains("No errors detected"));
        let table: serde_json::Value = serde_json::from_str(&sfdisk("--json")).unwrap();
        let table = &table["partitiontable"];
        let upper = |uuid: Uuid| uuid.to_string().to_uppercase();
        assert_eq!(table["id"], upper(ids.disk_guid));
        assert_eq!(table["firstlba"], 34);
        assert_eq!(table["lastlba"], layout.len / SECTOR - 34);
        let mut want = layout.partitions.clone();
        want.sort_by_key(|p| p.number);
        let found = table["partitions"].as_array().unwrap();
        assert_eq!(found.len(), want.len());
        for (found, want) in found.iter().zip(&want) {
            assert_eq!(found["start"], want.start / SECTOR);
            assert_eq!(found["size"], want.len / SECTOR);
            assert_eq!(found["type"], upper(want.kind.properties().guid));
            assert_eq!(found["uuid"], upper(ids.partition_guid(want.number)));
            assert!(found["node"].as_str().unwrap().ends_with(&want.number.to_string()));
        }
    }
}
