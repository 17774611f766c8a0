//! The header of a qcow2 file: geometry, features and header extensions.
//!
//! Source: QEMU docs/interop/qcow2.rst, "Header" and "Header extensions"; limits as in QEMU's
//! block/qcow2.h.

use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first four bytes of a qcow2 file, as a number.
pub const MAGIC: u32 = 0x5146_49fb;
/// Length of a version 2 header, and minimum length of a version 3 header.
const HEADER_V2: usize = 72;
const HEADER_V3_MIN: usize = 104;
/// Header and extensions must end within the first cluster; clusters are at most 2 MiB.
const FIRST_CLUSTER_MAX: u64 = 2 << 20;
/// Largest L1 table (`QCOW_MAX_L1_SIZE`) and refcount table (`QCOW_MAX_REFTABLE_SIZE`) that QEMU
/// opens, in bytes.
const L1_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_MAX: u64 = 8 << 20;
/// Maximum length of the name of a backing file, in bytes.
const BACKING_NAME_MAX: usize = 1023;
/// Number of bits of the largest offset that tables of this format can hold.
const OFFSET_BITS: u32 = 56;
/// The incompatible feature "the image is corrupt".
const CORRUPT: u64 = 2;
/// The incompatible feature "extended L2 entries": clusters have subclusters.
pub(in crate::image) const EXTENDED_L2: u64 = 16;
/// The header extension that names feature bits, and the length of one of its entries.
pub(in crate::image) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(in crate::image) const FEATURE_NAME_LEN: usize = 48;
/// The header extension that names the format of the backing file.
pub(in crate::image) const BACKING_FORMAT: u32 = 0xe279_2aca;

/// A consistent header. Offsets and lengths in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Whether the header names a backing file.
    pub has_backing: bool,
    /// The name of the backing file, as stored.
    pub backing_name: Vec<u8>,
    /// Length of a cluster, as a power of two; 9 to 21.
    pub cluster_bits: u32,
    /// Length of the disk.
    pub disk_len: u64,
    /// Whether clusters are encrypted.
    pub encrypted: bool,
    /// Entries of the L1 table; at most QEMU's limit.
    pub l1_entries: u32,
    /// Where the L1 table is.
    pub l1_offset: u64,
    /// Where the refcount table is.
    pub refcount_offset: u64,
    /// Length of the refcount table in clusters; at most QEMU's limit.
    pub refcount_clusters: u32,
    /// Number of internal snapshots.
    pub snapshots: u32,
    /// Incompatible features: a program that does not know them must not open the file.
    pub incompatible: u64,
    /// Autoclear features: a program that does not know them clears them when it writes to the file.
    pub autoclear: u64,
    /// How clusters are compressed, if they are: 0 is deflate, 1 is zstd.
    pub compression: u8,
    /// Bits per refcount, as a power of two; at most 6.
    pub refcount_order: u32,
    /// Header extensions: type and content.
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// Offset of the end marker of the extensions.
    pub end_marker: usize,
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

impl Header {
    /// Read and check the header of `file`, which is `len` bytes long.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a file that is not qcow2 version 2 or 3;
    /// [`ErrorKind::Corrupt`] for a header that is inconsistent, exceeds QEMU's limits, or marks
    /// the file as corrupt.
    pub fn read(file: &File, len: u64) -> Result<Self> {
        Self::read_with(len, |head| file.read_exact_at(head, 0))
    }

    /// As [`Header::read`]; `read` fills its buffer with the first bytes of the file.
    ///
    /// # Errors
    /// Those of [`Header::read`].
    pub(in crate::image) fn read_with(
        len: u64,
        read: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> Result<Self> {
        let mut head = vec![0; len.min(FIRST_CLUSTER_MAX) as usize];
        read(&mut head).map_err(|e| Error::io("cannot read the header", e))?;
        Self::parse(&head)
    }

    /// Length of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Length of an entry of an L2 table.
    pub fn l2_entry_len(&self) -> u64 {
        if self.incompatible & EXTENDED_L2 != 0 { 16 } else { 8 }
    }

    /// Length of the refcount table.
    pub fn refcount_table_len(&self) -> u64 {
        u64::from(self.refcount_clusters) << self.cluster_bits
    }

    /// The content of the extension of type `kind`.
    pub fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().rev().find(|(k, _)| *k == kind).map(|(_, data)| &data[..])
    }

    /// Parse and check the header at the beginning of a file; `head` contains at least the first
    /// cluster, or the whole file.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn parse(head: &[u8]) -> Result<Self> {
        let u32_at = |at: usize| -> Result<u32> {
            let bytes = head.get(at..at + 4).ok_or_else(|| corrupt("its header is cut short"))?;
            Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let u64_at = |at| Ok((u64::from(u32_at(at)?) << 32) | u64::from(u32_at(at + 4)?));
        if head.len() < 8 || u32_at(0)? != MAGIC {
            return Err(Error::new(ErrorKind::Unsupported, "it is not a qcow2 file"));
        }
        let version = u32_at(4)?;
        if !(2..=3).contains(&version) {
            let what = format!("it is qcow2 of version {version}; 2 and 3 are read");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let v3 = version == 3;
        let mut header = Self {
            version,
            has_backing: u64_at(8)? != 0,
            backing_name: Vec::new(),
            cluster_bits: u32_at(20)?,
            disk_len: u64_at(24)?,
            encrypted: u32_at(32)? != 0,
            l1_entries: u32_at(36)?,
            l1_offset: u64_at(40)?,
            refcount_offset: u64_at(48)?,
            refcount_clusters: u32_at(56)?,
            snapshots: u32_at(60)?,
            incompatible: if v3 { u64_at(72)? } else { 0 },
            autoclear: if v3 { u64_at(88)? } else { 0 },
            compression: 0,
            refcount_order: if v3 { u32_at(96)? } else { 4 },
            extensions: Vec::new(),
            end_marker: 0,
        };
        header.check()?;
        let start = if v3 { u32_at(100)? as usize } else { HEADER_V2 };
        // The field was added later, and a header says by its length whether it has it.
        if start > HEADER_V3_MIN {
            header.compression =
                *head.get(104).ok_or_else(|| corrupt("its header is cut short"))?;
        }
        if v3 && (start < HEADER_V3_MIN || start % 8 != 0) {
            return Err(corrupt("invalid header length"));
        }
        let first_cluster = &head[..(1usize << header.cluster_bits).min(head.len())];
        if header.has_backing {
            let (at, len) = (usize::try_from(u64_at(8)?), u32_at(16)? as usize);
            let name = at.ok().filter(|_| len <= BACKING_NAME_MAX);
            let name = name.and_then(|at| first_cluster.get(at..at.checked_add(len)?));
            let name = name.ok_or_else(|| corrupt("the name of its backing file is misplaced"))?;
            header.backing_name = name.to_vec();
        }
        let end = header.has_backing.then(|| u64_at(8)).transpose()?;
        let end = end.and_then(|end| usize::try_from(end).ok()).filter(|end| *end >= start);
        header.with_extensions(first_cluster, start, end)
    }

    /// Check the fields against each other and against QEMU's limits.
    fn check(&self) -> Result<()> {
        if !(9..=21).contains(&self.cluster_bits) || self.refcount_order > 6 {
            return Err(corrupt("invalid cluster size or refcount width"));
        }
        if self.incompatible & CORRUPT != 0 {
            return Err(corrupt("it is marked corrupt; `qemu-img check -r all` may repair it"));
        }
        let aligned =
            |offset: u64| offset & (self.cluster_size() - 1) == 0 && offset >> OFFSET_BITS == 0;
        if !aligned(self.l1_offset) || !aligned(self.refcount_offset) {
            return Err(corrupt("a table does not begin at a cluster"));
        }
        if u64::from(self.l1_entries) * 8 > L1_MAX {
            return Err(corrupt("its L1 table is larger than 32 MiB, the largest that QEMU opens"));
        }
        if self.refcount_clusters == 0 || self.refcount_table_len() > REFCOUNT_TABLE_MAX {
            return Err(corrupt(
                "its refcount table is empty or larger than 8 MiB, the largest that QEMU opens",
            ));
        }
        // One L2 table of a cluster's length per entry of the L1 table.
        let per_l1 = self.cluster_size() / self.l2_entry_len() * self.cluster_size();
        if self.disk_len.div_ceil(per_l1) > u64::from(self.l1_entries) {
            return Err(corrupt("its L1 table is too small for the disk's length"));
        }
        Ok(())
    }

    fn with_extensions(mut self, cluster: &[u8], start: usize, end: Option<usize>) -> Result<Self> {
        let mut at = start;
        loop {
            // Without an end marker, the backing file's name ends them.
            if end.is_some_and(|end| at >= end) {
                self.end_marker = at;
                return Ok(self);
            }
            let Some(&[a, b, c, d, e, f, g, h]) = cluster.get(at..at.saturating_add(8)) else {
                return Err(corrupt("its header extensions have no end"));
            };
            let (kind, len) =
                (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]) as usize);
            if kind == 0 {
                self.end_marker = at;
                return Ok(self);
            }
            let data = cluster
                .get(at + 8..(at + 8).saturating_add(len))
                .filter(|data| kind != FEATURE_NAMES || data.len() % FEATURE_NAME_LEN == 0)
                .ok_or_else(|| corrupt("a header extension is cut short"))?;
            self.extensions.push((kind, data.to_vec()));
            at += 8 + len.next_multiple_of(8);
        }
    }
}

#[cfg(test)]
pub(in crate::image) mod tests {
    use super::*;

    /// The first cluster of an empty file of 64 KiB clusters.
    pub(in crate::image) fn valid() -> Vec<u8> {
        let mut head = vec![0; 65536];
        head[..4].copy_from_slice(&MAGIC.to_be_bytes());
        head[7] = 3;
        head[23] = 16;
        // Refcount table in cluster 1, one cluster; L1 table in cluster 2.
        (head[53], head[59], head[45]) = (1, 1, 2);
        head[99] = 4;
        head[103] = 104;
        head
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(Header::parse(&valid()).unwrap().extensions.is_empty());
        let spoil = |at: usize, byte: u8| {
            let mut head = valid();
            head[at] = byte;
            Header::parse(&head).map(|_| ()).map_err(|e| e.kind())
        };
        let (corrupt, unsupported) = (Err(ErrorKind::Corrupt), Err(ErrorKind::Unsupported));
        for (at, byte, expected) in [
            (0, 0, unsupported),
            (7, 1, unsupported),
            (7, 4, unsupported),
            (15, 1, Ok(())),
            (79, 2, corrupt),
            (79, 16, Ok(())),
            (23, 60, corrupt),
            (23, 8, corrupt),
            (99, 7, corrupt),
            (103, 1, corrupt),
            (103, 108, corrupt),
            (101, 255, corrupt),
            // A disk of 16 MiB without an L1 table.
            (28, 1, corrupt),
            // L1 table of 128 MiB, refcount tables of length 0 and of 16 MiB, tables not aligned to
            // a cluster.
            (36, 1, corrupt),
            (59, 0, corrupt),
            (58, 1, corrupt),
            (47, 1, corrupt),
            (55, 1, corrupt),
            (48, 1, corrupt),
        ] {
            assert_eq!(spoil(at, byte), expected, "byte {at} = {byte}");
        }
        for len in [0, 3, 50, 105] {
            assert!(Header::parse(&valid()[..len]).is_err());
        }
        // A table of feature names whose last entry is one byte long.
        let mut names = valid();
        names[104..108].copy_from_slice(&FEATURE_NAMES.to_be_bytes());
        names[111] = 49;
        assert_eq!(Header::parse(&names).unwrap_err().kind(), ErrorKind::Corrupt);
        names[111] = 48;
        assert_eq!(Header::parse(&names).unwrap().extensions.len(), 1);
        // An endless chain of empty extensions stops at the end of the cluster.
        let mut chain = valid();
        for at in (104..65536).step_by(8) {
            chain[at] = 1;
        }
        assert_eq!(Header::parse(&chain).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
