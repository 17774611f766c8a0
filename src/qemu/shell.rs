//! Quoting for a POSIX shell.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// `word` quoted so that a shell reads it as one word: unchanged if nothing in it is special,
/// otherwise in single quotes. Source: POSIX.1-2017, Shell Command Language 2.2. Bytes that are not
/// UTF-8 are shown as U+FFFD.
pub fn quote(word: &OsStr) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"@%+=:,./_-".contains(b);
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        return word.to_string_lossy().into_owned();
    }
    format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_it_back() {
        let words = [
            "",
            "a",
            "a b",
            "it's",
            "''",
            "$HOME `x` \\ \"q\"",
            "a\nb",
            "~",
            "*",
            "-x",
            "a,,b",
            "ä",
        ];
        for word in words {
            let script = format!("printf %s {}", quote(OsStr::new(word)));
            let out = Command::new("sh").arg("-c").arg(&script).output().unwrap();
            assert_eq!(out.stdout, word.as_bytes(), "{script}");
        }
        assert_eq!(quote(OsStr::new("file=/a/b.raw")), "file=/a/b.raw");
    }
}
