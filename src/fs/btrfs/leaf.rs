//! Times of a file, from the tree leaf that holds its inode.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h`: `btrfs_header`, `btrfs_item`,
//! `btrfs_inode_item`. All fields are little-endian.

/// Bytes before a leaf's items.
const HEADER: usize = 101;
/// Bytes of an item: its key and the location of its data.
const ITEM: usize = 25;
/// Key type of an inode.
const INODE_ITEM: u8 = 1;

/// Fields of an inode that `lambutter` does not return.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Times {
    /// The last transaction that changed the inode.
    pub(super) transaction: u64,
    /// Last modification: seconds since 1970, and nanoseconds within the second.
    pub(super) modified: (i64, u32),
}

/// The times of inode `number`; `None` if `leaf` does not hold it.
pub(super) fn times(leaf: &[u8], number: u64) -> Option<Times> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(leaf.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(leaf.get(at..at + 8)?.try_into().ok()?));
    if *leaf.get(100)? != 0 {
        return None;
    }
    let items = leaf.get(HEADER..)?.chunks_exact(ITEM).take(u32_at(96)? as usize);
    let index = items
        .enumerate()
        .find(|(_, i)| i[..8] == number.to_le_bytes() && i[8] == INODE_ITEM)
        .map(|(index, _)| index)?;
    let data = HEADER.checked_add(u32_at(HEADER + index * ITEM + 17)? as usize)?;
    let modified = data.checked_add(136)?;
    Some(Times {
        transaction: u64_at(data.checked_add(8)?)?,
        // The seconds are signed.
        modified: (u64_at(modified)? as i64, u32_at(modified.checked_add(8)?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_item() {
        let mut leaf = vec![0; 4096];
        leaf[96] = 2;
        for (i, (number, at)) in [(256u64, 3000u32), (257, 2000)].into_iter().enumerate() {
            let item = HEADER + i * ITEM;
            leaf[item..item + 8].copy_from_slice(&number.to_le_bytes());
            leaf[item + 8] = INODE_ITEM;
            leaf[item + 17..item + 21].copy_from_slice(&at.to_le_bytes());
            let data = HEADER + at as usize;
            leaf[data + 8] = i as u8 + 40;
            leaf[data + 136] = i as u8 + 50;
            leaf[data + 144] = i as u8 + 60;
        }
        let second = Times { transaction: 41, modified: (51, 61) };
        assert_eq!(times(&leaf, 257), Some(second));
        assert_eq!(times(&leaf, 258), None);
        assert_eq!(times(&leaf[..2100], 257), None, "cut short");
        assert_eq!(times(&[], 257), None);
        leaf[100] = 1;
        assert_eq!(times(&leaf, 257), None, "no leaf");
    }
}
