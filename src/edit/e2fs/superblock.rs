//! The superblock of the filesystem that is edited.

use crate::fs::ext4::inode::InodeFormat;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The time that edits use as the present, in seconds of Unix time: when the filesystem was last
/// written to. The tools take 0 for "use the clock".
pub(super) fn now(format: &InodeFormat) -> u64 {
    format.written.max(1)
}

/// The bytes of the superblock.
pub(super) fn superblock(partition: &Path) -> Result<[u8; 1024]> {
    let mut bytes = [0; 1024];
    File::open(partition)
        .and_then(|f| f.read_exact_at(&mut bytes, 1024))
        .map_err(|e| Error::io("cannot read the guest's superblock", e))?;
    Ok(bytes)
}

/// What the superblock says about inodes.
pub(super) fn format(partition: &Path) -> Result<InodeFormat> {
    InodeFormat::parse(&superblock(partition)?)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the guest's superblock is damaged"))
}
