//! What stores edits in a filesystem.

use super::Edit;
use crate::Result;
use std::path::Path;

/// Stores edits in filesystems of one kind. Paths name a file that holds a filesystem which nobody has
/// mounted. A new editor is a file in this folder and a line in [`apply`](super::apply).
pub(super) trait Editor {
    /// Store `edits` in this order.
    ///
    /// # Errors
    /// What could not be done, and why. Edits before the one that failed stay.
    fn apply(&self, edits: &[Edit], partition: &Path) -> Result<()>;

    /// Make sure that the files that `edits` create fit, as far as that can be known beforehand.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) with what there is and what is needed.
    fn check_room(&self, edits: &[Edit], partition: &Path) -> Result<()>;

    /// Give the filesystem another UUID.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where that cannot be done.
    fn set_uuid(&self, partition: &Path, uuid: &str) -> Result<()>;
}
