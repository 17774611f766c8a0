//! What many configuration formats share: a line is an entry, `#` starts a comment.

/// Whether the line has no entry: it is empty or a comment.
pub(super) fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with(['#', ';'])
}

/// `text` with each entry replaced by the result of `edit`, which gets it without its line ending;
/// the second half of the result says why. `None` if nothing is replaced.
pub(super) fn edit_lines(
    text: &str,
    mut edit: impl FnMut(&str) -> Option<(String, String)>,
) -> Option<(String, String)> {
    let mut whys: Vec<String> = Vec::new();
    let mut out = String::with_capacity(text.len() + 128);
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\r', '\n']);
        let edited = if is_comment(content) { None } else { edit(content) };
        match edited {
            Some((new, why)) => {
                out.push_str(&new);
                out.push_str(&line[content.len()..]);
                if !whys.contains(&why) {
                    whys.push(why);
                }
            }
            None => out.push_str(line),
        }
    }
    (!whys.is_empty()).then(|| (out, in_short(&whys)))
}

/// An entry turned into a comment, and why.
pub(super) fn comment_out(line: &str, why: impl Into<String>) -> Option<(String, String)> {
    Some((format!("#{line}"), why.into()))
}

/// Maximum number of changes that are listed individually.
const MOST_NAMED: usize = 10;

/// `changes` in one phrase of bounded length.
pub(super) fn in_short(changes: &[String]) -> String {
    // Several entries may name one device.
    let mut once: Vec<&String> = Vec::new();
    for change in changes {
        if !once.contains(&change) {
            once.push(change);
        }
    }
    let changes = once;
    let named = changes.len().min(MOST_NAMED);
    let more = match changes.len() - named {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    let short: Vec<String> = changes[..named].iter().map(|change| clipped(change)).collect();
    short.join(", ") + &more
}

/// `change` cut to a readable length: a name in a guest's file may have any length.
fn clipped(change: &str) -> String {
    const LONGEST: usize = 200;
    match change.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &change[..end]),
        None => change.to_owned(),
    }
}

/// Words of `line`, separated by characters that no name of a device or module contains.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric())
}

/// The value of the assignment `KEY=VALUE` in `line`, with its quotes; spaces around `=` are
/// allowed.
pub(super) fn assigned<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.trim_start().strip_prefix(key)?.trim_start();
    Some(rest.strip_prefix('=')?.trim())
}

/// `text` with each occurrence of the word `old` replaced by `new`.
pub(super) fn replace_word(text: &str, old: &str, new: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric();
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(old) {
        let end = at + old.len();
        if !text[..at].ends_with(is_part) && !text[end..].starts_with(is_part) {
            out.push_str(&text[done..at]);
            out.push_str(new);
            done = end;
        }
    }
    out + &text[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_edited_and_line_ends_stay() {
        let shout = |line: &str| line.contains('x').then(|| (line.to_uppercase(), "why".into()));
        let edited = |text: &str| edit_lines(text, shout);
        assert_eq!(edited("ax\r\n#x\n ;x\nbx"), Some(("AX\r\n#x\n ;x\nBX".into(), "why".into())));
        assert_eq!(edited("#x\n\n"), None);
    }

    #[test]
    fn words_are_whole() {
        for (text, expected) in [
            ("getty hvc0", "getty ttyS0"),
            ("/dev/hvc0 hvc0", "/dev/ttyS0 ttyS0"),
            ("hvc01 xhvc0 hvc0hvc0", "hvc01 xhvc0 hvc0hvc0"),
        ] {
            assert_eq!(replace_word(text, "hvc0", "ttyS0"), expected);
        }
    }

    #[test]
    fn assignments() {
        assert_eq!(assigned("RESUME=/dev/xvda1", "RESUME"), Some("/dev/xvda1"));
        assert_eq!(assigned(" resume device = /dev/xvda1 ", "resume device"), Some("/dev/xvda1"));
        assert_eq!(assigned("RESUMES=x", "RESUME"), None);
    }
}
