//! Splitting and joining words and tokens.

use crate::bootmenu::grub_script::Token;
use crate::bootmenu::text::bounded;

/// The parts of a `default` such as `A>B`, in which `>>` stands for one `>`.
pub(super) fn split_path(wanted: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = wanted.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '>' && chars.next_if_eq(&'>').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// The variables of an environment block (GNU GRUB manual, "The GRUB environment block").
pub(super) fn parse_env(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let mut out = String::new();
        let mut chars = value.chars();
        while let Some(c) = chars.next() {
            out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
        }
        Some((name, out))
    })
}

/// The words of a Linux command line, joined. A blank that GRUB had quoted gets Linux's own quotes.
pub(super) fn join(words: &[String]) -> String {
    let quote = |word: &String| {
        if !word.contains(char::is_whitespace) || word.contains('"') {
            return word.clone();
        }
        match word.split_once('=') {
            Some((key, value)) if !key.contains(char::is_whitespace) => {
                format!("{key}=\"{value}\"")
            }
            _ => format!("\"{word}\""),
        }
    };
    bounded(words.iter().map(quote).collect::<Vec<_>>().join(" "))
}

/// Index of the end of the command that contains `at`.
pub(super) fn end_of_command(tokens: &[Token], at: usize) -> usize {
    (at..tokens.len()).find(|i| tokens[*i] == Token::End).unwrap_or(tokens.len())
}

/// Index after the `close` that matches the `open` at `at`; the end if there is none.
pub(super) fn matching(tokens: &[Token], at: usize, open: &[&str], close: &str) -> usize {
    let mut level = 0usize;
    let mut start_of_command = true;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        // Shell keywords count only at the start of a command; braces count anywhere.
        if let Some(word) = token.keyword().filter(|_| start_of_command || close == "}") {
            if open.contains(&word) {
                level += 1;
            } else if word == close {
                level -= 1;
                if level == 0 {
                    return i + 1;
                }
            }
        }
        start_of_command =
            *token == Token::End || matches!(token.keyword(), Some("then" | "else" | "do" | "{"));
    }
    tokens.len()
}
