//! Untrusted text on its way to a terminal: titles, labels and paths of a guest, and what tools say of
//! them, must not reach the terminal as commands.

use std::borrow::Cow;

/// `text` with escape sequences, other control characters (C0, C1, DEL) and characters that change the
/// direction of writing in the form `\u{1b}`. Line feeds and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_command(c) && c != '\n' && c != '\t')
}

/// As [`printable`], for text that belongs on one line.
pub fn in_a_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_command)
}

fn is_command(c: char) -> bool {
    let is_bidi = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    // U+2028 and U+2029 end a line.
    c.is_control() || is_bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

fn escaped(text: &str, is_unwanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unwanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unwanted(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_to_a_terminal_become_text() {
        assert_eq!(printable("\x1b[31mred\x07 \u{9b}2J"), "\\u{1b}[31mred\\u{7} \\u{9b}2J");
        assert_eq!(printable("Débian\t12\n"), "Débian\t12\n");
        assert_eq!(printable("a\rb\u{202e}c\u{7f}"), "a\\u{d}b\\u{202e}c\\u{7f}");
        assert_eq!(in_a_line("\u{61c}\u{200f}\u{2028}"), "\\u{61c}\\u{200f}\\u{2028}");
        assert_eq!(in_a_line("a\nsynthdisk: b\tc"), "a\\u{a}synthdisk: b\\u{9}c");
    }
}
