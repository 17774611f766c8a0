//! Storing edits in a filesystem.

use super::{Edit, e2fs};
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
