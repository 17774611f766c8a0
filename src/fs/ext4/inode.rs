//! The few fields of an inode that an in-place edit changes.
//!
//! Source: Linux `Documentation/filesystems/ext4/inodes.rst`; `ext4_inode_csum` in
//! `fs/ext4/inode.c`.

use super::crc::crc32c;
use super::superblock;

/// The superblock fields that inodes depend on.
#[derive(Clone, Copy, Debug)]
pub struct InodeFormat {
    /// Bytes per block.
    pub block_size: u64,
    /// Bytes per inode on disk.
    pub inode_size: usize,
    /// Seed of every checksum, if inodes have checksums.
    seed: Option<u32>,
    /// Whether the checksum seed is the filesystem's UUID; the UUID cannot then be changed alone.
    pub seed_is_uuid: bool,
    /// When the filesystem was last written to, in seconds of Unix time.
    pub written: u64,
    /// Whether a journal must be replayed first.
    pub needs_recovery: bool,
}

impl InodeFormat {
    /// Parses the 1024 bytes of the superblock; `None` if its numbers are impossible.
    pub fn parse(raw: &[u8; superblock::LEN]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| raw[at + i]));
        let log = u32_at(0x18);
        let is_ext = raw[0x38..0x3a] == [0x53, 0xef];
        // Revision 0 has inodes of 128 bytes and does not record the size.
        let inode_size = match u32_at(0x4c) {
            0 => 128,
            _ => usize::from(u16::from_le_bytes([raw[0x58], raw[0x59]])),
        };
        let block_size = 1024 << log.min(7);
        if !is_ext || log > 6 || !(128..=block_size as usize).contains(&inode_size) {
            return None;
        }
        let (incompat, ro_compat) = (u32_at(0x60), u32_at(0x64));
        let seed = match (ro_compat & 0x400 != 0, incompat & 0x2000 != 0) {
            (false, _) => None,
            (true, true) => Some(u32_at(0x270)),
            (true, false) => Some(crc32c(!0, &raw[0x68..0x78])),
        };
        Some(Self {
            block_size,
            inode_size,
            seed,
            seed_is_uuid: ro_compat & 0x400 != 0 && incompat & 0x2000 == 0,
            written: u64::from(u32_at(0x30)),
            needs_recovery: incompat & 0x4 != 0,
        })
    }

    /// Length in bytes that the inode claims for its file.
    pub fn len(&self, raw: &[u8]) -> u64 {
        let u32_at = |at: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|i| raw[at + i])));
        u32_at(0x4) | u32_at(0x6c) << 32
    }

    /// Whether this is a regular file whose bytes are stored unmodified in blocks: not inside the
    /// inode, not encrypted, not sealed by fs-verity.
    pub fn is_plain_file(&self, raw: &[u8]) -> bool {
        const ENCRYPT: u32 = 0x800;
        const VERITY: u32 = 0x10_0000;
        const INLINE_DATA: u32 = 0x1000_0000;
        let flags = u32::from_le_bytes([0, 1, 2, 3].map(|i| raw[0x20 + i]));
        raw[1] & 0xf0 == 0x80 && flags & (ENCRYPT | VERITY | INLINE_DATA) == 0
    }

    /// Sets the length of inode `number` and updates its checksum. `raw` is the complete inode.
    pub fn set_len(&self, raw: &mut [u8], number: u32, len: u64) {
        let bytes = len.to_le_bytes();
        raw[0x4..0x8].copy_from_slice(&bytes[..4]);
        raw[0x6c..0x70].copy_from_slice(&bytes[4..]);
        let Some(seed) = self.seed else { return };
        let has_high = raw.len() > 0x82 + 2 && u16::from_le_bytes([raw[0x80], raw[0x81]]) >= 4;
        raw[0x7c..0x7e].fill(0);
        if has_high {
            raw[0x82..0x84].fill(0);
        }
        let sum = crc32c(seed, &number.to_le_bytes());
        let sum = crc32c(sum, &raw[0x64..0x68]);
        let sum = crc32c(sum, raw).to_le_bytes();
        raw[0x7c..0x7e].copy_from_slice(&sum[..2]);
        if has_high {
            raw[0x82..0x84].copy_from_slice(&sum[2..]);
        }
    }
}
