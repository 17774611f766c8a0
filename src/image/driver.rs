//! What a format of images provides, and what it is given.

use super::Image;
use crate::Result;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// A file that is to be opened as an image: checked, claimed, and open for reading.
pub(super) struct Opening {
    pub(super) file: File,
    /// Length of the file or device in bytes; not 0.
    pub(super) len: u64,
    /// Absolute path.
    pub(super) path: PathBuf,
}

/// What reads the images of one format.
pub(super) struct Driver {
    /// As xl calls it.
    pub(super) name: &'static str,
    /// As QEMU calls it.
    pub(super) qemu_name: &'static str,
    /// Endings of file names that stand for it, in lower case.
    pub(super) extensions: &'static [&'static str],
    /// Whether the bytes of the file are those of the disk, so that they may look like anything.
    pub(super) plain: bool,
    pub(super) open: fn(Opening) -> Result<Arc<dyn Image>>,
}
