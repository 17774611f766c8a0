//! The conditions of an `if`.

use crate::bootmenu::text::strip_device;
use crate::fs::{FileKind, GuestFs};

/// Whether a condition holds. Supports the commands `[`, `test` and `true`, with `!` before them.
/// Any other command, such as loading a font, fails here.
pub(super) fn holds(fs: &dyn GuestFs, words: &[String]) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (negated, words) = negations(&words);
    let holds = match words {
        ["[", args @ .., "]"] | ["test", args @ ..] => any(fs, args),
        ["true"] => true,
        _ => false,
    };
    holds != negated
}

/// Whether the words start with an odd number of `!`, and what follows them.
fn negations<'a, 'b>(words: &'b [&'a str]) -> (bool, &'b [&'a str]) {
    let count = words.iter().take_while(|w| **w == "!").count();
    (count % 2 == 1, &words[count..])
}

fn any(fs: &dyn GuestFs, args: &[&str]) -> bool {
    args.split(|a| *a == "-o").any(|all| all.split(|a| *a == "-a").all(|one| primary(fs, one)))
}

fn primary(fs: &dyn GuestFs, args: &[&str]) -> bool {
    let stat = |path: &str| fs.stat(strip_device(path)).ok();
    let (negated, args) = negations(args);
    let holds = match args {
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
    };
    holds != negated
}
