//! A sparse extent: its header, and where its grains are.

use crate::image::layer::{Place, Put, damaged};
use crate::image::stored_file::StoredFile;
use crate::image::unpack::{Compression, unpack};
use crate::{Error, ErrorKind, Result};
use std::io;

/// Bytes of a sector, the unit of most numbers in the format.
pub(super) const SECTOR: u64 = 512;
/// Length of a header in bytes.
const HEADER_LEN: usize = 512;
/// Flags: a table entry of 1 is a grain of zeros; grains are compressed; and preceded by a marker.
const ZERO_GRAINS: u32 = 4;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// The grain directory is in a footer at the end of the file.
const AT_END: u64 = u64::MAX;
/// Where the footer is, before the end of the file: it is followed by a marker of the same length.
const FOOTER: u64 = 1024;
/// Longest grain, in sectors: 2 MiB.
const MAX_GRAIN: u64 = 4096;
/// Most entries of a grain table: those of ESX have 4096.
const MAX_TABLE: u64 = 4096;
/// Length of the marker before a compressed grain, in bytes.
const MARKER: usize = 12;
/// How much of a table is read at once, in bytes.
const PIECE: u64 = 64 << 10;

/// The two formats of sparse extents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SparseKind {
    /// Of Workstation and exports: `KDMV`.
    Hosted,
    /// Of snapshots on ESX, up to version 6: `COWD`.
    Esx,
}

/// The tables of a sparse extent. Offsets and lengths in bytes of the extent's file, except where a
/// name says otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sparse {
    /// Length of the extent.
    len: u64,
    grain: u64,
    /// Entries of a grain table.
    table_entries: u64,
    directory: u64,
    zero_grains: bool,
    compressed: bool,
}

/// The fields of a header that count.
struct Header {
    sparse: Sparse,
    /// Where the embedded descriptor is, and its length; 0 if there is none.
    descriptor: (u64, u64),
    at_end: bool,
}

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

impl Header {
    fn parse(bytes: &[u8; HEADER_LEN], kind: SparseKind) -> Result<Self> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
        let sectors = |n: u64| n.checked_mul(SECTOR).ok_or_else(|| corrupt("impossible offset"));
        let magic: &[u8] = match kind {
            SparseKind::Hosted => b"KDMV",
            SparseKind::Esx => b"COWD",
        };
        if !bytes.starts_with(magic) {
            return Err(corrupt("it has no header of a sparse extent"));
        }
        let (version, flags) = (u32_at(4), u32_at(8));
        if !(1..=3).contains(&version) {
            return unsupported(format!("it has version {version} of the format; 1 to 3 are read"));
        }
        let (len, grain, table_entries, directory) = match kind {
            SparseKind::Hosted => (u64_at(12), u64_at(20), u64::from(u32_at(44)), u64_at(56)),
            SparseKind::Esx => {
                (u64::from(u32_at(12)), u64::from(u32_at(16)), 4096, u64::from(u32_at(20)))
            }
        };
        let at_end = kind == SparseKind::Hosted && directory == AT_END;
        let compressed = kind == SparseKind::Hosted && flags & COMPRESSED != 0;
        if compressed && (flags & MARKERS == 0 || bytes[77..79] != [1, 0]) {
            return unsupported("its grains are compressed in an unknown way".into());
        }
        if !(1..=MAX_GRAIN).contains(&grain) || !grain.is_power_of_two() {
            return Err(corrupt("invalid length of a grain"));
        }
        if !(1..=MAX_TABLE).contains(&table_entries) {
            return Err(corrupt("invalid length of a grain table"));
        }
        let descriptor = match kind {
            SparseKind::Hosted => (sectors(u64_at(28))?, sectors(u64_at(36))?),
            SparseKind::Esx => (0, 0),
        };
        let sparse = Sparse {
            len: sectors(len)?,
            grain: grain * SECTOR,
            table_entries,
            directory: if at_end { 0 } else { sectors(directory)? },
            zero_grains: kind == SparseKind::Hosted && flags & ZERO_GRAINS != 0,
            compressed,
        };
        Ok(Self { sparse, descriptor, at_end })
    }
}

impl Sparse {
    /// The extent in `file`, and the place and length of its embedded descriptor, if it has one. Up to
    /// `budget` bytes of tables are compared with the file's length.
    ///
    /// # Errors
    /// Errors of the file; `Corrupt` if it is too short or damaged.
    pub(super) fn open(
        file: &StoredFile,
        kind: SparseKind,
        budget: u64,
    ) -> Result<(Self, Option<(u64, u64)>)> {
        let read = |at| {
            let bytes = file.array(at).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => corrupt("the file ends within its header"),
                _ => Error::io("cannot read its header", e),
            })?;
            Header::parse(&bytes, kind)
        };
        let first = read(0)?;
        let header = match first.at_end {
            false => first,
            true => {
                let footer = file.len().checked_sub(FOOTER);
                let cut = || corrupt("the file has no footer; it was cut short");
                let footer = read(footer.ok_or_else(cut)?).map_err(|_| cut())?;
                if footer.at_end {
                    return Err(corrupt("its footer does not say where its tables are"));
                }
                Header { descriptor: first.descriptor, ..footer }
            }
        };
        header.sparse.check_tables(file, budget)?;
        let descriptor = (header.descriptor.1 > 0).then_some(header.descriptor);
        Ok((header.sparse, descriptor))
    }

    /// Length of the extent.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How much of the extent a grain table describes.
    fn span(&self) -> u64 {
        self.grain * self.table_entries
    }

    /// Refuse a file that was cut short.
    fn check_tables(&self, file: &StoredFile, checked: u64) -> Result<()> {
        let (count, file_len) = (self.len.div_ceil(self.span()), file.len());
        let failed = |e| Error::io("cannot read its tables", e);
        let cut = |what: &str, at: u64| {
            Err(corrupt(format!(
                "the file ends at {file_len} bytes, and {what} is at {at}; it was cut short"
            )))
        };
        if count
            .checked_mul(4)
            .and_then(|n| n.checked_add(self.directory))
            .is_none_or(|end| end > file_len)
        {
            return cut("its grain directory", self.directory);
        }
        let table_len = self.table_entries * 4;
        let (mut last, mut budget) = (Vec::new(), checked);
        let mut first = 0;
        while first < count && budget > 0 {
            let n = (count - first).min(PIECE / 4);
            budget = budget.saturating_sub(n * 4);
            let entries = entries(file, self.directory + first * 4, n).map_err(failed)?;
            for (index, entry) in (first..).zip(entries).filter(|(_, entry)| *entry != 0) {
                let at = u64::from(entry) * SECTOR;
                if at + table_len > file_len {
                    return cut("a grain table", at);
                }
                last.push((at, index));
            }
            first += n;
        }
        // The tables at the end of the file describe what is missing first.
        last.sort_unstable_by(|a, b| b.cmp(a));
        for (at, index) in last.into_iter().take((checked / table_len) as usize) {
            for (number, entry) in (0..).zip(entries(file, at, self.table_entries).map_err(failed)?)
            {
                let grain = index * self.span() + number * self.grain;
                if entry == 0 || (self.zero_grains && entry == 1) || grain >= self.len {
                    continue;
                }
                let place = u64::from(entry) * SECTOR;
                let len = if self.compressed { 1 } else { self.grain.min(self.len - grain) };
                if place + len > file_len {
                    return cut("data that it should contain", place);
                }
            }
        }
        Ok(())
    }

    /// Offset of the grain table for the extent's byte `at`, if there is one.
    fn table(&self, file: &StoredFile, at: u64) -> io::Result<Option<u64>> {
        let entry = u32::from_le_bytes(file.array(self.directory + at / self.span() * 4)?);
        Ok((entry != 0).then(|| u64::from(entry) * SECTOR))
    }

    /// Split the range of the extent from `start` to `end`, by offsets in the extent.
    ///
    /// # Errors
    /// Errors of the file; `InvalidData` for a damaged table.
    pub(super) fn locate(
        &self,
        file: &StoredFile,
        start: u64,
        end: u64,
        put: &mut Put<'_>,
    ) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let table_end = ((at / self.span() + 1) * self.span()).min(end);
            let Some(table) = self.table(file, at)? else {
                put(at, table_end, Place::Absent);
                at = table_end;
                continue;
            };
            let first = at % self.span() / self.grain;
            let count = table_end.div_ceil(self.grain) - at / self.grain;
            for entry in entries(file, table + first * 4, count)? {
                let grain = at / self.grain * self.grain;
                let grain_end = (grain + self.grain).min(table_end);
                let place = u64::from(entry) * SECTOR;
                let place = match entry {
                    0 => Place::Absent,
                    1 if self.zero_grains => Place::Zeros,
                    _ if self.compressed => Place::Packed { unit: grain },
                    _ if place + (grain_end - grain) > file.len() => {
                        return Err(damaged(format!(
                            "data at {place} lies past the end of the file"
                        )));
                    }
                    _ => Place::Stored { file: 0, offset: place + (at - grain) },
                };
                put(at, grain_end, place);
                at = grain_end;
            }
        }
        Ok(())
    }

    /// The bytes of the compressed grain that begins at offset `grain` of the extent.
    ///
    /// # Errors
    /// Errors of the file; `InvalidData` if it is damaged.
    pub(super) fn unpack(&self, file: &StoredFile, grain: u64) -> io::Result<Vec<u8>> {
        let table = self.table(file, grain)?.ok_or(io::ErrorKind::InvalidData)?;
        let index = grain % self.span() / self.grain;
        let entry = u32::from_le_bytes(file.array(table + index * 4)?);
        let at = u64::from(entry) * SECTOR;
        let marker: [u8; MARKER] = file.array(at)?;
        let (lba, len) = marker.split_at(8);
        let lba = u64::from_le_bytes(lba.try_into().unwrap_or_default());
        let len = u64::from(u32::from_le_bytes(len.try_into().unwrap_or_default()));
        // What cannot be compressed grows by less than this.
        if lba != grain / SECTOR || len > self.grain * 2 + PIECE {
            return Err(damaged(format!("the marker of a compressed grain at {at} is damaged")));
        }
        let mut packed = vec![0; len as usize];
        file.read(&mut packed, at + MARKER as u64)?;
        // The last grain may be stored in whole, or up to the end of the disk.
        let full = unpack(Compression::Zlib, &packed, self.grain as usize);
        full.or_else(|e| match (self.len - grain).min(self.grain) {
            part if part < self.grain => unpack(Compression::Zlib, &packed, part as usize),
            _ => Err(e),
        })
    }
}

/// `n` table entries at `at`.
fn entries(file: &StoredFile, at: u64, n: u64) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; n as usize * 4];
    file.read(&mut bytes, at)?;
    let entry = |e: &[u8]| u32::from_le_bytes([e[0], e[1], e[2], e[3]]);
    Ok(bytes.chunks_exact(4).map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(b"KDMV");
        bytes[4] = 1;
        bytes[8] = 3;
        // 2048 sectors in grains of 128, tables of 512 entries, directory at sector 21.
        (bytes[13], bytes[20], bytes[45], bytes[56]) = (8, 128, 2, 21);
        (bytes[28], bytes[36]) = (1, 20);
        bytes
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let header = Header::parse(&valid(), SparseKind::Hosted).unwrap();
        assert_eq!((header.sparse.len, header.sparse.grain), (1 << 20, 64 << 10));
        assert_eq!(header.descriptor, (512, 10240));
        for (at, byte, word) in [
            (0, 0, "no header"),
            (4, 4, "version 4"),
            (10, 1, "unknown way"),
            (20, 0, "grain"),
            (20, 3, "grain"),
            (22, 1, "grain"),
            (45, 0, "table"),
            (46, 1, "table"),
            (19, 255, "impossible"),
            (63, 255, "impossible"),
        ] {
            let mut bytes = valid();
            bytes[at] = byte;
            let e = Header::parse(&bytes, SparseKind::Hosted).err().expect("refused");
            assert!(e.to_string().contains(word), "byte {at}: {e}");
        }
    }
}
