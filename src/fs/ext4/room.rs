//! Free space in a filesystem.
//!
//! Source: Linux `Documentation/filesystems/ext4/super.rst`.

use super::superblock::LEN;

/// Free space according to the superblock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// Bytes per block.
    pub block_size: u64,
    /// Bytes in free blocks, including those reserved for root.
    pub free_bytes: u64,
    /// Number of free inodes.
    pub free_inodes: u32,
}

impl Room {
    /// Parses the 1024 bytes of the superblock. `None` if they are not a superblock, or if the
    /// filesystem was in use: then only the counters of its groups are up to date.
    pub fn parse(raw: &[u8; LEN]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| raw[at + i]));
        let (log, incompat) = (u32_at(0x18), u32_at(0x60));
        if raw[0x38..0x3a] != [0x53, 0xef] || log > 6 || incompat & 0x4 != 0 {
            return None;
        }
        let high = if incompat & 0x80 != 0 { u32_at(0x158) } else { 0 };
        let block_size = 1024 << log;
        let blocks = u64::from(u32_at(0xc)) | u64::from(high) << 32;
        let free_bytes = blocks.saturating_mul(block_size);
        Some(Self { block_size, free_bytes, free_inodes: u32_at(0x10) })
    }
}

/// Whether the superblock, `raw`, says that small files may be stored in their inodes (`inline_data`).
pub fn may_have_inline_files(raw: &[u8; LEN]) -> bool {
    raw[0x61] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let mut raw = [0; LEN];
        assert_eq!(Room::parse(&raw), None);
        raw[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        raw[0xc] = 3;
        raw[0x10] = 7;
        raw[0x18] = 2;
        raw[0x158] = 1;
        let room = Room { block_size: 4096, free_bytes: 3 * 4096, free_inodes: 7 };
        assert_eq!(Room::parse(&raw), Some(room));
        raw[0x60] = 0x80;
        assert_eq!(Room::parse(&raw).map(|r| r.free_bytes), Some(((1 << 32) + 3) * 4096));
        raw[0x60] = 0x4;
        assert_eq!(Room::parse(&raw), None);
        assert!(!may_have_inline_files(&raw));
        // EXT4_FEATURE_INCOMPAT_INLINE_DATA is 0x8000.
        raw[0x61] = 0x80;
        assert!(may_have_inline_files(&raw));
    }
}
