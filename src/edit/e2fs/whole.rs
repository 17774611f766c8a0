//! What concerns the filesystem as a whole: its UUID, and the room in it.

use super::{Tools, format, now};
use crate::fs::ext4::room::Room;
use crate::{Error, ErrorKind, Result};
use std::path::Path;

/// Give the filesystem in `partition` another UUID.
///
/// Where metadata have checksums that begin with the UUID, the old one is stored as what they begin
/// with (`metadata_csum_seed`, Linux 4.4), so that none of them must be written again.
///
/// # Errors
/// [`ErrorKind::NotFound`] without e2fsprogs, [`ErrorKind::Io`] with what its tools say.
pub(in crate::edit) fn set_uuid(partition: &Path, uuid: &str) -> Result<()> {
    let found = format(partition)?;
    let tools = Tools { partition, now: now(&found) };
    if found.needs_recovery {
        tools.e2fsck(&["-E", "journal_only", "-p"])?;
    }
    let seed: &[&str] = if found.seed_is_uuid { &["-O", "metadata_csum_seed"] } else { &[] };
    tools.tune2fs(&[seed, &["-U", uuid]].concat())
}

/// Make sure that files of these lengths (in bytes) find room.
///
/// # Errors
/// [`ErrorKind::Invalid`] with what there is and what is needed.
pub(in crate::edit) fn check_room(partition: &Path, lens: &[u64]) -> Result<()> {
    let Some(room) = Room::parse(&super::superblock(partition)?) else { return Ok(()) };
    let wanted =
        lens.iter().map(|len| len.div_ceil(room.block_size).saturating_mul(room.block_size));
    let wanted = wanted.fold(0, u64::saturating_add);
    if wanted > room.free_bytes {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let what = format!(
            "the files for the guest take {} MiB, and its root filesystem has {} MiB left",
            mib(wanted),
            room.free_bytes >> 20
        );
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    if lens.len() as u64 > u64::from(room.free_inodes) {
        let what = format!(
            "{} new files are more than the guest's root filesystem has inodes for ({})",
            lens.len(),
            room.free_inodes
        );
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    Ok(())
}
