//! Reads the partition table of an image that is a whole disk, as Linux reads it.
//!
//! Sources: Linux `block/partitions/msdos.c` and `efi.c`; UEFI specification, chapter 5. The table
//! is the guest's: everything in it is checked, and a table that cannot be trusted is refused as a
//! whole. `gptman` and `mbrman` are not used here: they allocate what a header claims, and compute
//! the positions of logical partitions in 32 bits.

use crate::bytes::ReadAt;
use crate::layout::{PartitionKind, Placed, SECTOR, TableKind, crc32};
use crate::{Error, ErrorKind, Result};
use uuid::Uuid;

/// Most partitions that are read.
const MAX_PARTITIONS: usize = 128;
/// Most extended boot records that are followed, as in Linux.
const MAX_LINKS: usize = 100;
/// Most entries of a GPT that are looked at. Nearly all tables have 128.
const MAX_ENTRIES: u32 = 1024;
const ENTRY_LEN: usize = 128;
const HEADER_LEN: usize = 92;
/// First entry of an MBR, and the length of one.
const MBR_ENTRIES: usize = 446;
const MBR_ENTRY_LEN: usize = 16;
/// The type of an entry that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// A partition table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskTable {
    /// Its type.
    pub kind: TableKind,
    /// The disk signature in the MBR.
    pub disk_id: u32,
    /// The disk's GUID; nil with an MBR.
    pub disk_guid: Uuid,
    /// Its partitions in disk order; extended partitions, which only contain others, are left out.
    pub partitions: Vec<TablePartition>,
}

/// A partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TablePartition {
    /// Its place. The kind is what the type in the table says.
    pub placed: Placed,
    /// `PARTUUID` as the kernel prints it.
    pub partuuid: String,
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

impl DiskTable {
    /// The table of `disk`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a table with errors, and for partitions that overlap or do not
    /// lie on the disk; [`ErrorKind::Unsupported`] for one with too many; errors from reading it.
    pub fn read(disk: &dyn ReadAt) -> Result<Self> {
        let mbr = sector(disk, 0)?;
        if !is_signed(&mbr) {
            return Err(corrupt("there is no partition table"));
        }
        let disk_id = u32_at(&mbr, 440);
        let protected = entries(&mbr).iter().any(|entry| entry.kind == PROTECTIVE);
        let mut table = if protected && sector(disk, 1)?.starts_with(b"EFI PART") {
            gpt(disk, disk_id)?
        } else {
            Self {
                kind: TableKind::Mbr,
                disk_id,
                disk_guid: Uuid::nil(),
                partitions: mbr_partitions(disk, &mbr, disk_id)?,
            }
        };
        if table.partitions.len() > MAX_PARTITIONS {
            let what = format!("the partition table has more than {MAX_PARTITIONS} partitions");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        table.partitions.sort_by_key(|p| p.placed.start);
        check_places(&table.partitions, disk.len())?;
        Ok(table)
    }
}

/// Refuses partitions in each other, in sector 0, and past the end.
fn check_places(partitions: &[TablePartition], len: u64) -> Result<()> {
    let mut before: Option<&Placed> = None;
    for p in partitions.iter().map(|p| &p.placed) {
        if p.start < SECTOR {
            return Err(corrupt(format!("partition {} contains the partition table", p.number)));
        }
        if let Some(before) = before.filter(|before| before.end() > p.start) {
            let what = format!("partitions {} and {} overlap", before.number, p.number);
            return Err(corrupt(what));
        }
        // An image may end within its last sector.
        if p.end() > len.next_multiple_of(SECTOR) {
            let what =
                format!("partition {} ends after the end of the image, which is cut off", p.number);
            return Err(corrupt(what));
        }
        before = Some(p);
    }
    Ok(())
}

// ---- MBR -----------------------------------------------------------------------------------

/// An entry of an MBR or of an extended boot record. Positions in sectors.
#[derive(Clone, Copy, Debug)]
struct Entry {
    active: bool,
    kind: u8,
    start: u64,
    len: u64,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85) && self.len > 0
    }

    fn partition(&self, number: u32, start: u64, disk_id: u32) -> TablePartition {
        let kind = PartitionKind::ALL
            .into_iter()
            .find(|kind| kind.properties().mbr == Some(self.kind))
            .unwrap_or(PartitionKind::Linux);
        // 32-bit numbers of sectors.
        let (start, len, active) = (start * SECTOR, self.len * SECTOR, self.active);
        TablePartition {
            placed: Placed { number, start, len, kind, active },
            partuuid: format!("{disk_id:08x}-{number:02x}"),
        }
    }
}

fn entries(sector: &[u8; SECTOR as usize]) -> [Entry; 4] {
    std::array::from_fn(|i| {
        let at = MBR_ENTRIES + i * MBR_ENTRY_LEN;
        Entry {
            active: sector[at] & 0x80 != 0,
            kind: sector[at + 4],
            start: u32_at(sector, at + 8).into(),
            len: u32_at(sector, at + 12).into(),
        }
    })
}

fn mbr_partitions(
    disk: &dyn ReadAt,
    mbr: &[u8; SECTOR as usize],
    disk_id: u32,
) -> Result<Vec<TablePartition>> {
    let mut out = Vec::new();
    let mut logical = 5;
    for (number, entry) in (1..).zip(entries(mbr)) {
        if entry.is_extended() {
            logical_partitions(disk, &entry, disk_id, &mut logical, &mut out)?;
        } else if entry.len > 0 && entry.kind != 0 {
            out.push(entry.partition(number, entry.start, disk_id));
        }
    }
    Ok(out)
}

/// The partitions in the chain of boot records in `extended`; `number` is the next one's.
fn logical_partitions(
    disk: &dyn ReadAt,
    extended: &Entry,
    disk_id: u32,
    number: &mut u32,
    out: &mut Vec<TablePartition>,
) -> Result<()> {
    let (mut record, mut record_len) = (extended.start, extended.len);
    for _ in 0..MAX_LINKS {
        let found = sector(disk, record)?;
        if !is_signed(&found) {
            return Ok(());
        }
        for (i, entry) in entries(&found).into_iter().enumerate() {
            if entry.len == 0 || entry.kind == 0 || entry.is_extended() {
                continue;
            }
            let start = record + entry.start;
            let inside = start >= extended.start
                && start + entry.len <= extended.start + extended.len
                && entry.start + entry.len <= record_len;
            // The last two entries are unused, or left over.
            if i < 2 || inside {
                out.push(entry.partition(*number, start, disk_id));
                *number += 1;
            }
        }
        let Some(link) = entries(&found).into_iter().find(Entry::is_extended) else {
            return Ok(());
        };
        record = extended.start + link.start;
        record_len = link.len;
    }
    Err(corrupt("the list of logical partitions does not end"))
}

// ---- GPT -----------------------------------------------------------------------------------

/// The primary GPT or, if that is damaged, the backup in the last sector.
fn gpt(disk: &dyn ReadAt, disk_id: u32) -> Result<DiskTable> {
    let last = (disk.len() / SECTOR).saturating_sub(1);
    gpt_at(disk, 1, disk_id).or_else(|e| match gpt_at(disk, last, disk_id) {
        Ok(table) => Ok(table),
        Err(_) => Err(e),
    })
}

fn gpt_at(disk: &dyn ReadAt, lba: u64, disk_id: u32) -> Result<DiskTable> {
    let bad = || corrupt("both copies of the GPT are damaged");
    let header = sector(disk, lba)?;
    let header_len = u32_at(&header, 12) as usize;
    if !header.starts_with(b"EFI PART") || !(HEADER_LEN..=SECTOR as usize).contains(&header_len) {
        return Err(bad());
    }
    let mut unsigned = header;
    unsigned[16..20].fill(0);
    let count = u32_at(&header, 80);
    let sound = crc32(&unsigned[..header_len]) == u32_at(&header, 16)
        && u64_at(&header, 24) == lba
        && u32_at(&header, 84) as usize == ENTRY_LEN;
    if !sound {
        return Err(bad());
    }
    if count > MAX_ENTRIES {
        let what = format!("the GPT has {count} entries; {MAX_ENTRIES} are read at most");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let mut bytes = vec![0; count as usize * ENTRY_LEN];
    let start = u64_at(&header, 72).checked_mul(SECTOR).ok_or_else(bad)?;
    let end = start.checked_add(bytes.len() as u64).filter(|end| *end <= disk.len());
    end.ok_or_else(bad)?;
    disk.read_at(&mut bytes, start).map_err(unreadable)?;
    if crc32(&bytes) != u32_at(&header, 88) {
        return Err(bad());
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(bytes.chunks_exact(ENTRY_LEN)) {
        let kind = guid_at(entry, 0);
        if kind.is_nil() {
            continue;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let place = || {
            let len = last.checked_sub(first)?.checked_add(1)?.checked_mul(SECTOR)?;
            let start = first.checked_mul(SECTOR)?;
            start.checked_add(len).map(|_| (start, len))
        };
        let invalid = || corrupt(format!("partition {number} has an invalid place"));
        let (start, len) = place().ok_or_else(invalid)?;
        let kind = PartitionKind::ALL.into_iter().find(|known| known.properties().guid == kind);
        let kind = kind.unwrap_or(PartitionKind::Linux);
        // Attribute 2: legacy BIOS bootable.
        let active = u64_at(entry, 48) & 4 != 0;
        partitions.push(TablePartition {
            placed: Placed { number, start, len, kind, active },
            partuuid: guid_at(entry, 16).to_string(),
        });
    }
    let disk_guid = guid_at(&header, 56);
    Ok(DiskTable { kind: TableKind::Gpt, disk_id, disk_guid, partitions })
}

// ---- bytes ---------------------------------------------------------------------------------

fn unreadable(e: std::io::Error) -> Error {
    Error::io("cannot read the partition table", e)
}

fn sector(disk: &dyn ReadAt, lba: u64) -> Result<[u8; SECTOR as usize]> {
    let mut out = [0; SECTOR as usize];
    let past = || corrupt("the partition table refers to sectors after the end of the image");
    let start = lba.checked_mul(SECTOR).ok_or_else(past)?;
    if start.checked_add(SECTOR).is_none_or(|end| end > disk.len()) {
        return Err(past());
    }
    disk.read_at(&mut out, start).map_err(unreadable)?;
    Ok(out)
}

fn is_signed(sector: &[u8; SECTOR as usize]) -> bool {
    sector[510..] == [0x55, 0xaa]
}

/// The callers' offsets are constants within the bytes.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    bytes[at..].first_chunk().map_or(Uuid::nil(), |b| Uuid::from_bytes_le(*b))
}

#[cfg(test)]
mod tests;
