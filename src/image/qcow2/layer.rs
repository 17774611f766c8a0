//! One qcow2 file: which clusters of the disk it stores, and where.

use super::header::Header;
use crate::image::layer::{Layer, Place, Put, damaged};
use crate::image::opening::Opening;
use crate::image::stored_file::StoredFile;
use crate::image::unpack::{Compression, unpack};
use crate::{Error, ErrorKind, Result};
use std::io;

/// Bits of table entries that hold an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros.
const ZERO: u64 = 1;
/// Subclusters in a cluster with an extended entry.
const SUBCLUSTERS: u64 = 32;
/// Bytes of tables that are checked when an image is opened: enough for 64 GiB of data in clusters of
/// 64 KiB. More would make opening slow.
const CHECKED: u64 = 8 << 20;

/// A qcow2 file. Offsets and lengths in bytes.
#[derive(Debug)]
pub(super) struct Qcow2Layer {
    file: [StoredFile; 1],
    len: u64,
    v2: bool,
    cluster_bits: u32,
    entry_len: u64,
    l1_offset: u64,
    l1_entries: u64,
    compression: Compression,
}

impl Qcow2Layer {
    /// The file in `opening`, with its `header`.
    ///
    /// # Errors
    /// Errors of the file; `Corrupt` if it is too short for its tables or for their clusters.
    pub(super) fn open(opening: Opening, header: &Header) -> Result<Self> {
        let layer = Self {
            file: [opening.into()],
            len: header.disk_len,
            v2: header.version == 2,
            cluster_bits: header.cluster_bits,
            entry_len: header.l2_entry_len(),
            l1_offset: header.l1_offset,
            l1_entries: u64::from(header.l1_entries),
            compression: match header.compression {
                0 => Compression::Deflate,
                _ => Compression::Zstd,
            },
        };
        layer.check_tables()?;
        Ok(layer)
    }

    /// Refuse a file that was cut short. The L2 tables at the end of the file are checked, because
    /// what follows them is what is missing first.
    fn check_tables(&self) -> Result<()> {
        let corrupt = |what: String| Err(Error::new(ErrorKind::Corrupt, what));
        let failed = |e| Error::io("cannot read its tables", e);
        let (cluster, file_len) = (self.cluster(), self.file[0].len());
        let needed = self.len.div_ceil(self.span());
        if self.l1_offset.saturating_add(needed * 8) > file_len {
            return corrupt(format!(
                "the file ends at {file_len} bytes, before its L1 table; it was cut short"
            ));
        }
        // The header's check limits the table to 32 MiB.
        let mut bytes = vec![0; needed as usize * 8];
        self.file[0].read(&mut bytes, self.l1_offset).map_err(failed)?;
        let offset = |e: &[u8]| u64::from_be_bytes(e.try_into().unwrap_or_default()) & OFFSET;
        let mut tables: Vec<(u64, u64)> =
            bytes.chunks_exact(8).map(offset).zip(0..).filter(|(at, _)| *at != 0).collect();
        tables.sort_unstable_by(|a, b| b.cmp(a));
        if let Some((last, _)) = tables.first().filter(|(last, _)| *last + cluster > file_len) {
            return corrupt(format!(
                "the file ends at {file_len} bytes, and a table of its clusters is at {last}; it was \
                 cut short"
            ));
        }
        let mut table = vec![0; cluster as usize];
        for (at, index) in tables.into_iter().take((CHECKED / cluster) as usize) {
            self.file[0].read(&mut table, at).map_err(failed)?;
            let disk = (index * self.span()..self.len).step_by(cluster as usize);
            for (entry, at) in table.chunks_exact(self.entry_len as usize).zip(disk) {
                let entry = u64::from_be_bytes(entry[..8].try_into().unwrap_or_default());
                let (start, len) = match (entry & COMPRESSED != 0, entry & OFFSET) {
                    (true, _) => (self.packed(entry).0, 1),
                    (false, 0) => continue,
                    // Its zeros need not be in the file, nor subclusters that are not stored.
                    (false, start) if entry & ZERO != 0 || self.entry_len > 8 => (start, 0),
                    (false, start) => (start, cluster.min(self.len - at)),
                };
                if start.saturating_add(len) > file_len {
                    return corrupt(format!(
                        "the file ends at {file_len} bytes, and data that it should contain is at \
                         {start}; it was cut short"
                    ));
                }
            }
        }
        Ok(())
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How much of the disk an L2 table describes.
    fn span(&self) -> u64 {
        self.cluster() / self.entry_len * self.cluster()
    }

    /// Offset and maximum length of the compressed cluster of an L2 entry.
    fn packed(&self, entry: u64) -> (u64, u64) {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        (offset, (sectors + 1) * 512 - (offset & 511))
    }

    /// Offset of the L2 table that describes the disk at `at`, if there is one.
    fn table(&self, at: u64) -> io::Result<Option<u64>> {
        let index = at / self.span();
        if index >= self.l1_entries {
            return Ok(None);
        }
        let entry = u64::from_be_bytes(self.file[0].array(self.l1_offset + index * 8)?);
        match entry & OFFSET {
            0 => Ok(None),
            table if table % self.cluster() != 0 => {
                Err(damaged(format!("an L2 table at {table} does not begin at a cluster")))
            }
            table => Ok(Some(table)),
        }
    }

    /// Split the part of a cluster from `at` to `end` by its L2 entry; `bitmap` is the second half of
    /// an extended one.
    fn locate_in_cluster(
        &self,
        (entry, bitmap): (u64, Option<u64>),
        (at, end): (u64, u64),
        put: &mut Put<'_>,
    ) -> io::Result<()> {
        let start = at & !(self.cluster() - 1);
        if entry & COMPRESSED != 0 {
            put(at, end, Place::Packed { unit: start });
            return Ok(());
        }
        let offset = entry & OFFSET;
        if offset % self.cluster() != 0 {
            return Err(damaged(format!("data at {offset} does not begin at a cluster")));
        }
        let Some(bitmap) = bitmap else {
            let place = match (entry & ZERO != 0, offset) {
                (true, _) if self.v2 => return Err(damaged("a zero cluster in version 2")),
                (true, _) => Place::Zeros,
                (false, 0) => Place::Absent,
                (false, _) => Place::Stored { file: 0, offset: offset + (at - start) },
            };
            put(at, end, place);
            return Ok(());
        };
        let sub = self.cluster() / SUBCLUSTERS;
        let mut from = at;
        while from < end {
            let number = (from - start) / sub;
            let to = (start + (number + 1) * sub).min(end);
            let bit = |n: u64| bitmap >> n & 1 != 0;
            let place = match (bit(number), bit(number + 32)) {
                (true, true) => return Err(damaged("a subcluster is stored and zero")),
                (false, true) => Place::Zeros,
                (false, false) => Place::Absent,
                (true, false) if offset == 0 => {
                    return Err(damaged("a subcluster is stored nowhere"));
                }
                (true, false) => Place::Stored { file: 0, offset: offset + (from - start) },
            };
            put(from, to, place);
            from = to;
        }
        Ok(())
    }
}

impl Layer for Qcow2Layer {
    fn len(&self) -> u64 {
        self.len
    }

    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let table_end = ((at / self.span() + 1) * self.span()).min(end);
            let Some(table) = self.table(at)? else {
                put(at, table_end, Place::Absent);
                at = table_end;
                continue;
            };
            let first = (at % self.span()) >> self.cluster_bits;
            let count = table_end.div_ceil(self.cluster()) - (at >> self.cluster_bits);
            // At most as long as a cluster: this is part of one table.
            let mut entries = vec![0; (count * self.entry_len) as usize];
            self.file[0].read(&mut entries, table + first * self.entry_len)?;
            for entry in entries.chunks_exact(self.entry_len as usize) {
                let half = |at| {
                    entry.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
                };
                let cluster_end = ((at >> self.cluster_bits) + 1) << self.cluster_bits;
                let cluster_end = cluster_end.min(table_end);
                let value = (half(0).unwrap_or_default(), half(8));
                self.locate_in_cluster(value, (at, cluster_end), put)?;
                at = cluster_end;
            }
        }
        Ok(())
    }

    fn unpack(&self, unit: u64) -> io::Result<Vec<u8>> {
        let table = self.table(unit)?.ok_or(io::ErrorKind::InvalidData)?;
        let index = (unit % self.span()) >> self.cluster_bits;
        let entry = u64::from_be_bytes(self.file[0].array(table + index * self.entry_len)?);
        let (offset, len) = self.packed(entry);
        // The length is in whole sectors, which the end of the file may cut off.
        let len = len.min(self.file[0].len().saturating_sub(offset));
        // At most twice the length of a cluster, by the bits of an entry.
        let mut packed = vec![0; len as usize];
        self.file[0].read(&mut packed, offset)?;
        unpack(self.compression, &packed, self.cluster() as usize)
    }

    fn files(&self) -> &[StoredFile] {
        &self.file
    }
}
