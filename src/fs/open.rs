//! Opening the filesystem that an image holds.

use super::btrfs::BtrfsFs;
use super::budget::Budget;
use super::ext4::Ext4Fs;
use super::guest_fs::GuestFs;
use super::probe::{HEAD_LEN, ImageContent, probe};
use super::xfs::XfsFs;
use crate::bytes::ReadAt;
use crate::{Error, Result};

/// Opens the filesystem that starts at byte 0 of `reader`: ext2/3/4, XFS or Btrfs. Everything that
/// is read from it is charged to `budget`, which all looks of one plan share.
///
/// The result is not `Send`: open it in the thread that uses it. The underlying bytes must not
/// change during its lifetime.
///
/// # Errors
/// `Unsupported` names features that can't be read; `Corrupt` if it is none of these filesystems,
/// is damaged, or is longer than the image; `Io` from `reader`.
pub fn open_fs(reader: impl ReadAt + 'static, budget: &Budget) -> Result<Box<dyn GuestFs>> {
    let budget = budget.clone();
    let size = reader.len();
    // HEAD_LEN fits.
    let mut head = vec![0; size.min(HEAD_LEN as u64) as usize];
    reader
        .read_at(&mut head, 0)
        .map_err(|e| Error::io("cannot read the start of the guest's filesystem", e))?;
    Ok(match probe(&head, size) {
        ImageContent::Xfs { .. } => Box::new(XfsFs::open_within(reader, budget)?),
        ImageContent::Btrfs { .. } => Box::new(BtrfsFs::open_within(reader, budget)?),
        // For anything else, the error comes from reading it as an ext4 superblock.
        _ => Box::new(Ext4Fs::open_within(reader, budget)?),
    })
}
