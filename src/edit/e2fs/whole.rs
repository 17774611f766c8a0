//! Operations on the filesystem as a whole: its UUID, and its free space.

use super::superblock::{format, now, superblock};
use super::tools::Tools;
use crate::edit::{Change, Edit, FileContent};
use crate::fs::ext4::room::Room;
use crate::{Error, ErrorKind, Result};
use std::path::Path;

/// Give the filesystem in `partition` another UUID.
///
/// If metadata have checksums that are seeded with the UUID, the old UUID is stored as that seed
/// (`metadata_csum_seed`, Linux 4.4), so that no metadata need to be rewritten.
///
/// # Errors
/// [`ErrorKind::NotFound`] without e2fsprogs, [`ErrorKind::Io`] with the message of its tools.
pub(super) fn set_uuid(partition: &Path, uuid: &str) -> Result<()> {
    let found = format(partition)?;
    let tools = Tools { partition, now: now(&found) };
    if found.needs_recovery {
        tools.e2fsck(&["-E", "journal_only", "-p"])?;
    }
    let seed: &[&str] = if found.seed_is_uuid { &["-O", "metadata_csum_seed"] } else { &[] };
    tools.tune2fs(&[seed, &["-U", uuid]].concat())
}

/// Make sure that the files that `edits` create fit.
///
/// # Errors
/// [`ErrorKind::Invalid`] with the available and the required space.
pub(super) fn check_room(edits: &[Edit], partition: &Path) -> Result<()> {
    let len = |edit: &Edit| match &edit.change {
        Change::Create { content: FileContent::Bytes(bytes), .. } => Some(bytes.len() as u64),
        // A file that cannot be read fails later, when it is copied.
        Change::Create { content: FileContent::HostFile(path), .. } => {
            Some(path.metadata().map_or(0, |m| m.len()))
        }
        Change::MakeDir(_) => Some(1),
        _ => None,
    };
    let lens: Vec<u64> = edits.iter().filter_map(len).collect();
    if lens.is_empty() {
        return Ok(());
    }
    let Some(room) = Room::parse(&superblock(partition)?) else { return Ok(()) };
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
