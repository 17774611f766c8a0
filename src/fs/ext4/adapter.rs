//! The bytes of a filesystem after recovery, as `ext4-view` and the reader of our own see them.

use super::journal::{ESCAPED, Replay};
use super::superblock;
use crate::bytes::ReadAt;
use ext4_view::Ext4Read;

/// Gives `ext4-view` the bytes of the image.
pub(super) struct Adapter {
    pub(super) reader: Box<dyn ReadAt>,
    /// Blocks that the journal has newer versions of.
    pub(super) replay: Replay,
    pub(super) needs_recovery: bool,
    pub(super) block_size: usize,
    pub(super) blocks_count: u64,
    /// Read-ahead for the block group descriptors, which the crate reads one by one.
    pub(super) window: Vec<u8>,
    pub(super) window_start: u64,
}

const WINDOW: u64 = 64 << 10;

impl Adapter {
    /// Reads bytes of the filesystem as they are after recovery.
    pub(super) fn fill(&self, start: u64, dst: &mut [u8]) -> std::io::Result<()> {
        self.reader.read_at(dst, start)?;
        let size = self.block_size as u64;
        let end = start.saturating_add(dst.len() as u64);
        for (block, newer) in self.replay.range(start / size..end.div_ceil(size)) {
            let mut data = vec![0; self.block_size];
            self.reader.read_at(&mut data, newer.block * size)?;
            if newer.escaped {
                data[..4].copy_from_slice(&ESCAPED);
            }
            overlay(start, dst, block * size, &data);
        }
        let sb = superblock::OFFSET;
        if self.needs_recovery && start <= sb && end >= sb + superblock::LEN as u64 {
            // In range: compared above.
            let at = (sb - start) as usize;
            superblock::mark_recovered(&mut dst[at..at + superblock::LEN]);
        }
        Ok(())
    }

    fn read_small(&mut self, start: u64, dst: &mut [u8]) -> std::io::Result<()> {
        let end = start.saturating_add(dst.len() as u64);
        if start < self.window_start || end > self.window_start + self.window.len() as u64 {
            let len = WINDOW.min(self.reader.len().saturating_sub(start)) as usize;
            if len < dst.len() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let mut window = vec![0; len];
            self.fill(start, &mut window)?;
            (self.window, self.window_start) = (window, start);
        }
        // In range: the window now holds `start..end`.
        let at = (start - self.window_start) as usize;
        dst.copy_from_slice(&self.window[at..at + dst.len()]);
        Ok(())
    }

    /// Whether a block is an extent tree node with two or more levels of nodes below it.
    ///
    /// An honest file with such a node has millions of extents; it is not a kernel, config or
    /// directory. In a hostile image, nodes that share children make a walk of 340^5 steps. The
    /// check is strict enough (90 bits of a block must match) not to hit file data.
    pub(super) fn is_deep_extent_node(&self, block: &[u8]) -> bool {
        let u16_at = |at| u16::from_le_bytes([block[at], block[at + 1]]);
        let u32_at = |at| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let (magic, entries, max, depth) = (u16_at(0), u16_at(2), u16_at(4), u16_at(6));
        magic == 0xf30a
            && (2..=5).contains(&depth)
            && entries <= max
            && (usize::from(max) + 1) * 12 <= block.len()
            && u64::from(u32_at(16)) | u64::from(u16_at(20)) << 32 < self.blocks_count
    }
}

impl Ext4Read for Adapter {
    fn read(
        &mut self,
        start: u64,
        dst: &mut [u8],
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if dst.len() < self.block_size {
            self.read_small(start, dst)?;
            return Ok(());
        }
        self.fill(start, dst)?;
        for block in dst.chunks_mut(self.block_size) {
            if block.len() == self.block_size && self.is_deep_extent_node(block) {
                block[0] = 0;
            }
        }
        Ok(())
    }
}

/// Copies the part of `data` (at `data_start`) that overlaps `dst` (at `start`) into `dst`.
fn overlay(start: u64, dst: &mut [u8], data_start: u64, data: &[u8]) {
    let from = start.max(data_start);
    let to = (start + dst.len() as u64).min(data_start + data.len() as u64);
    if from < to {
        // Both ranges hold `from..to`, so the differences are within their lengths.
        let (d, s, n) = (from - start, from - data_start, (to - from) as usize);
        dst[d as usize..d as usize + n].copy_from_slice(&data[s as usize..s as usize + n]);
    }
}
