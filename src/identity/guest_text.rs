//! Configuration files of the guest that an option must be able to edit.

use crate::edit::Draft;
use crate::{Error, ErrorKind, Result};

/// The text of a file; `None` when it does not exist.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when it exists but cannot be edited.
pub(super) fn text_of(draft: &Draft, path: &str) -> Result<Option<String>> {
    match draft.text(path) {
        None if draft.exists(path) => {
            let what = format!("{path} in the guest is too large or not a regular file");
            Err(Error::new(ErrorKind::Unsupported, what))
        }
        found => Ok(found),
    }
}
