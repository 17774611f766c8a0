//! Directories that only this user can enter.

use crate::{Error, Result};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A new name, `synthdisk-PURPOSE-…`, in $XDG_RUNTIME_DIR, or in /tmp if that is not set. The
/// parent directory's path contains no symlinks.
pub fn private_dir_name(purpose: &str) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let parent =
        runtime.filter(|dir| dir.is_absolute() && dir.is_dir()).unwrap_or_else(|| "/tmp".into());
    let parent = parent.canonicalize().unwrap_or(parent);
    parent.join(format!("synthdisk-{purpose}-{}", Uuid::new_v4().simple()))
}

/// Make the directory `dir` with mode 0700.
///
/// # Errors
/// EEXIST when the name already exists; errors of mkdir(2).
pub fn make_private_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::io(format!("cannot make the directory {}", dir.display()), e))
}
