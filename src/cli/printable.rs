//! Text from a guest on a terminal: titles, labels and paths of an untrusted image must not reach the
//! terminal as commands to it.

use std::borrow::Cow;

/// `text` with what would command a terminal, or turn its writing round, in the form `\u{1b}`. Ends
/// of lines and tabs stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_command(c) && c != '\n' && c != '\t')
}

/// As [`printable`], for what is one line.
pub(super) fn in_a_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_command)
}

fn is_command(c: char) -> bool {
    // Beside the control characters, those of Unicode that change the direction of writing.
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
        assert_eq!(in_a_line("a\nsynthdisk: b\tc"), "a\\u{a}synthdisk: b\\u{9}c");
    }
}
