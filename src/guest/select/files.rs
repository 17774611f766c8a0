//! Locating the files that a menu names.

use crate::fs::{FileKind, GuestFs};
use crate::{ErrorKind, Result};

/// The file that a menu means by `path`. The paths in the menu may start at the root or at a
/// separate /boot, and so may those of the filesystem.
pub(super) fn locate(fs: &dyn GuestFs, path: &str) -> Result<Option<String>> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut tries = vec![path.clone(), format!("/boot{path}")];
    tries.extend(path.strip_prefix("/boot").filter(|p| p.starts_with('/')).map(str::to_owned));
    for path in tries {
        if let Some(found) = regular(fs, &path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The canonical path, if it resolves to a non-empty regular file.
pub(super) fn regular(fs: &dyn GuestFs, path: &str) -> Result<Option<String>> {
    match fs.stat(path) {
        Ok(stat) if stat.kind == FileKind::File && stat.len > 0 => fs.canonicalize(path).map(Some),
        Ok(_) => Ok(None),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => Ok(None),
        Err(e) => Err(e),
    }
}
