//! Size of a filesystem and its used space, from its superblock.
//!
//! Sources: Linux `Documentation/filesystems/ext4/super.rst`; "XFS Algorithms & Data Structures",
//! "Superblocks"; `fs/btrfs/accessors.h`, `struct btrfs_super_block`.

use serde::Serialize;

/// Size of a filesystem in bytes. After a crash `used` may be slightly outdated.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Usage {
    /// Total size.
    pub size: u64,
    /// Used space, including the filesystem's own tables.
    pub used: u64,
}

/// Parses the first bytes of a partition ([`HEAD_LEN`](super::probe::HEAD_LEN) are enough); `None`
/// unless it is ext2/3/4, XFS or Btrfs.
pub fn usage(head: &[u8]) -> Option<Usage> {
    ext(head).or_else(|| xfs(head)).or_else(|| btrfs(head))
}

fn of_blocks(blocks: u64, free: u64, block_size: u64) -> Option<Usage> {
    let size = blocks.checked_mul(block_size)?;
    let used = blocks.checked_sub(free)?.checked_mul(block_size)?;
    Some(Usage { size, used })
}

fn ext(head: &[u8]) -> Option<Usage> {
    let sb = head.get(1024..2048)?;
    if sb[0x38..0x3a] != [0x53, 0xef] {
        return None;
    }
    let u32_at = |at: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|i| sb[at + i])));
    let log = u32_at(0x18);
    // The upper halves are valid only with the feature 64bit.
    let high = |at: usize| if u32_at(0x60) & 0x80 != 0 { u32_at(at) << 32 } else { 0 };
    let (blocks, free) = (u32_at(0x4) | high(0x150), u32_at(0xc) | high(0x158));
    of_blocks(blocks, free, 1024_u64.checked_shl(u32::try_from(log).ok().filter(|l| *l <= 6)?)?)
}

fn xfs(head: &[u8]) -> Option<Usage> {
    let sb = head.get(..512).filter(|sb| sb.starts_with(b"XFSB"))?;
    let u64_at = |at: usize| u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| sb[at + i]));
    let block_size = u32::from_be_bytes([sb[4], sb[5], sb[6], sb[7]]);
    of_blocks(u64_at(8), u64_at(144), u64::from(block_size))
}

fn btrfs(head: &[u8]) -> Option<Usage> {
    let sb = head.get(0x1_0000..0x1_0080).filter(|sb| sb[0x40..0x48] == *b"_BHRfS_M")?;
    let u64_at = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| sb[at + i]));
    Some(Usage { size: u64_at(0x70), used: u64_at(0x78) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks() {
        let mut ext = vec![0; 2048];
        ext[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        ext[1024 + 4] = 100;
        ext[1024 + 12] = 40;
        ext[1024 + 0x18] = 2;
        assert_eq!(usage(&ext), Some(Usage { size: 409_600, used: 245_760 }));
        // More free blocks than blocks in total.
        ext[1024 + 12] = 101;
        assert_eq!(usage(&ext), None);
        let mut xfs = vec![0; 512];
        xfs[..4].copy_from_slice(b"XFSB");
        (xfs[6], xfs[15], xfs[151]) = (0x10, 10, 3);
        assert_eq!(usage(&xfs), Some(Usage { size: 40_960, used: 28_672 }));
        let mut btrfs = vec![0; 0x1_0080];
        btrfs[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
        (btrfs[0x1_0070], btrfs[0x1_0078]) = (9, 5);
        assert_eq!(usage(&btrfs), Some(Usage { size: 9, used: 5 }));
        assert_eq!(usage(&[0; 4096]), None);
    }
}
