//! Limits on the directories of a guest.

use crate::{Error, ErrorKind};

/// Largest directory that is read, in bytes of its blocks: some 400,000 names.
pub const MAX_DIR_BYTES: u64 = 16 << 20;

/// Maximum number of names in one directory.
pub(super) const MAX_DIR_ENTRIES: usize = 500_000;

/// The error for a directory beyond a limit.
pub(super) fn too_many(path: &str) -> Error {
    Error::new(ErrorKind::TooLarge, format!("directory {path} in the guest has too many entries"))
}
