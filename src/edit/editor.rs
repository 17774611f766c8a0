//! The interface for storing edits in a filesystem.

use super::Edit;
use crate::Result;
use std::path::Path;

/// Stores edits in filesystems of one kind. Paths name a file that holds a filesystem that is not
/// mounted. A new editor is a file in this folder and a line in [`apply`](super::apply).
pub(super) trait Editor {
    /// Store `edits` in this order.
    ///
    /// # Errors
    /// Says what could not be done, and why. Edits before the failed one stay.
    fn apply(&self, edits: &[Edit], partition: &Path) -> Result<()>;

    /// Make sure that the files that `edits` create fit, as far as this can be known in advance.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) with the available and the required space.
    fn check_room(&self, edits: &[Edit], partition: &Path) -> Result<()>;

    /// Give the filesystem another UUID.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if this is not possible.
    fn set_uuid(&self, partition: &Path, uuid: &str) -> Result<()>;
}
