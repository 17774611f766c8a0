//! What an `if` may ask.

use super::super::strip_device;
use super::Run;
use crate::fs::FileKind;

impl Run<'_> {
    /// The commands `[` and `test`. What is not one of them, such as loading a font, fails here.
    pub(super) fn test(&self, words: &[String]) -> bool {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match &words[..] {
            ["[", args @ .., "]"] | ["test", args @ ..] => self.any(args),
            ["true"] => true,
            ["!", rest @ ..] => {
                !self.test(&rest.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
            }
            _ => false,
        }
    }

    fn any(&self, args: &[&str]) -> bool {
        args.split(|a| *a == "-o").any(|all| all.split(|a| *a == "-a").all(|one| self.primary(one)))
    }

    fn primary(&self, args: &[&str]) -> bool {
        let stat = |path: &str| self.fs.stat(strip_device(path)).ok();
        match args {
            ["!", rest @ ..] => !self.primary(rest),
            ["-n", text] => !text.is_empty(),
            ["-z", text] => text.is_empty(),
            ["-z"] => true,
            ["-s", path] => stat(path).is_some_and(|s| s.len > 0),
            ["-e", path] => stat(path).is_some(),
            ["-f", path] => stat(path).is_some_and(|s| s.kind == FileKind::File),
            ["-d", path] => stat(path).is_some_and(|s| s.kind == FileKind::Dir),
            [text] => !text.is_empty(),
            [a, "=" | "==", b] => a == b,
            [a, "!=", b] => a != b,
            _ => false,
        }
    }
}
