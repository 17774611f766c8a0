//! Is a qcow2 overlay sound enough to write to?
//!
//! Walks the tables once at mount, as `qemu-img check` does: what it costs depends on what the
//! overlay holds, not on the disk. Leaked clusters are harmless and pass; a cluster that is used
//! twice, lies outside the file or counts as free would lose data at the next write and does not.
//!
//! Source: QEMU docs/interop/qcow2.rst, "Host cluster management" and "Cluster mapping".

use super::header::Geometry;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bits 9 to 55 of a table entry: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

struct Walk<'a> {
    file: &'a File,
    geometry: Geometry,
    clusters: u64,
    /// One bit per cluster of the file.
    used: Vec<u64>,
    refcount_blocks: Vec<u64>,
    /// The refcount block that was looked at last, and its index.
    cached: Option<(usize, Vec<u8>)>,
}

/// Check all tables of the qcow2 file `file`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with the first thing that is wrong; [`ErrorKind::Io`].
pub(super) fn check(file: &File, geometry: Geometry) -> Result<()> {
    let len = file.metadata().map_err(|e| Error::io("cannot stat it", e))?.len();
    let clusters = len.div_ceil(1 << geometry.cluster_bits);
    let mut walk = Walk {
        file,
        geometry,
        clusters,
        used: vec![0; usize::try_from(clusters.div_ceil(64)).unwrap_or(0)],
        refcount_blocks: Vec::new(),
        cached: None,
    };
    walk.run()
}

impl Walk<'_> {
    fn cluster_size(&self) -> u64 {
        1 << self.geometry.cluster_bits
    }

    fn run(&mut self) -> Result<()> {
        let g = self.geometry;
        let entries_per_l2 = self.cluster_size() / 8;
        let l2_needed = g.disk_len.div_ceil(self.cluster_size()).div_ceil(entries_per_l2);
        if u64::from(g.l1_entries) < l2_needed || u64::from(g.l1_entries) > l2_needed + 65536 {
            return Err(corrupt("its L1 table does not fit the disk's length"));
        }
        let refcount_bytes = u64::from(g.refcount_clusters) << g.cluster_bits;
        self.refcount_blocks = self.table(g.refcount_offset, refcount_bytes / 8)?;
        self.use_range(0, 1, "the header")?;
        self.use_range(g.refcount_offset, refcount_bytes, "the refcount table")?;
        for block in self.refcount_blocks.clone() {
            if block & OFFSET_MASK != 0 {
                self.use_range(block & OFFSET_MASK, self.cluster_size(), "a refcount block")?;
            }
        }
        self.use_range(g.l1_offset, u64::from(g.l1_entries) * 8, "the L1 table")?;
        for l1 in self.table(g.l1_offset, u64::from(g.l1_entries))? {
            let l2_offset = l1 & OFFSET_MASK;
            if l2_offset == 0 {
                continue;
            }
            self.use_range(l2_offset, self.cluster_size(), "an L2 table")?;
            for entry in self.table(l2_offset, entries_per_l2)? {
                if entry & COMPRESSED != 0 {
                    return Err(corrupt("it holds compressed clusters, which are never written"));
                }
                if entry & OFFSET_MASK != 0 {
                    self.use_range(entry & OFFSET_MASK, self.cluster_size(), "a data cluster")?;
                }
            }
        }
        Ok(())
    }

    /// Read a table of `entries` big-endian 64-bit numbers; the file's length bounds it.
    fn table(&self, offset: u64, entries: u64) -> Result<Vec<u64>> {
        let end = entries.checked_mul(8).and_then(|n| n.checked_add(offset));
        if end.is_none_or(|end| end > self.clusters << self.geometry.cluster_bits) {
            return Err(corrupt("a table lies outside the file"));
        }
        let mut bytes = vec![0; (entries * 8) as usize];
        let mut filled = 0;
        // A table in the last cluster may end with the file: what is not stored is zero.
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) => return Err(Error::io("cannot read a table", e)),
            }
        }
        let entry = |b: &[u8]| b.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
        Ok(bytes.chunks_exact(8).map(entry).collect())
    }

    /// Note that `[offset, offset + len)` is used for `what`.
    fn use_range(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        if offset & (self.cluster_size() - 1) != 0 {
            return Err(corrupt(format!("{what} does not begin at a cluster")));
        }
        for cluster in offset >> bits..(offset + len).div_ceil(self.cluster_size()) {
            if cluster >= self.clusters {
                return Err(corrupt(format!("{what} lies outside the file")));
            }
            let (word, bit) = ((cluster / 64) as usize, 1 << (cluster % 64));
            if self.used[word] & bit != 0 {
                return Err(corrupt(format!("{what} shares a cluster with something else")));
            }
            self.used[word] |= bit;
            if self.refcount(cluster)? == 0 {
                return Err(corrupt(format!("{what} is counted as free")));
            }
        }
        Ok(())
    }

    fn refcount(&mut self, cluster: u64) -> Result<u64> {
        let order = self.geometry.refcount_order;
        let per_block = (self.cluster_size() * 8) >> order;
        let index = (cluster / per_block) as usize;
        let block = self.refcount_blocks.get(index).map_or(0, |b| b & OFFSET_MASK);
        if block == 0 {
            return Ok(0);
        }
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != index) {
            let words = self.table(block, self.cluster_size() / 8)?;
            let bytes = words.into_iter().flat_map(u64::to_be_bytes).collect();
            self.cached = Some((index, bytes));
        }
        let bytes = self.cached.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let within = (cluster % per_block) as usize;
        Ok(if order >= 3 {
            let width = 1 << (order - 3);
            let entry = &bytes[within * width..(within + 1) * width];
            entry.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte))
        } else {
            // Narrower than a byte: the first entry lies in the least significant bits.
            let per_byte = 8 >> order;
            let shift = (within % per_byte) << order;
            u64::from(bytes[within / per_byte] >> shift) & ((1 << (1 << order)) - 1)
        })
    }
}
