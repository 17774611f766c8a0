//! What an image format provides, and what it gets.

use super::Image;
use crate::Result;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// A file to be opened as an image: checked, claimed, and open for reading.
pub(super) struct Opening {
    pub(super) file: File,
    /// Length of the file or device in bytes; not 0.
    pub(super) len: u64,
    /// Absolute path.
    pub(super) path: PathBuf,
}

/// Reads the images of one format.
pub(super) struct Driver {
    /// xl's name for the format.
    pub(super) name: &'static str,
    /// QEMU's name for the format.
    pub(super) qemu_name: &'static str,
    /// File name extensions of the format, in lower case.
    pub(super) extensions: &'static [&'static str],
    /// Whether the file's bytes are the disk's bytes, so that they may look like any format.
    pub(super) plain: bool,
    pub(super) open: fn(Opening) -> Result<Arc<dyn Image>>,
}
