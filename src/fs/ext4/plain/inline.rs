//! Data that are stored in an inode: in place of its block numbers, and in the attribute `system.data`.

use crate::fs::ext4::fields::{le16, le32};

const MAGIC: u32 = 0xea02_0000;
/// The prefix `system.` of the names of attributes.
const SYSTEM: u8 = 7;

/// The data in the inode `raw`. They may be longer than the file.
pub(super) fn data(raw: &[u8]) -> Vec<u8> {
    let mut out = raw.get(0x28..0x64).unwrap_or_default().to_vec();
    out.extend(attribute(raw).unwrap_or_default());
    out
}

/// The value of `system.data`, if it is in the inode.
fn attribute(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() <= 128 {
        return None;
    }
    let header = 128 + usize::from(le16(raw, 0x80));
    if le32(raw.get(header..)?, 0) != MAGIC {
        return None;
    }
    // Offsets of values count from the first entry.
    let entries = raw.get(header + 4..)?;
    let mut at = 0;
    while let Some(entry) = entries.get(at..at + 16) {
        let (name_len, index) = (usize::from(entry[0]), entry[1]);
        if name_len == 0 && index == 0 {
            return None;
        }
        let name = entries.get(at + 16..at + 16 + name_len)?;
        if index == SYSTEM && name == b"data" && le32(entry, 4) == 0 {
            let start = usize::from(le16(entry, 2));
            let end = start.checked_add(le32(entry, 8) as usize)?;
            return entries.get(start..end).map(<[u8]>::to_vec);
        }
        at += 16 + name_len.next_multiple_of(4);
    }
    None
}
