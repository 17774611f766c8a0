//! Text from a guest on a terminal: titles, labels and paths of an untrusted image must not control
//! the terminal.

use std::borrow::Cow;

/// `text` with control characters (C0, DEL, C1) and those that change the direction of writing
/// escaped as `\u{1b}`. Newlines and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_control(c) && c != '\n' && c != '\t')
}

/// As [`printable`], with newlines and tabs escaped too: for values that are printed within a line.
pub fn in_a_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

fn is_control(c: char) -> bool {
    // Of Unicode's format characters, the bidi controls (UAX #9, section 2) and line separators.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}')
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
    fn terminal_controls_are_escaped() {
        assert_eq!(printable("\x1b[31mred\x07 \u{9b}2J"), "\\u{1b}[31mred\\u{7} \\u{9b}2J");
        assert_eq!(printable("Débian\t12\n"), "Débian\t12\n");
        assert_eq!(printable("a\rb\u{202e}c\u{7f}"), "a\\u{d}b\\u{202e}c\\u{7f}");
        assert_eq!(in_a_line("a\nsynthdisk: b\tc"), "a\\u{a}synthdisk: b\\u{9}c");
    }
}
