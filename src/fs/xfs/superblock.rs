//! The XFS superblock fields with the size of the filesystem and the location of its log.
//!
//! Source: *XFS Algorithms & Data Structures*, 3rd edition, section "Superblocks". All fields are
//! big-endian.

use crate::bytes::ReadAt;
use crate::{Error, ErrorKind, Result};
use std::ops::Range;

/// Number of bytes that are inspected.
const LEN: usize = 128;

pub(super) struct Superblock {
    /// The filesystem's UUID.
    pub(super) uuid: [u8; 16],
    /// Volume label up to its first NUL.
    pub(super) label: String,
    /// The byte range of the internal log; empty if there is none.
    pub(super) log: Range<u64>,
}

impl Superblock {
    /// Reads and checks the superblock of the filesystem at byte 0 of `reader`.
    ///
    /// # Errors
    /// `Corrupt` for a bad magic, an absurd geometry or a filesystem longer than the image; `Io`
    /// from the reader.
    pub(super) fn read(reader: &dyn ReadAt) -> Result<Self> {
        let size = reader.len();
        if size < 512 {
            return Err(corrupt("the image is too small to hold an XFS filesystem"));
        }
        let mut raw = [0; LEN];
        reader
            .read_at(&mut raw, 0)
            .map_err(|e| Error::io("cannot read the filesystem's superblock", e))?;
        Self::parse(&raw, size)
    }

    fn parse(raw: &[u8; LEN], image_size: u64) -> Result<Self> {
        let u32_at =
            |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        if &raw[..4] != b"XFSB" {
            return Err(corrupt("the image holds no XFS filesystem"));
        }
        let impossible = || corrupt("the filesystem's superblock has an impossible geometry");
        let block_size = u64::from(u32_at(4));
        let blocks = u64_at(8);
        if !(512..=65536).contains(&block_size) || !block_size.is_power_of_two() {
            return Err(impossible());
        }
        if blocks.checked_mul(block_size).is_none_or(|bytes| bytes > image_size) {
            return Err(corrupt(&format!(
                "the filesystem has {blocks} blocks of {block_size} bytes, but the image only \
                 {image_size} bytes: it is cut short or damaged"
            )));
        }
        // A block number consists of the allocation group number, shifted left, and the block
        // number within the group.
        let (log_start, group_blocks, shift) = (u64_at(48), u64::from(u32_at(84)), raw[124]);
        if shift > 31 {
            return Err(impossible());
        }
        let start = (log_start >> shift)
            .checked_mul(group_blocks)
            .and_then(|first| first.checked_add(log_start & ((1 << shift) - 1)))
            .filter(|start| *start <= blocks)
            .ok_or_else(impossible)?;
        let end = start.saturating_add(u64::from(u32_at(96))).min(blocks);
        let log = if log_start == 0 { 0..0 } else { start * block_size..end * block_size };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[32..48]);
        let label = &raw[108..120];
        let end = label.iter().position(|b| *b == 0).unwrap_or(label.len());
        let label = String::from_utf8_lossy(&label[..end]).into_owned();
        Ok(Self { uuid, label, log })
    }
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As created by `mkfs.xfs -d size=300m`: four groups of 19200 blocks, the log in the third.
    fn sample() -> [u8; LEN] {
        let mut raw = [0; LEN];
        raw[..4].copy_from_slice(b"XFSB");
        raw[4..8].copy_from_slice(&4096u32.to_be_bytes());
        raw[8..16].copy_from_slice(&76800u64.to_be_bytes());
        raw[48..56].copy_from_slice(&(2u64 << 15 | 6).to_be_bytes());
        raw[84..88].copy_from_slice(&19200u32.to_be_bytes());
        raw[96..100].copy_from_slice(&16384u32.to_be_bytes());
        raw[108..112].copy_from_slice(b"root");
        raw[124] = 15;
        raw
    }

    #[test]
    fn where_the_log_lies() {
        let sb = Superblock::parse(&sample(), 300 << 20).unwrap();
        assert_eq!(sb.log, (2 * 19200 + 6) * 4096..(2 * 19200 + 6 + 16384) * 4096);
        assert_eq!(sb.label, "root");
    }

    #[test]
    fn absurd_numbers_are_refused() {
        assert!(Superblock::parse(&sample(), (300 << 20) - 1).is_err(), "cut short");
        for (at, value) in [(0, 0), (4, 1), (8, 255), (49, 255), (124, 32)] {
            let mut raw = sample();
            raw[at] = value;
            let e = Superblock::parse(&raw, 300 << 20).map(|_| ()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{at}");
        }
    }
}
