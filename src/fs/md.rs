//! Members of Linux software RAID (md).
//!
//! Sources: Linux `include/uapi/linux/raid/md_p.h` for the two superblocks, md(4) and
//! `super_1_load` in `drivers/md/md.c` for their places.

/// A member of an array.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MdMember {
    /// Version of its metadata.
    pub version: MdVersion,
    /// Level of the array: 1 for mirrors; negative for linear arrays and others.
    pub level: i32,
    /// Number of disks of the array.
    pub disks: u32,
    /// UUID of the array.
    pub array: [u8; 16],
}

/// Version of a superblock, which is also its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MdVersion {
    /// 0.90, at the end.
    V0_90,
    /// 1.0, at the end.
    V1_0,
    /// 1.1, at the start.
    V1_1,
    /// 1.2, 4 KiB from the start.
    V1_2,
}

impl MdVersion {
    /// As mdadm(8) prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V0_90 => "0.90",
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }

    /// Whether the array's data begins with the first byte of the member.
    pub fn begins_with_data(self) -> bool {
        matches!(self, Self::V0_90 | Self::V1_0)
    }
}

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;
/// Bytes of a superblock that are read.
const LEN: usize = 256;

/// The superblock in a member of `size` bytes, of which `head` and `tail` are the first and the last
/// bytes; 128 KiB of each are enough.
pub fn member(head: &[u8], tail: &[u8], size: u64) -> Option<MdMember> {
    let tail_start = size.checked_sub(tail.len() as u64)?;
    let in_tail = |at: u64| {
        let from = usize::try_from(at.checked_sub(tail_start)?).ok()?;
        tail.get(from..from.checked_add(LEN)?)
    };
    let last_sectors = ((size / SECTOR).checked_sub(16)? & !7) * SECTOR;
    let last_64k = (size & !0xffff).checked_sub(0x1_0000);
    version_1(head.get(..LEN), MdVersion::V1_1, 0)
        .or_else(|| version_1(head.get(4096..4096 + LEN), MdVersion::V1_2, 4096))
        .or_else(|| version_1(in_tail(last_sectors), MdVersion::V1_0, last_sectors))
        .or_else(|| version_0(in_tail(last_64k?)?))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// `struct mdp_superblock_1`. The offset of each superblock is in it, so that a copy elsewhere is
/// none.
fn version_1(block: Option<&[u8]>, version: MdVersion, place: u64) -> Option<MdMember> {
    let block = block?;
    let offset = u64::from(u32_at(block, 144)) | u64::from(u32_at(block, 148)) << 32;
    if u32_at(block, 0) != MAGIC || u32_at(block, 4) != 1 || offset != place / SECTOR {
        return None;
    }
    let mut array = [0; 16];
    array.copy_from_slice(block.get(16..32)?);
    let (level, disks) = (u32_at(block, 72) as i32, u32_at(block, 92));
    Some(MdMember { version, level, disks, array })
}

/// `mdp_super_t`, in little-endian form.
fn version_0(block: &[u8]) -> Option<MdMember> {
    if u32_at(block, 0) != MAGIC || u32_at(block, 4) != 0 || u32_at(block, 8) != 90 {
        return None;
    }
    let mut array = [0; 16];
    array[..4].copy_from_slice(block.get(20..24)?);
    array[4..].copy_from_slice(block.get(52..64)?);
    let (level, disks) = (u32_at(block, 28) as i32, u32_at(block, 40));
    Some(MdMember { version: MdVersion::V0_90, level, disks, array })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: usize = 128 << 10;

    fn found(bytes: &[u8]) -> Option<MdMember> {
        let n = bytes.len().min(HEAD);
        member(&bytes[..n], &bytes[bytes.len() - n..], bytes.len() as u64)
    }

    fn put(bytes: &mut [u8], at: u64, words: &[(usize, u32)]) {
        for (offset, word) in words {
            let at = at as usize + offset;
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }

    #[test]
    fn superblocks_have_their_places() {
        for (version, place) in
            [(MdVersion::V1_1, 0_u64), (MdVersion::V1_2, 4096), (MdVersion::V1_0, 2032 * SECTOR)]
        {
            let mut bytes = vec![0; (1 << 20) + 3584];
            let sector = (place / SECTOR) as u32;
            let words = [(0, MAGIC), (4, 1), (72, 1), (92, 2), (144, sector)];
            put(&mut bytes, place, &words);
            let expected = MdMember { version, level: 1, disks: 2, array: [0; 16] };
            assert_eq!(found(&bytes), Some(expected));
            put(&mut bytes, place, &[(144, sector + 8)]);
            assert_eq!(found(&bytes), None);
        }
        let mut bytes = vec![0; (1 << 20) + 3584];
        put(&mut bytes, 15 << 16, &[(0, MAGIC), (8, 90), (28, -1_i32 as u32), (40, 3), (52, 7)]);
        let member = found(&bytes).unwrap();
        assert_eq!((member.version, member.level, member.disks), (MdVersion::V0_90, -1, 3));
        assert_eq!(member.array[4], 7);
        for len in [0, 1, 4096, 8192, 65536, 131_072] {
            assert_eq!(found(&vec![0; len]), None, "{len}");
        }
    }
}
