//! Commands for debugfs.
//!
//! debugfs reads its commands with `fgets(buf, BUFSIZ)`: the rest of a longer line becomes another
//! command, and a command that begins with `!` goes to the shell. BUFSIZ is 8192 bytes in glibc and
//! 1024 in musl. Therefore every line is shorter than 1000 bytes and begins with a command from
//! this code, and names that could end a word or a line are refused.

use crate::{Error, ErrorKind, Result};

/// Every line is shorter than this, in bytes, including its line end.
const LINE_LIMIT: usize = 1000;

/// Commands, one per line.
#[derive(Debug, Default)]
pub(super) struct Script(String);

impl Script {
    /// Adds a command with its arguments; paths and names in it must be [`quoted`].
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a line that debugfs might read as two.
    pub(super) fn push(&mut self, line: impl AsRef<str>) -> Result<()> {
        let line = line.as_ref();
        let is_command = line.starts_with(|c: char| c.is_ascii_lowercase());
        if !is_command || line.contains(char::is_control) || line.len() + 1 >= LINE_LIMIT {
            let what = format!(
                "a path or link target is too long for debugfs ({} bytes in one command, the limit \
                 is {LINE_LIMIT})",
                line.len()
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        self.0.push_str(line);
        self.0.push('\n');
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path or link target, quoted for debugfs.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for one that could end the word that contains it.
pub(super) fn quoted(path: &str) -> Result<String> {
    if path.chars().any(|c| c == '"' || c == '\\' || c.is_control()) {
        let what = "a path with quotes, backslashes or control characters cannot be edited";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    Ok(format!("\"{path}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands as a reader with a buffer of `size` bytes sees them.
    fn as_read(script: &Script, size: usize) -> Vec<String> {
        let lines = script.as_str().split_inclusive('\n');
        let chunks = lines.flat_map(|line| line.as_bytes().chunks(size - 1));
        chunks.map(|chunk| String::from_utf8_lossy(chunk).trim().to_owned()).collect()
    }

    #[test]
    fn no_path_becomes_a_command() {
        // 1,044 bytes, with `!touch x` at the point where a buffer of 1,024 bytes starts again.
        let evil = format!("/{}!touch x{}", "a".repeat(1017), "b".repeat(18));
        assert_eq!(evil.len(), 1044);
        for len in (1..1100).step_by(7).chain([1044]) {
            let path: String = evil.chars().take(len).collect();
            let mut script = Script::default();
            let pushed = script.push(format!("imap {}", quoted(&path).unwrap()));
            assert_eq!(pushed.is_err(), len + 5 + 2 + 1 >= LINE_LIMIT, "{len}");
            for size in [1024, 4096, 8192] {
                let read = as_read(&script, size);
                assert!(read.iter().all(|line| line.starts_with("imap \"/")), "{size}: {read:?}");
            }
        }
        assert!(Script::default().push("!id").is_err());
        assert!(Script::default().push("").is_err());
        assert!(Script::default().push("rm \"a\n!id\"").is_err());
        for path in ["/a\"b", "/a\\b", "/a\nb", "/a\u{9b}b", "/a\0b"] {
            assert!(quoted(path).is_err(), "{path:?}");
        }
    }
}
