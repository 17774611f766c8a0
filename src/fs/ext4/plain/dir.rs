//! The entries of directories.

use crate::fs::ext4::fields::{le16, le32};
use std::collections::HashMap;

/// Adds the names in one block of a directory. Empty entries, which the parts of a hash tree and
/// checksums look like, are passed over; the rest of a damaged block is.
pub(super) fn block(block: &[u8], has_types: bool, names: &mut HashMap<Vec<u8>, u32>) {
    let mut at = 0;
    while at + 8 <= block.len() {
        let inode = le32(block, at);
        let stored = usize::from(le16(block, at + 4));
        let rec_len = match stored {
            0 | 0xffff if block.len() == 1 << 16 => block.len(),
            // Of blocks of 64 KiB, the two lowest bits are the highest.
            _ => stored & 0xfffc | (stored & 3) << 16,
        };
        let name_len = match has_types {
            true => block[at + 6].into(),
            false => usize::from(le16(block, at + 6)),
        };
        if rec_len < 8 || at + rec_len > block.len() {
            return;
        }
        if let Some(name) = block[at..at + rec_len].get(8..8 + name_len).filter(|_| inode != 0) {
            if !name.is_empty() && name != b"." && name != b".." {
                names.insert(name.to_vec(), inode);
            }
        }
        at += rec_len;
    }
}

/// Adds the names in a directory that is stored in its inode: the number of its parent, entries in the
/// rest of the first 60 bytes, and entries in what follows.
pub(super) fn inline(data: &[u8], names: &mut HashMap<Vec<u8>, u32>) {
    let (first, more) = data.split_at(data.len().min(60));
    block(first.get(4..).unwrap_or_default(), true, names);
    block(more, true, names);
}
