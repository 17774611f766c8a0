//! Replaying the journal (jbd2) in memory: finds the filesystem blocks that have a newer version in
//! the log.
//!
//! `ext4-view` has its own replay, but it supports only journals with version 3 checksums, does not
//! wrap around at the end of the circular log, and applies revocations only to their own
//! transaction. With it, old guests would be unreadable and others would be read wrongly. Source:
//! Linux `Documentation/filesystems/ext4/journal.rst` and `fs/jbd2/recovery.c`.

use std::collections::BTreeMap;

use super::crc::crc32c;
use super::superblock::Superblock;
use crate::bytes::ReadAt;
use crate::fs::budget::{Budget, Cost};
use crate::{Error, ErrorKind, Result};

const MAGIC: u32 = 0xc03b_3998;
const REVOKE: u32 = 0x1;
const IS_64BIT: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CSUM_V2: u32 = 0x8;
const CSUM_V3: u32 = 0x10;
/// Maximum blocks of a journal: 4 GiB of 1 KiB blocks; `mke2fs` makes at most 1 GiB.
const MAX_BLOCKS: u32 = 4 << 20;
/// Maximum number of tags, and of revocations, that are kept.
const MAX_RECORDS: usize = 1 << 20;
/// Maximum number of interior nodes in the journal inode's block tree.
const MAX_NODES: usize = 20_000;

/// A block's newer version in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Newer {
    /// Block number in the filesystem where the newer version is stored.
    pub(super) block: u64,
    /// Whether its first four bytes were cleared because they matched the magic of a log block.
    pub(super) escaped: bool,
}

/// Blocks of the filesystem and their newer versions.
pub(super) type Replay = BTreeMap<u64, Newer>;

/// The first four bytes of an escaped block.
pub(super) const ESCAPED: [u8; 4] = MAGIC.to_be_bytes();

/// Reads the log of a filesystem that needs recovery.
///
/// # Errors
/// `Unsupported` for a journal with unknown features, `Corrupt` if the journal's own inode or
/// superblock is damaged, `TooLarge` if it is longer than `budget` allows to read. A damaged or incomplete transaction just ends the log.
pub(super) fn load(reader: &dyn ReadAt, sb: &Superblock, budget: &Budget) -> Result<Replay> {
    let fs = Blocks { reader, size: sb.block_size as usize, count: sb.blocks_count, budget };
    let inode = fs.journal_inode(sb)?;
    let map = fs.block_map(&inode)?;
    let read = |index: u32| {
        let at = map.partition_point(|run| run.0 <= index).checked_sub(1);
        let run = at.map(|i| map[i]).filter(|run| index - run.0 < run.2);
        let (start, block, _) = run.ok_or_else(|| broken("it has a hole"))?;
        let block = block + u64::from(index - start);
        Ok((block, fs.read(block)?))
    };
    Log::open(&read, sb.block_size)?.replay()
}

fn broken(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the journal of the guest's filesystem is broken: {what}"),
    )
}

/// Access to the filesystem's blocks, before any replay.
struct Blocks<'a> {
    reader: &'a dyn ReadAt,
    size: usize,
    count: u64,
    budget: &'a Budget,
}

impl Blocks<'_> {
    fn read(&self, block: u64) -> Result<Vec<u8>> {
        if block == 0 || block >= self.count {
            return Err(broken("it names a block outside of the filesystem"));
        }
        self.budget.charge_for(
            "the filesystem's journal",
            Cost::SearchedBytes,
            self.size as u64,
        )?;
        let mut data = vec![0; self.size];
        self.reader
            .read_at(&mut data, block * self.size as u64)
            .map_err(|e| Error::io("cannot read the guest's journal", e))?;
        Ok(data)
    }

    fn journal_inode(&self, sb: &Superblock) -> Result<Vec<u8>> {
        let number = sb.journal_inode.checked_sub(1).ok_or_else(|| broken("it has no inode"))?;
        let group = u64::from(number / sb.inodes_per_group);
        let at = group * u64::from(sb.descriptor_size);
        let table = self.read(sb.first_data_block + 1 + at / self.size as u64)?;
        let descriptor = table
            .get((at % self.size as u64) as usize..)
            .filter(|d| d.len() >= usize::from(sb.descriptor_size))
            .ok_or_else(|| broken("its group has no descriptor"))?;
        let high = if sb.descriptor_size >= 64 { le32(descriptor, 0x28) } else { 0 };
        let first = u64::from(le32(descriptor, 0x8)) | u64::from(high) << 32;
        let at = u64::from(number % sb.inodes_per_group) * u64::from(sb.inode_size);
        let block = self.read(first.saturating_add(at / self.size as u64))?;
        let at = (at % self.size as u64) as usize;
        Ok(block.get(at..at + 128).ok_or_else(|| broken("its inode is cut off"))?.to_vec())
    }

    /// The inode's blocks as runs of (index in the file, block, length), sorted.
    fn block_map(&self, inode: &[u8]) -> Result<Vec<(u32, u64, u32)>> {
        const EXTENTS: u32 = 0x8_0000;
        let root = &inode[0x28..0x28 + 60];
        let mut runs = Vec::new();
        let mut nodes = 0;
        if le32(inode, 0x20) & EXTENTS != 0 {
            self.extents(root, None, &mut nodes, &mut runs)?;
        } else {
            for i in 0..12 {
                push(&mut runs, le32(root, i * 4), 1 << 30);
            }
            for level in 1..=3 {
                self.indirect(le32(root, (11 + level) * 4), level, &mut nodes, &mut runs)?;
            }
        }
        if runs.windows(2).any(|w| w[0].0.checked_add(w[0].2).is_none_or(|end| end > w[1].0)) {
            return Err(broken("its extents overlap"));
        }
        Ok(runs)
    }

    fn extents(
        &self,
        node: &[u8],
        depth: Option<u16>,
        nodes: &mut usize,
        runs: &mut Vec<(u32, u64, u32)>,
    ) -> Result<()> {
        *nodes += 1;
        let (entries, here) = (usize::from(le16(node, 2)), le16(node, 6));
        let fits = (entries + 1) * 12 <= node.len() && here <= 5;
        if le16(node, 0) != 0xf30a
            || !fits
            || depth.is_some_and(|d| d != here)
            || *nodes > MAX_NODES
        {
            return Err(broken("its extent tree is damaged"));
        }
        for entry in node[12..].chunks_exact(12).take(entries) {
            if here == 0 {
                let start = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
                runs.push((le32(entry, 0), start, u32::from(le16(entry, 4)).min(1 << 15)));
                if runs.len() > MAX_RECORDS {
                    return Err(broken("it has too many extents"));
                }
            } else {
                let child = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                self.extents(&self.read(child)?, Some(here - 1), nodes, runs)?;
            }
        }
        Ok(())
    }

    fn indirect(
        &self,
        block: u32,
        level: usize,
        nodes: &mut usize,
        runs: &mut Vec<(u32, u64, u32)>,
    ) -> Result<()> {
        if block == 0 {
            return Ok(());
        }
        *nodes += 1;
        if *nodes > MAX_NODES {
            return Err(broken("it has too many blocks"));
        }
        let data = self.read(u64::from(block))?;
        for at in (0..self.size).step_by(4) {
            match level {
                1 => push(runs, le32(&data, at), MAX_BLOCKS),
                _ => self.indirect(le32(&data, at), level - 1, nodes, runs)?,
            }
        }
        Ok(())
    }
}

/// Appends a block to a file without holes, which a journal is.
fn push(runs: &mut Vec<(u32, u64, u32)>, block: u32, max: u32) {
    let block = u64::from(block);
    let index = runs.last().map_or(0, |run| run.0 + run.2);
    if block == 0 || index >= max {
        return;
    }
    match runs.last_mut() {
        Some(run) if run.1 + u64::from(run.2) == block => run.2 += 1,
        _ => runs.push((index, block, 1)),
    }
}

/// Returns a log block by its index in the journal: its location in the filesystem and its bytes.
type ReadLog<'a> = dyn Fn(u32) -> Result<(u64, Vec<u8>)> + 'a;

struct Log<'a> {
    read: &'a ReadLog<'a>,
    features: u32,
    /// Seed of the log's checksums.
    seed: u32,
    /// The circular log is `first..end`.
    first: u32,
    end: u32,
    start: u32,
    sequence: u32,
}

/// A tag of a descriptor block: a block that the transaction has a new version of.
struct Tag {
    block: u64,
    escaped: bool,
    checksum: u32,
}

impl<'a> Log<'a> {
    fn open(read: &'a ReadLog<'a>, block_size: u32) -> Result<Self> {
        let (_, raw) = read(0)?;
        let v2 = match (be32(&raw, 0), be32(&raw, 4)) {
            (MAGIC, 3) => false,
            (MAGIC, 4) => true,
            _ => return Err(broken("it has no superblock")),
        };
        let features = if v2 { be32(&raw, 0x28) } else { 0 };
        let unknown = features & !(REVOKE | IS_64BIT | ASYNC_COMMIT | CSUM_V2 | CSUM_V3);
        if unknown != 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the guest was not shut down, and the journal of its filesystem has features \
                     ({unknown:#x}) that are not known; let the guest or e2fsck replay it"
                ),
            ));
        }
        let (first, end) = (be32(&raw, 0x14), be32(&raw, 0x10));
        let start = be32(&raw, 0x1c);
        let sane = be32(&raw, 0xc) == block_size && first > 0 && first < end && end <= MAX_BLOCKS;
        if !sane || start != 0 && !(first..end).contains(&start) {
            return Err(broken("its superblock makes no sense"));
        }
        let (seed, sequence) = (crc32c(!0, &raw[0x30..0x40]), be32(&raw, 0x18));
        Ok(Self { read, features, seed, first, end, start, sequence })
    }

    fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    fn next(&self, index: u32) -> u32 {
        if index + 1 >= self.end { self.first } else { index + 1 }
    }

    fn replay(&self) -> Result<Replay> {
        let mut replay = Replay::new();
        if self.start == 0 {
            return Ok(replay);
        }
        // All blocks in log order, with the number of their transaction, counted from 0.
        let mut blocks: Vec<(u64, Newer, u32)> = Vec::new();
        let mut revoked: BTreeMap<u64, u32> = BTreeMap::new();
        let (mut kept, mut revocations) = (0, Vec::new());
        let (mut at, mut transaction, mut left) = (self.start, 0u32, self.end - self.first);
        while left > 0 {
            let (_, data) = (self.read)(at)?;
            let sequence = self.sequence.wrapping_add(transaction);
            if be32(&data, 0) != MAGIC || be32(&data, 8) != sequence {
                break;
            }
            (at, left) = (self.next(at), left - 1);
            match be32(&data, 4) {
                1 => {
                    if !self.tail_matches(&data) {
                        break;
                    }
                    for tag in self.tags(&data) {
                        if left == 0 {
                            break;
                        }
                        let (block, copy) = (self.read)(at)?;
                        (at, left) = (self.next(at), left - 1);
                        if !self.tag_matches(&tag, &copy, sequence) {
                            left = 0;
                            break;
                        }
                        blocks.push((
                            tag.block,
                            Newer { block, escaped: tag.escaped },
                            transaction,
                        ));
                    }
                }
                2 => {
                    if !self.commit_matches(&data) {
                        break;
                    }
                    kept = blocks.len();
                    for block in revocations.drain(..) {
                        revoked.insert(block, transaction);
                    }
                    transaction += 1;
                }
                5 => {
                    if !self.tail_matches(&data) {
                        break;
                    }
                    let size = if self.has(IS_64BIT) { 8 } else { 4 };
                    let used = (be32(&data, 12) as usize).clamp(16, data.len());
                    revocations.extend(data[16..used].chunks_exact(size).map(|r| match size {
                        8 => u64::from(be32(r, 0)) << 32 | u64::from(be32(r, 4)),
                        _ => u64::from(be32(r, 0)),
                    }));
                }
                _ => break,
            }
            if blocks.len() > MAX_RECORDS || revocations.len() + revoked.len() > MAX_RECORDS {
                return Err(broken("it has too many records"));
            }
        }
        for (block, newer, transaction) in blocks.into_iter().take(kept) {
            // A revocation covers its own transaction and all earlier ones.
            if revoked.get(&block).is_none_or(|last| transaction > *last) {
                replay.insert(block, newer);
            }
        }
        Ok(replay)
    }

    fn tags(&self, data: &[u8]) -> Vec<Tag> {
        const ESCAPE: u32 = 1;
        const SAME_UUID: u32 = 2;
        const LAST: u32 = 8;
        let v3 = self.has(CSUM_V3);
        let size = match (v3, self.has(IS_64BIT)) {
            (true, _) => 16,
            (false, true) => 12 + if self.has(CSUM_V2) { 2 } else { 0 },
            (false, false) => 8 + if self.has(CSUM_V2) { 2 } else { 0 },
        };
        let end = data.len() - if self.has(CSUM_V2 | CSUM_V3) { 4 } else { 0 };
        let mut tags = Vec::new();
        let mut at = 12;
        while at + size <= end {
            let tag = &data[at..at + size];
            let flags = if v3 { be32(tag, 4) } else { be32(tag, 4) & 0xffff };
            let high = if self.has(IS_64BIT) { be32(tag, 8) } else { 0 };
            tags.push(Tag {
                block: u64::from(be32(tag, 0)) | u64::from(high) << 32,
                escaped: flags & ESCAPE != 0,
                checksum: if v3 { be32(tag, 12) } else { be32(tag, 4) >> 16 },
            });
            at += size + if flags & SAME_UUID == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        tags
    }

    /// The checksum at the end of descriptor and revocation blocks.
    fn tail_matches(&self, data: &[u8]) -> bool {
        let at = data.len() - 4;
        !self.has(CSUM_V2 | CSUM_V3) || self.sum_with_hole(data, at) == be32(data, at)
    }

    fn commit_matches(&self, data: &[u8]) -> bool {
        !self.has(CSUM_V2 | CSUM_V3) || self.sum_with_hole(data, 0x10) == be32(data, 0x10)
    }

    fn sum_with_hole(&self, data: &[u8], at: usize) -> u32 {
        let sum = crc32c(crc32c(self.seed, &data[..at]), &[0; 4]);
        crc32c(sum, &data[at + 4..])
    }

    fn tag_matches(&self, tag: &Tag, copy: &[u8], sequence: u32) -> bool {
        if !self.has(CSUM_V2 | CSUM_V3) {
            return true;
        }
        let sum = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), copy);
        tag.checksum == if self.has(CSUM_V3) { sum } else { sum & 0xffff }
    }
}

fn be32(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn le32(data: &[u8], at: usize) -> u32 {
    be32(data, at).swap_bytes()
}

fn le16(data: &[u8], at: usize) -> u16 {
    data.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1024;

    fn block(fields: &[(usize, u32)]) -> Vec<u8> {
        let mut data = vec![0; SIZE];
        for (at, value) in fields {
            data[*at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        data
    }

    fn head(kind: u32, sequence: u32, rest: &[(usize, u32)]) -> Vec<u8> {
        block(&[&[(0, MAGIC), (4, kind), (8, sequence)], rest].concat())
    }

    /// A journal of 12 blocks whose log starts at `start` with transaction 7.
    fn run(start: u32, log: Vec<Vec<u8>>) -> Vec<(u64, u64, bool)> {
        let mut blocks = vec![block(&[]); 12];
        blocks[0] = head(
            4,
            0,
            &[(0xc, SIZE as u32), (0x10, 12), (0x14, 1), (0x18, 7), (0x1c, start), (0x28, REVOKE)],
        );
        for (i, data) in log.into_iter().enumerate() {
            blocks[(start as usize - 1 + i) % 11 + 1] = data;
        }
        let read = |index: u32| Ok((100 + u64::from(index), blocks[index as usize].clone()));
        let replay = Log::open(&read, SIZE as u32).unwrap().replay().unwrap();
        replay.into_iter().map(|(b, n)| (b, n.block, n.escaped)).collect()
    }

    /// One transaction: a descriptor for the blocks, their copies, a commit.
    fn transaction(sequence: u32, tags: &[u32]) -> Vec<Vec<u8>> {
        let mut fields = Vec::new();
        for (i, tag) in tags.iter().enumerate() {
            let last = if i + 1 == tags.len() { 8 } else { 0 };
            fields.extend([(12 + i * 8, *tag), (16 + i * 8, 2 | last)]);
        }
        let mut log = vec![head(1, sequence, &fields)];
        log.extend(tags.iter().map(|_| block(&[])));
        log.push(head(2, sequence, &[]));
        log
    }

    #[test]
    fn transactions() {
        let revoke = |seq, blocks: &[u32]| {
            let mut f = vec![(12, 16 + 4 * blocks.len() as u32)];
            f.extend(blocks.iter().enumerate().map(|(i, b)| (16 + i * 4, *b)));
            vec![head(5, seq, &f)]
        };
        let t = transaction;
        let commit = |seq| vec![head(2, seq, &[])];
        assert_eq!(run(1, vec![]), []);
        assert_eq!(run(1, t(7, &[50, 51])), [(50, 102, false), (51, 103, false)]);
        assert_eq!(run(1, t(8, &[50])), []);
        // Not committed.
        assert_eq!(run(1, t(7, &[50])[..2].to_vec()), []);
        // The later one wins, also across the end of the log.
        assert_eq!(run(1, [t(7, &[50]), t(8, &[50])].concat()), [(50, 105, false)]);
        assert_eq!(
            run(10, [t(7, &[50]), t(8, &[51])].concat()),
            [(50, 111, false), (51, 103, false)]
        );
        // A revocation covers earlier transactions but no later ones.
        let log = [t(7, &[50, 51]), revoke(8, &[50]), commit(8)].concat();
        assert_eq!(run(1, log), [(51, 103, false)]);
        let log = [t(7, &[50]), revoke(8, &[50]), commit(8), t(9, &[50])].concat();
        assert_eq!(run(1, log), [(50, 107, false)]);
        // An uncommitted revocation covers nothing.
        let log = [t(7, &[50]), revoke(8, &[50])].concat();
        assert_eq!(run(1, log), [(50, 102, false)]);
        // An escaped block, after a tag with a UUID.
        let log = vec![
            head(1, 7, &[(12, 60), (16, 0), (36, 61), (40, 2 | 8 | 1)]),
            block(&[]),
            block(&[]),
            head(2, 7, &[]),
        ];
        assert_eq!(run(3, log), [(60, 104, false), (61, 105, true)]);
        // Reading stops even if the log never ends.
        let all: Vec<_> = (0..11).map(|_| head(5, 7, &[(12, u32::MAX)])).collect();
        assert_eq!(run(1, all), []);
    }
}
