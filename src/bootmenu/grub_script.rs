//! The lexer of GRUB 2's script language. It splits a shell-like script into tokens before anything
//! is expanded or run.
//!
//! Sources: GNU GRUB manual, "Shell-like scripting"; `grub-core/script/yylex.l`.

use crate::Result;
use crate::fs::{Budget, Cost};

/// A piece of a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part<'a> {
    /// Text, and whether it is quoted.
    Text(&'a str, bool),
    /// The name of a variable, and whether it is in double quotes.
    Variable(&'a str, bool),
}

/// A word or the end of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Token<'a> {
    /// A word of one or more parts.
    Word(Box<[Part<'a>]>),
    /// A newline or semicolon.
    End,
}

impl<'a> Token<'a> {
    /// The word's text if it is plain, that is, unquoted and without variables, as keywords must
    /// be.
    pub(super) fn keyword(&self) -> Option<&'a str> {
        match self {
            Self::Word(parts) => match parts[..] {
                [Part::Text(text, false)] => Some(text),
                _ => None,
            },
            Self::End => None,
        }
    }
}

/// Splits a script into tokens, which are slices of it. An unterminated quote extends to the end of
/// the text.
///
/// # Errors
/// `TooLarge` if `budget` allows no more words.
pub(super) fn lex<'a>(text: &'a str, budget: &Budget) -> Result<Vec<Token<'a>>> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new(), word: None, text_end: None };
    while lexer.at < text.len() {
        let before = lexer.tokens.len();
        lexer.step();
        let cost = |token: &Token| match token {
            Token::Word(parts) => parts.len() as u64,
            Token::End => 1,
        };
        let words = lexer.tokens[before..].iter().map(cost).sum();
        if words > 0 {
            budget.charge(Cost::MenuWords, words)?;
        }
    }
    lexer.end_word();
    lexer.tokens.push(Token::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    /// Offset of the next character.
    at: usize,
    tokens: Vec<Token<'a>>,
    /// The word being read; `Some` and empty after an empty pair of quotes.
    word: Option<Vec<Part<'a>>>,
    /// Where the last part of the word ends, if it is text.
    text_end: Option<usize>,
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        self.peek().filter(|c| wanted(*c))?;
        self.next()
    }

    /// Reads the token that starts with the next character.
    fn step(&mut self) {
        let start = self.at;
        match self.next() {
            None => {}
            Some('\n' | ';') => {
                self.end_word();
                self.tokens.push(Token::End);
            }
            Some(c) if c.is_whitespace() => self.end_word(),
            Some('#') if self.word.is_none() => while self.next_if(|c| c != '\n').is_some() {},
            Some(c @ ('{' | '}')) if self.word.is_none() && self.is_at_word_end() => {
                // A lone brace opens or closes a block anywhere.
                if c == '}' {
                    self.tokens.push(Token::End);
                }
                self.push(start, false);
                self.end_word();
            }
            Some('\\') => self.escape(),
            Some('\'') => {
                self.open_quote();
                while self.peek().is_some_and(|c| c != '\'') {
                    let start = self.at;
                    self.next();
                    self.push(start, true);
                }
                self.next();
            }
            Some('"') => self.double_quoted(),
            Some('$') => self.variable(start, false),
            Some(_) => self.push(start, false),
        }
    }

    fn is_at_word_end(&self) -> bool {
        self.peek().is_none_or(|c| c.is_whitespace() || c == ';')
    }

    /// Reads the character after a backslash outside quotes.
    fn escape(&mut self) {
        let start = self.at;
        if !matches!(self.next(), Some('\n') | None) {
            self.push(start, true);
        }
    }

    fn double_quoted(&mut self) {
        self.open_quote();
        loop {
            let start = self.at;
            match self.next() {
                None | Some('"') => break,
                Some('\\') => {
                    let escaped = self.at;
                    match self.next() {
                        Some('\n') | None => {}
                        Some('"' | '\\' | '$') => self.push(escaped, true),
                        Some(_) => self.push(start, true),
                    }
                }
                Some('$') => self.variable(start, true),
                Some(_) => self.push(start, true),
            }
        }
    }

    /// Reads the rest of a variable, whose `$` is at `start`.
    fn variable(&mut self, start: usize, quoted: bool) {
        let braced = self.next_if(|c| c == '{').is_some();
        let name_at = self.at;
        while self.next_if(|c| c.is_ascii_alphanumeric() || "_?@*".contains(c)).is_some() {}
        let name = &self.text[name_at..self.at];
        if braced {
            self.next_if(|c| c == '}');
        } else if name.is_empty() {
            self.push(start, quoted);
            return;
        }
        self.word.get_or_insert_default().push(Part::Variable(name, quoted));
        self.text_end = None;
    }

    fn open_quote(&mut self) {
        self.word.get_or_insert_default().push(Part::Text("", true));
        self.text_end = Some(self.at);
    }

    /// Adds the text from `start` to the current position to the word.
    fn push(&mut self, start: usize, quoted: bool) {
        let word = self.word.get_or_insert_default();
        match word.last_mut() {
            Some(Part::Text(text, q)) if *q == quoted && self.text_end == Some(start) => {
                *text = &self.text[start - text.len()..self.at];
            }
            _ => word.push(Part::Text(&self.text[start..self.at], quoted)),
        }
        self.text_end = Some(self.at);
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take() {
            self.tokens.push(Token::Word(word.into_boxed_slice()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let show = |text: &str| -> String {
            let word = |t: &Token| match t {
                Token::End => ";".to_owned(),
                Token::Word(parts) => {
                    let mut out = String::new();
                    let mut text = None;
                    for part in parts {
                        let (name, quoted, now) = match part {
                            Part::Text(t, q) => ((*t).to_owned(), *q, Some(*q)),
                            Part::Variable(v, q) => (format!("${v}"), *q, None),
                        };
                        // Adjacent texts of the same kind are printed as one.
                        if now.is_none() || now != text {
                            out.push_str(if out.is_empty() { "" } else { "+" });
                            out.push_str(if quoted { "'" } else { "" });
                        }
                        out.push_str(&name);
                        text = now;
                    }
                    out
                }
            };
            lex(text, &Budget::new()).unwrap().iter().map(word).collect::<Vec<_>>().join(" ")
        };
        for (text, want) in [
            ("a b\tc # d\ne", "a b c ; e ;"),
            ("a#b", "a#b ;"),
            (r#"x"${y}"z"#, "x+'+'$y+z ;"),
            (r#"'a "b' "c 'd" "e\"f\$g\h""#, r#"'a "b 'c 'd 'e"f$g\h ;"#),
            (r"a\ b \;c", "a+' +b ';+c ;"),
            ("a \\\n b", "a b ;"),
            ("if [ x ]; then\nfi", "if [ x ] ; then ; fi ;"),
            ("menuentry 'x' {\nlinux }\n}", "menuentry 'x { ; linux ; } ; ; } ;"),
            ("$a${b}c$", "$a+$b+c$ ;"),
            ("''", "' ;"),
            ("'open", "'open ;"),
            ("\"${open", "'+'$open ;"),
            ("${x}} {y}", "$x+} {y} ;"),
        ] {
            assert_eq!(show(text), want, "{text}");
        }
    }
}
