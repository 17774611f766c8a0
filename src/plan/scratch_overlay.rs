//! Temporary overlays.

use crate::disk::Scratch;
use crate::layout::format_size;
use crate::{Error, Result};
use std::path::Path;

/// A temporary overlay for a disk of `len` bytes, in an unnamed file in `dir`.
///
/// # Errors
/// Says why it cannot be made there, and what can be done.
pub(super) fn scratch(dir: &Path, len: u64) -> Result<Scratch> {
    Scratch::new(dir, len).map_err(|e| no_room(dir, len, e))
}

fn no_room(dir: &Path, len: u64, e: std::io::Error) -> Error {
    let hint = if e.kind() == std::io::ErrorKind::FileTooLarge {
        format!(" ({} is more than its filesystem's largest file)", format_size(len))
    } else {
        String::new()
    };
    let what = format!(
        "cannot create a temporary overlay in {}{hint}; set TMPDIR to another directory, or use \
         --overlay or --read-only",
        dir.display()
    );
    Error::io(what, e)
}
