//! Storing edits in a filesystem.

use super::{Change, Content, Edit, e2fs};
use crate::Result;
use std::path::Path;

/// Store `edits` in the filesystem in `partition`, which nobody has mounted.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) without the tools of the filesystem;
/// [`Unsupported`](crate::ErrorKind::Unsupported) for a file that has no blocks of its own;
/// [`Io`](crate::ErrorKind::Io) with what the tools say. Edits before the one that failed stay.
pub fn apply(edits: &[Edit], partition: &Path) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    e2fs::apply(edits, partition)
}

/// Give the filesystem in `partition`, which nobody has mounted, another UUID.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) without its tools; [`Io`](crate::ErrorKind::Io) with what
/// they say.
pub fn set_uuid(partition: &Path, uuid: &str) -> Result<()> {
    e2fs::whole::set_uuid(partition, uuid)
}

/// Make sure, as far as that can be told, that the files that `edits` create find room in the
/// filesystem in `partition`.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) with what there is and what is needed.
pub fn check_room(edits: &[Edit], partition: &Path) -> Result<()> {
    let len = |edit: &Edit| match &edit.change {
        Change::Create { content: Content::Bytes(bytes), .. } => Some(bytes.len() as u64),
        // What cannot be read is said when it is copied.
        Change::Create { content: Content::HostFile(path), .. } => {
            Some(path.metadata().map_or(0, |m| m.len()))
        }
        Change::MakeDir(_) => Some(1),
        _ => None,
    };
    let lens: Vec<u64> = edits.iter().filter_map(len).collect();
    if lens.is_empty() { Ok(()) } else { e2fs::whole::check_room(partition, &lens) }
}
