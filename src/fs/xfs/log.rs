//! Whether the log of an XFS filesystem contains changes to replay.
//!
//! Every 512-byte block of the log contains the number of the cycle in which it was written. The
//! head is where that number decreases. If the filesystem was unmounted, the record before the head
//! is a single unmount operation. Source: Linux `fs/xfs/xfs_log_recover.c` (`xlog_find_head`,
//! `xlog_check_unmount_rec`), `fs/xfs/libxfs/xfs_log_format.h`.

use super::superblock::Superblock;
use crate::bytes::ReadAt;

const BLOCK: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// Blocks of the longest record: 256 KiB, and a header for each 32 KiB.
const LONGEST: u64 = 512 + 8;
/// The flag of an unmount operation (`XLOG_UNMOUNT_TRANS`).
const UNMOUNT: u8 = 0x20;

/// Whether Linux would replay the log of the filesystem in `reader`; `None` if it has no internal
/// log, or one that cannot be parsed.
pub fn log_is_dirty(reader: &dyn ReadAt) -> Option<bool> {
    let Superblock { log, .. } = Superblock::read(reader).ok()?;
    let blocks = (log.end - log.start) / BLOCK;
    if blocks < 2 {
        return None;
    }
    let log = Log { reader, start: log.start, blocks };
    let head = match log.head()? {
        // The log was never written to.
        None => return Some(false),
        Some(head) => head,
    };
    let (at, header, body) = log.last_record(head)?;
    let len = u64::from(u32_at(&header, 12)).div_ceil(BLOCK);
    let is_unmount = u32_at(&header, 40) == 1 && body[9] & UNMOUNT != 0;
    let end = at + header_blocks(&header) + len;
    Some(!(is_unmount && end % blocks == head % blocks))
}

struct Log<'a> {
    reader: &'a dyn ReadAt,
    /// In bytes.
    start: u64,
    /// Its length in blocks.
    blocks: u64,
}

impl Log<'_> {
    fn block(&self, number: u64) -> Option<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.reader.read_at(&mut block, self.start + number * BLOCK).ok()?;
        Some(block)
    }

    fn cycle(&self, number: u64) -> Option<u32> {
        let block = self.block(number)?;
        Some(u32_at(&block, if u32_at(&block, 0) == MAGIC { 4 } else { 0 }))
    }

    /// The block after the last one written; `Some(None)` if there is none.
    fn head(&self) -> Option<Option<u64>> {
        let (first, last) = (self.cycle(0)?, self.cycle(self.blocks - 1)?);
        if first == 0 {
            return Some(None);
        }
        if first == last {
            return Some(Some(self.blocks));
        }
        // Blocks before the head have the same cycle as the first block.
        let (mut before, mut after) = (0, self.blocks - 1);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            match self.cycle(middle)? == first {
                true => before = middle,
                false => after = middle,
            }
        }
        Some(Some(after))
    }

    /// The last record that starts before `head`: its block, its header, and the first block after
    /// the header.
    fn last_record(&self, head: u64) -> Option<(u64, [u8; 512], [u8; 512])> {
        for back in 1..=LONGEST.min(self.blocks) {
            let at = (head + self.blocks - back) % self.blocks;
            let header = self.block(at)?;
            if u32_at(&header, 0) == MAGIC {
                let body = self.block((at + header_blocks(&header)) % self.blocks)?;
                return Some((at, header, body));
            }
        }
        None
    }
}

/// Number of header blocks of a record: in log version 2, one for each 32 KiB of its maximum size.
fn header_blocks(header: &[u8; 512]) -> u64 {
    let (version, size) = (u32_at(header, 8), u64::from(u32_at(header, 320)));
    if version & 2 != 0 { size.div_ceil(32 << 10).clamp(1, 8) } else { 1 }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}
