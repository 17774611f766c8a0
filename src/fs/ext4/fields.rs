//! Little-endian numbers in metadata; beyond the end of the data they are 0.

/// 32 bits at `at`.
pub(in crate::fs::ext4) fn le32(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// 16 bits at `at`.
pub(in crate::fs::ext4) fn le16(data: &[u8], at: usize) -> u16 {
    data.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}
