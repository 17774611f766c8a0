//! Splits a domU config into tokens, each with the line on which it starts.
//!
//! Source of the grammar: xl.cfg(5) "SYNTAX" and Xen's own lexer (`libxlu_cfg_l.l`). In addition, a
//! byte order mark, carriage returns and a backslash before a newline count as white space, because
//! configs written for xm or on other systems contain them.

use crate::{Error, ErrorKind, Result};

/// A token of the grammar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Token {
    /// A bare word: the name of a setting, or Python.
    Ident(String),
    /// A bare word that starts with a digit, as written.
    Number(String),
    /// A quoted string, with escapes resolved.
    Str(String),
    Comma,
    Open,
    Close,
    Assign,
    Add,
    Semicolon,
    Newline,
    /// A character that xl.cfg allows only in strings; Python also uses some of them elsewhere.
    Other(char),
}

impl Token {
    /// The token's name in an error message.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Ident(s) | Token::Number(s) => format!("'{}'", clip(s)),
            Token::Str(s) => format!("the string \"{}\"", clip(s)),
            Token::Comma => "','".into(),
            Token::Open => "'['".into(),
            Token::Close => "']'".into(),
            Token::Assign => "'='".into(),
            Token::Add => "'+='".into(),
            Token::Semicolon => "';'".into(),
            Token::Newline => "the end of the line".into(),
            Token::Other(c) => format!("'{}'", c.escape_debug()),
        }
    }
}

/// The first 40 characters of `s`, with control characters escaped, for an error message. Of a URL, which
/// may contain a password, only the beginning.
pub(super) fn clip(s: &str) -> String {
    match (s.find("://"), s.contains('@')) {
        (Some(at), _) => return format!("{}…", clip(&s[..at])),
        (None, true) => return "…".into(),
        (None, false) => {}
    }
    let mut out: String = s.chars().take(40).flat_map(char::escape_debug).collect();
    if s.chars().nth(40).is_some() {
        out.push('…');
    }
    out
}

/// An error in the config, with its line.
pub(super) fn error_at(kind: ErrorKind, line: u32, what: impl std::fmt::Display) -> Error {
    Error::new(kind, format!("line {line}: {what}"))
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    pos: usize,
    line: u32,
    /// Whether replacement characters stand for bytes that were not UTF-8.
    lossy: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, lossy: bool) -> Self {
        let pos = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, pos, line: 1, lossy }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.pos..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        if c == '\n' {
            self.line += 1;
        }
        Some(c)
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        error_at(ErrorKind::Corrupt, self.line, what)
    }

    /// The next token and its line; `None` at the end of the text.
    pub(super) fn next(&mut self) -> Result<Option<(Token, u32)>> {
        loop {
            let Some(c) = self.peek() else { return Ok(None) };
            match c {
                ' ' | '\t' | '\r' | '\u{b}' | '\u{c}' => {
                    self.bump();
                }
                '\\' if self.continuation() => {}
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.bump();
                    }
                }
                _ => break,
            }
        }
        let line = self.line;
        let start = self.pos;
        let Some(c) = self.bump() else { return Ok(None) };
        let token = match c {
            '\n' => Token::Newline,
            ',' => Token::Comma,
            '[' => Token::Open,
            ']' => Token::Close,
            ';' => Token::Semicolon,
            '=' => Token::Assign,
            '+' if self.peek() == Some('=') => {
                self.bump();
                Token::Add
            }
            '\'' | '"' => Token::Str(self.string(c)?),
            c if c.is_ascii_alphabetic() || c == '_' => {
                Token::Ident(self.word(start, |c| c.is_ascii_alphanumeric() || c == '_').into())
            }
            c if c.is_ascii_digit() => {
                Token::Number(self.word(start, |c| c.is_ascii_alphanumeric()).into())
            }
            '\u{fffd}' if self.lossy => return Err(error_at(ErrorKind::Corrupt, line, NOT_UTF8)),
            c => Token::Other(c),
        };
        Ok(Some((token, line)))
    }

    /// Skips a backslash and the newline after it; returns false if there is none.
    fn continuation(&mut self) -> bool {
        let rest = &self.text[self.pos..];
        let len = if rest.starts_with("\\\n") {
            2
        } else if rest.starts_with("\\\r\n") {
            3
        } else {
            return false;
        };
        self.pos += len;
        self.line += 1;
        true
    }

    fn word(&mut self, start: usize, part: impl Fn(char) -> bool) -> &'a str {
        while self.peek().is_some_and(&part) {
            self.bump();
        }
        &self.text[start..self.pos]
    }

    /// Reads the rest of a string whose opening `quote` has been read.
    fn string(&mut self, quote: char) -> Result<String> {
        let open = self.line;
        let unended = |c: char| {
            error_at(
                ErrorKind::Corrupt,
                open,
                format!("the string that starts with {c} has no end"),
            )
        };
        let mut bytes = Vec::new();
        loop {
            if self.peek() == Some('\\') && self.continuation() {
                continue;
            }
            match self.bump() {
                None | Some('\n') => return Err(unended(quote)),
                Some(c) if c == quote => break,
                Some('\\') => self.escape(&mut bytes)?,
                Some('\0') => return Err(self.corrupt("a NUL byte in a string")),
                Some('\u{fffd}') if self.lossy => return Err(self.corrupt(NOT_UTF8)),
                Some(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes).map_err(|_| error_at(ErrorKind::Corrupt, open, NOT_UTF8))
    }

    /// Reads one escape whose backslash has been read: C escapes, with two hexadecimal or up to
    /// three octal digits (`xlu__cfgl_dequote`).
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let byte = match self.bump() {
            Some(c @ ('\\' | '\'' | '"')) => c as u8,
            Some('a') => 7,
            Some('b') => 8,
            Some('f') => 12,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 11,
            Some('x') => match (self.digit(16), self.digit(16)) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(self.corrupt("'\\x' in a string needs two hex digits")),
            },
            Some(c @ '0'..='7') => {
                let mut value = c as u32 - '0' as u32;
                for _ in 0..2 {
                    match self.digit(8) {
                        Some(d) => value = value * 8 + d,
                        None => break,
                    }
                }
                u8::try_from(value)
                    .map_err(|_| self.corrupt("an octal escape in a string is above \\377"))?
            }
            Some(c) => {
                let c = c.escape_debug();
                return Err(self.corrupt(format!(
                    "'\\{c}' in a string is not an escape; write '\\\\' for a backslash"
                )));
            }
            None => return Err(self.corrupt("the text ends inside a string")),
        };
        if byte == 0 {
            return Err(self.corrupt("a NUL byte in a string"));
        }
        out.push(byte);
        Ok(())
    }

    fn digit(&mut self, radix: u32) -> Option<u32> {
        let digit = self.peek()?.to_digit(radix)?;
        self.bump();
        Some(digit)
    }
}

const NOT_UTF8: &str = "text that is not UTF-8 outside of a comment; save the config as UTF-8";
