//! Checks whether a qcow2 overlay is consistent enough to be written to.
//!
//! Walks the tables once at mount, as `qemu-img check` does: the cost depends on what the overlay
//! contains, not on the length of the disk. Leaked clusters are harmless and accepted. A cluster
//! that is used twice, lies outside the file or is not counted exactly once would lose data at the
//! next write, so the overlay is refused; so is one with flags that an overlay never has.
//!
//! The file may come from an untrusted source, and a sparse file can claim any length. Tables are
//! read in pieces, and memory use grows only with the tables that are actually present.
//!
//! Source: QEMU docs/interop/qcow2.rst, "Host cluster management" and "Cluster mapping".

use super::storage::Storage;
use crate::image::Qcow2Header;
use crate::{Error, ErrorKind, Result};
use std::collections::HashMap;

/// Bits 9 to 55 of a table entry: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// The cluster is counted exactly once. Set in all entries of an overlay.
const COPIED: u64 = 1 << 63;
/// In an L2 entry: the cluster reads as zeros.
const ZERO: u64 = 1;
/// Tables are read in pieces of this many bytes; clusters, and so tables, are a multiple of 512.
const PIECE: u64 = 64 << 10;
/// Clusters per entry of a [`ClusterSet`].
const GROUP: u64 = 512;

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// A set of clusters; memory use grows with the number of clusters in it.
#[derive(Default)]
struct ClusterSet {
    groups: HashMap<u64, [u64; (GROUP / 64) as usize]>,
}

impl ClusterSet {
    /// Add `cluster`; returns whether it is new.
    fn insert(&mut self, cluster: u64) -> bool {
        let words = self.groups.entry(cluster / GROUP).or_default();
        let (word, bit) = ((cluster % GROUP / 64) as usize, 1 << (cluster % 64));
        let new = words[word] & bit == 0;
        words[word] |= bit;
        new
    }
}

/// The offset in an entry of the L1 table or of an L2 table, whose flags must be right.
fn offset_of(entry: u64, table: &str) -> Result<u64> {
    let offset = entry & OFFSET_MASK;
    match entry & !OFFSET_MASK {
        COPIED if offset != 0 => Ok(offset),
        0 if offset == 0 => Ok(0),
        _ => Err(corrupt(format!("an entry of {table} has flags that do not fit"))),
    }
}

struct Walk<'a> {
    storage: &'a dyn Storage,
    header: &'a Qcow2Header,
    /// Length of the file in bytes, and in clusters.
    len: u64,
    clusters: u64,
    used: ClusterSet,
    /// The refcount table; the header's limits bound it.
    refcount_blocks: Vec<u64>,
    /// The most recently read refcount block, and its index.
    cached: Option<(usize, Vec<u8>)>,
}

/// Check all tables of the qcow2 file in `storage`, whose header is `header`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with the first inconsistency found; [`ErrorKind::Io`].
pub(super) fn check(storage: &dyn Storage, header: &Qcow2Header) -> Result<()> {
    let len = storage.len().map_err(|e| Error::io("cannot stat it", e))?;
    let clusters = len.div_ceil(header.cluster_size());
    let mut walk = Walk {
        storage,
        header,
        len,
        clusters,
        used: ClusterSet::default(),
        refcount_blocks: Vec::new(),
        cached: None,
    };
    walk.run()
}

impl Walk<'_> {
    fn cluster_size(&self) -> u64 {
        self.header.cluster_size()
    }

    fn run(&mut self) -> Result<()> {
        let header = self.header;
        let entries_per_l2 = self.cluster_size() / 8;
        self.inside(header.refcount_offset, header.refcount_table_len(), "the refcount table")?;
        let mut at = header.refcount_offset;
        let mut left = header.refcount_table_len() / 8;
        while left > 0 {
            let n = left.min(PIECE / 8);
            self.refcount_blocks.extend(self.table(at, n)?);
            (at, left) = (at + n * 8, left - n);
        }
        self.mark(0, 1, "the header")?;
        self.mark(header.refcount_offset, header.refcount_table_len(), "the refcount table")?;
        for index in 0..self.refcount_blocks.len() {
            let entry = self.refcount_blocks[index];
            let block = entry & OFFSET_MASK;
            if block != entry {
                return Err(corrupt("an entry of the refcount table has unknown flags"));
            }
            if block != 0 {
                self.mark(block, self.cluster_size(), "a refcount block")?;
            }
        }
        let l1_len = u64::from(header.l1_entries) * 8;
        self.mark(header.l1_offset, l1_len, "the L1 table")?;
        self.each(header.l1_offset, u64::from(header.l1_entries), &mut |walk, l1| {
            let l2_offset = offset_of(l1, "the L1 table")?;
            if l2_offset == 0 {
                return Ok(());
            }
            walk.mark(l2_offset, walk.cluster_size(), "an L2 table")?;
            walk.each(l2_offset, entries_per_l2, &mut |walk, entry| {
                if entry & COMPRESSED != 0 {
                    return Err(corrupt("it holds compressed clusters, which are never written"));
                }
                match offset_of(entry & !ZERO, "an L2 table")? {
                    0 => Ok(()),
                    data => walk.mark(data, walk.cluster_size(), "a data cluster"),
                }
            })
        })
    }

    /// Call `visit` with each entry of a table, a big-endian 64-bit number, in order.
    fn each(
        &mut self,
        offset: u64,
        entries: u64,
        visit: &mut dyn FnMut(&mut Self, u64) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < entries {
            let n = (entries - done).min(PIECE / 8);
            for entry in self.table(offset + done * 8, n)? {
                visit(self, entry)?;
            }
            done += n;
        }
        Ok(())
    }

    /// Read `entries` big-endian 64-bit numbers: at most a cluster of them or [`PIECE`] bytes.
    fn table(&self, offset: u64, entries: u64) -> Result<Vec<u64>> {
        self.inside(offset, entries * 8, "a table")?;
        let mut bytes = vec![0; (entries * 8) as usize];
        // A table in the last cluster may extend past the end of the file: the missing bytes are
        // zero.
        let stored = self.len.saturating_sub(offset).min(entries * 8) as usize;
        self.storage
            .read_exact_at(&mut bytes[..stored], offset)
            .map_err(|e| Error::io("cannot read a table", e))?;
        let entry = |b: &[u8]| b.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
        Ok(bytes.chunks_exact(8).map(entry).collect())
    }

    /// Refuse a table that extends past the end of the file. Offsets have 56 bits and lengths are
    /// limited, so the sum cannot overflow.
    fn inside(&self, offset: u64, len: u64, what: &str) -> Result<()> {
        if (offset + len).div_ceil(self.cluster_size()) > self.clusters {
            return Err(corrupt(format!("{what} lies outside the file")));
        }
        Ok(())
    }

    /// Mark `[offset, offset + len)` as used for `what`.
    fn mark(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        let bits = self.header.cluster_bits;
        if offset & (self.cluster_size() - 1) != 0 {
            return Err(corrupt(format!("{what} does not begin at a cluster")));
        }
        self.inside(offset, len, what)?;
        for cluster in offset >> bits..(offset + len).div_ceil(self.cluster_size()) {
            if !self.used.insert(cluster) {
                return Err(corrupt(format!("{what} shares a cluster with something else")));
            }
            match self.refcount(cluster)? {
                0 => return Err(corrupt(format!("{what} is counted as free"))),
                1 => {}
                n => return Err(corrupt(format!("{what} is counted {n} times"))),
            }
        }
        Ok(())
    }

    fn refcount(&mut self, cluster: u64) -> Result<u64> {
        let order = self.header.refcount_order;
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
            // Narrower than a byte: the first entry is in the least significant bits.
            let per_byte = 8 >> order;
            let shift = (within % per_byte) << order;
            u64::from(bytes[within / per_byte] >> shift) & ((1 << (1 << order)) - 1)
        })
    }
}
