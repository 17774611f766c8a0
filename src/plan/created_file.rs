//! Files that are removed again if a plan fails.

use std::path::PathBuf;

/// Removes a file on drop unless [`CreatedFile::keep`] was called.
#[derive(Debug)]
pub(super) struct CreatedFile(Option<PathBuf>);

impl CreatedFile {
    /// For the file that was just created at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Some(path))
    }

    /// Let the file stay.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CreatedFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
