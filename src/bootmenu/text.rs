//! Reading the files of a boot menu, and text helpers shared by all grammars.

use crate::fs::{Cost, GuestFs};
use crate::{ErrorKind, Result};

/// Largest boot menu file that is read, in bytes (pygrub: `FS_READ_MAX`).
pub const MAX_CONFIG: usize = 1 << 20;
/// Longest command line that is kept, in bytes. Linux accepts 2047 on x86.
pub const MAX_CMDLINE: usize = 16 << 10;

/// Whether an error means that there is nothing usable at a path.
pub(super) fn is_absent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Invalid)
}

/// Reads a file of at most [`MAX_CONFIG`] bytes as text; invalid UTF-8 becomes replacement
/// characters.
pub(super) fn read_text(fs: &dyn GuestFs, path: &str) -> Result<String> {
    let data = fs.read(path, MAX_CONFIG)?;
    fs.budget().charge(Cost::MenuBytes, data.len() as u64)?;
    Ok(match String::from_utf8(data) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}

/// Like [`read_text`], for a file that may be missing.
pub(super) fn read_optional(fs: &dyn GuestFs, path: &str) -> Result<Option<String>> {
    match read_text(fs, path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_absent(e.kind()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The directory of a path, without a trailing slash; empty for the root.
pub(super) fn dir_of(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

/// A path without a leading `(hd0,0)` or `($root)` of GRUB.
pub(super) fn strip_device(path: &str) -> &str {
    match path.strip_prefix('(').and_then(|p| p.split_once(')')) {
        Some((_, rest)) => rest,
        None => path,
    }
}

/// Truncates a text to [`MAX_CMDLINE`] bytes.
pub(super) fn bounded(mut text: String) -> String {
    if text.len() > MAX_CMDLINE {
        let end = (0..=MAX_CMDLINE).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Splits off the first word of a line.
pub(super) fn first_word(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(w, rest)| (w, rest.trim()))
}

/// Charges the filesystem's budget for the words and bytes of a list of paths or parameters.
pub(super) fn charge_words(fs: &dyn GuestFs, words: &str) -> Result<()> {
    fs.budget().charge(Cost::MenuBytes, words.len() as u64)?;
    fs.budget().charge(Cost::MenuWords, words.split([',', ' ', '\t']).count() as u64)
}
