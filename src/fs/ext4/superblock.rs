//! The ext2/3/4 superblock fields that bound what can be done with the rest.
//!
//! Source: Linux `Documentation/filesystems/ext4/super.rst`.

use super::crc::crc32c;
use crate::bytes::ReadAt;
use crate::{Error, ErrorKind, Result};

/// Where the superblock starts, in bytes.
pub(super) const OFFSET: u64 = 1024;
/// Its length in bytes.
pub(super) const LEN: usize = 1024;

/// A superblock whose geometry is plausible.
pub(super) struct Superblock {
    /// Bytes per block: 1024 to 65536.
    pub(super) block_size: u32,
    /// Blocks in the filesystem.
    pub(super) blocks_count: u64,
    /// The filesystem's UUID.
    pub(super) uuid: [u8; 16],
    /// Volume label up to its first NUL.
    pub(super) label: String,
    /// Whether the journal must be replayed.
    pub(super) needs_recovery: bool,
    /// Number of the journal's inode, 0 if there is none.
    pub(super) journal_inode: u32,
    /// First block of the first group.
    pub(super) first_data_block: u64,
    /// Inodes per group, never 0.
    pub(super) inodes_per_group: u32,
    /// Bytes per inode.
    pub(super) inode_size: u16,
    /// Bytes per block group descriptor.
    pub(super) descriptor_size: u16,
}

/// Clears the flag that the journal must be replayed, as a mount does after replaying it. `raw` is
/// the superblock's 1024 bytes.
pub(super) fn mark_recovered(raw: &mut [u8]) {
    raw[0x60] &= !0x4;
    if raw[0x65] & 0x4 != 0 {
        // Metadata checksums.
        let sum = crc32c(!0, &raw[..0x3fc]);
        raw[0x3fc..0x400].copy_from_slice(&sum.to_le_bytes());
    }
}

impl Superblock {
    /// Reads and checks the superblock of the filesystem at byte 0 of `reader`.
    ///
    /// # Errors
    /// `Corrupt` for a bad magic or an absurd geometry, `Io` from the reader.
    pub(super) fn read(reader: &dyn ReadAt) -> Result<Self> {
        let mut raw = [0u8; LEN];
        if reader.len() < OFFSET + LEN as u64 {
            return Err(corrupt("the image is too small to hold an ext2/3/4 filesystem"));
        }
        reader
            .read_at(&mut raw, OFFSET)
            .map_err(|e| Error::io("cannot read the filesystem's superblock", e))?;
        Self::parse(&raw, reader.len())
    }

    /// Checks the bytes of a superblock against an image of `image_size` bytes.
    ///
    /// # Errors
    /// `Corrupt` as [`read`](Self::read).
    pub(super) fn parse(raw: &[u8; LEN], image_size: u64) -> Result<Self> {
        let u32_at =
            |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        if raw[0x38..0x3a] != [0x53, 0xef] {
            return Err(corrupt("the image holds no ext2/3/4 filesystem"));
        }
        let is_64bit = u32_at(0x60) & 0x80 != 0;
        let log = u32_at(0x18);
        if log > 6 {
            return Err(corrupt("the filesystem's superblock has an impossible block size"));
        }
        let block_size = 1024u32 << log;
        // Without the feature the field is unused; ext4-view reads it all the same.
        let high = u32_at(0x150);
        if high != 0 && !is_64bit {
            return Err(corrupt("the filesystem's superblock has an impossible number of blocks"));
        }
        let blocks_count = u64::from(u32_at(0x04)) | u64::from(high) << 32;
        let size = blocks_count.checked_mul(u64::from(block_size)).filter(|s| *s <= image_size);
        if size.is_none() {
            return Err(corrupt(&format!(
                "the filesystem has {blocks_count} blocks of {block_size} bytes, but the image only \
                 {image_size} bytes: it is cut short or damaged"
            )));
        }
        // Each group costs memory when the filesystem is opened. A group has at most as many blocks
        // as its bitmap block has bits; much smaller groups exist only in tests.
        let per_group = u64::from(u32_at(0x20));
        let usual = blocks_count / (u64::from(block_size) * 8) + 1;
        if per_group == 0 || blocks_count.div_ceil(per_group) > 4 * usual + 4096 {
            return Err(corrupt("the filesystem's superblock has an impossible group size"));
        }
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let descriptor_size = if is_64bit { u16_at(0xfe) } else { 32 };
        let inode_size = if u32_at(0x4c) == 0 { 128 } else { u16_at(0x58) };
        let inodes_per_group = u32_at(0x28);
        if inodes_per_group == 0
            || !(32..=block_size).contains(&u32::from(descriptor_size))
            || !(128..=block_size).contains(&u32::from(inode_size))
        {
            return Err(corrupt("the filesystem's superblock has impossible inodes or groups"));
        }
        let has_journal = u32_at(0x5c) & 0x4 != 0;
        let label = &raw[0x78..0x88];
        let end = label.iter().position(|b| *b == 0).unwrap_or(label.len());
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[0x68..0x78]);
        Ok(Self {
            block_size,
            blocks_count,
            uuid,
            label: String::from_utf8_lossy(&label[..end]).into_owned(),
            needs_recovery: has_journal && u32_at(0x60) & 0x4 != 0,
            journal_inode: u32_at(0xe0),
            first_data_block: u64::from(u32_at(0x14)),
            inodes_per_group,
            inode_size,
            descriptor_size,
        })
    }
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(fields: &[(usize, u32)]) -> [u8; LEN] {
        let mut raw = [0; LEN];
        raw[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        for (at, value) in [(0x04, 1000), (0x18, 2), (0x20, 32768), (0x28, 8)].iter().chain(fields)
        {
            raw[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
        }
        raw
    }

    #[test]
    fn absurd_geometry_is_refused() {
        let size = 1000 * 4096;
        assert!(Superblock::parse(&raw(&[]), size).is_ok());
        for (case, fields, size) in [
            ("shorter image", &[][..], size - 1),
            ("block size", &[(0x18, 7)][..], size),
            ("no group size", &[(0x20, 0)][..], size),
            ("as many groups as blocks", &[(0x04, 1 << 30), (0x20, 1)][..], 1 << 60),
            ("no inodes", &[(0x28, 0)][..], size),
            ("inode size", &[(0x4c, 1), (0x58, 127)][..], size),
            ("64-bit count", &[(0x60, 0x80), (0x150, u32::MAX)][..], size),
            ("64-bit count without the feature", &[(0x150, 45)][..], size),
        ] {
            let e = Superblock::parse(&raw(fields), size).err().map(|e| e.kind());
            assert_eq!(e, Some(ErrorKind::Corrupt), "{case}");
        }
    }
}
