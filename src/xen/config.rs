//! The grammar of a domU config: assignments of strings, numbers and nested lists.
//!
//! Source: xl.cfg(5) "SYNTAX" and Xen's own grammar (`libxlu_cfg_y.y`). [`super::domain`]
//! interprets the settings.

use std::collections::BTreeMap;

use super::lexer::{Lexer, Token, clip, error_at};
use crate::{Error, ErrorKind, Result};

/// Maximum size of a config, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Maximum nesting depth of lists; vnuma, the deepest in xl.cfg(5), needs two.
const MAX_DEPTH: usize = 16;

/// A number together with its spelling, because `name = 007` is also a valid string.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Number {
    /// The value.
    pub value: u64,
    /// As written: decimal, `0x` hexadecimal or `0` octal.
    pub text: String,
}

/// The right-hand side of an assignment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// A quoted string, with escapes resolved. It contains no NUL.
    String(String),
    /// A bare number.
    Number(Number),
    /// A list, possibly nested and of mixed types.
    List(Vec<ListItem>),
}

/// An element of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListItem {
    /// The line on which the element starts, from 1.
    pub line: u32,
    /// The element.
    pub value: Value,
}

impl Value {
    /// The text of a string or number; `None` for a list.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            Value::Number(n) => Some(&n.text),
            Value::List(_) => None,
        }
    }

    /// The value of a number, or of a string that is one (`memory = '512'`).
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::String(s) => parse_number(s.trim()),
            Value::Number(n) => Some(n.value),
            Value::List(_) => None,
        }
    }
}

/// A setting's value after the whole config has been read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    /// The line of the effective assignment, from 1: the last `=`, or the first `+=`.
    pub line: u32,
    /// The value, including everything that `+=` added.
    pub value: Value,
}

/// All settings of a config, by name. As in xl, the last assignment to a name takes effect.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    settings: BTreeMap<String, Assignment>,
}

impl Config {
    /// Parses a config's bytes. Comments may be in any encoding; the rest must be UTF-8.
    ///
    /// # Errors
    /// `TooLarge` above [`MAX_CONFIG_BYTES`], `Unsupported` for Python (old xm configs), `Corrupt`
    /// for other syntax errors. Each error names the line.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_CONFIG_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "too large for a domU config (limit 1 MiB); is it an image?",
            ));
        }
        let text = String::from_utf8_lossy(bytes);
        let lossy = matches!(text, std::borrow::Cow::Owned(_));
        Parser::new(Lexer::new(&text, lossy))?.file()
    }

    /// Parses a config's text; see [`Config::parse_bytes`].
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_bytes(text.as_bytes())
    }

    /// The setting `name`.
    pub fn get(&self, name: &str) -> Option<&Assignment> {
        self.settings.get(name)
    }

    /// All settings, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Assignment)> {
        self.settings.iter().map(|(name, a)| (name.as_str(), a))
    }

    fn assign(&mut self, name: String, line: u32, value: Value) {
        self.settings.insert(name, Assignment { line, value });
    }

    fn add(&mut self, name: String, line: u32, value: Value) -> Result<()> {
        let Some(old) = self.settings.get_mut(&name) else {
            self.assign(name, line, value);
            return Ok(());
        };
        match (&mut old.value, value) {
            (Value::String(old), Value::String(new)) => old.push_str(&new),
            (Value::List(old), Value::List(new)) => old.extend(new),
            (Value::Number(_), _) | (_, Value::Number(_)) => {
                return Err(error_at(ErrorKind::Corrupt, line, "'+=' can't be used with numbers"));
            }
            _ => {
                let what = format!(
                    "'{} +=' adds a {} to what line {} made a {}",
                    clip(&name),
                    if matches!(old.value, Value::List(_)) { "string" } else { "list" },
                    old.line,
                    if matches!(old.value, Value::List(_)) { "list" } else { "string" },
                );
                return Err(error_at(ErrorKind::Corrupt, line, what));
            }
        }
        Ok(())
    }
}

/// `strtoul` with base 0 on the whole string: decimal, `0x` hexadecimal, `0` octal.
pub(super) fn parse_number(s: &str) -> Option<u64> {
    let (digits, radix) = match s.strip_prefix("0x").or_else(|| s.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if s.len() > 1 && s.starts_with('0') => (&s[1..], 8),
        None => (s, 10),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None; // from_str_radix would accept a sign
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Words that start a Python statement or continue an expression.
const PYTHON_WORDS: &[&str] = &[
    "import", "from", "def", "if", "elif", "else", "for", "while", "in", "not", "and", "or", "is",
    "try", "except", "finally", "raise", "return", "print", "class", "lambda", "with", "exec",
    "del", "pass", "global", "assert", "True", "False", "None",
];

/// Characters that occur in Python expressions.
const PYTHON_OPERATORS: &[char] = &['+', '%', '.', '(', ')', '{', '}', '*', ':'];

fn python(line: u32, word: &str) -> Error {
    let advice = match word {
        "True" => "write 1 instead",
        "False" => "write 0 instead",
        _ => "print the value that it computes and write a plain assignment, name = 'value'",
    };
    let word = clip(word);
    error_at(
        ErrorKind::Unsupported,
        line,
        format!("'{word}' is Python, which xm accepted and xl does not: {advice}"),
    )
}

/// The error for a value without quotes, as in `name = web1`.
fn bare_word(line: u32, word: &str) -> Error {
    let word = clip(word);
    let what = format!(
        "'{word}' is neither a number nor a string in quotes; write '{word}' with its quotes, or, if \
         it is a variable of an old xm config, its value"
    );
    error_at(ErrorKind::Corrupt, line, what)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    current: Option<(Token, u32)>,
    /// Line of the last token that was read.
    line: u32,
}

impl<'a> Parser<'a> {
    fn new(mut lexer: Lexer<'a>) -> Result<Self> {
        let current = lexer.next()?;
        Ok(Self { lexer, current, line: 1 })
    }

    fn peek(&self) -> Option<&Token> {
        self.current.as_ref().map(|(token, _)| token)
    }

    fn take(&mut self) -> Result<Option<(Token, u32)>> {
        let next = self.lexer.next()?;
        let taken = std::mem::replace(&mut self.current, next);
        if let Some((_, line)) = &taken {
            self.line = *line;
        }
        Ok(taken)
    }

    fn file(mut self) -> Result<Config> {
        let mut config = Config::default();
        while let Some((token, line)) = self.take()? {
            match token {
                Token::Newline | Token::Semicolon => {}
                Token::Ident(name) => self.assignment(&mut config, name, line)?,
                Token::Other('@') => return Err(python(line, "@")),
                other => {
                    let found = other.describe();
                    let what = format!("expected 'name = value', found {found}");
                    return Err(error_at(ErrorKind::Corrupt, line, what));
                }
            }
        }
        Ok(config)
    }

    /// Parses the rest of an assignment whose name has been read.
    fn assignment(&mut self, config: &mut Config, name: String, line: u32) -> Result<()> {
        let add = match self.take()? {
            Some((Token::Assign, _)) => false,
            Some((Token::Add, _)) => true,
            Some((Token::Other('(' | '.'), _) | (Token::Open, _)) => {
                return Err(python(line, &name));
            }
            _ if PYTHON_WORDS.contains(&name.as_str()) => return Err(python(line, &name)),
            found => {
                let name = clip(&name);
                let found = found.map_or("the end of the file".into(), |(t, _)| t.describe());
                let what = format!("expected '=' or '+=' after '{name}', found {found}");
                return Err(error_at(ErrorKind::Corrupt, line, what));
            }
        };
        let value = self.value(0)?;
        match self.take()? {
            None | Some((Token::Newline | Token::Semicolon, _)) => {}
            Some((token, line)) => return Err(unexpected(&token, line, "the end of the line")),
        }
        if add {
            config.add(name, line, value)?;
        } else {
            config.assign(name, line, value);
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        let Some((token, line)) = self.take()? else {
            return Err(error_at(ErrorKind::Corrupt, self.line, "the file ends without a value"));
        };
        match token {
            Token::Str(s) => Ok(Value::String(s)),
            Token::Number(text) => match parse_number(&text) {
                Some(value) => Ok(Value::Number(Number { value, text })),
                None => {
                    let text = clip(&text);
                    let what = format!("'{text}' is not a number; put a string in quotes");
                    Err(error_at(ErrorKind::Corrupt, line, what))
                }
            },
            Token::Open if depth == MAX_DEPTH => {
                let what = format!("lists are nested too deeply (limit {MAX_DEPTH})");
                Err(error_at(ErrorKind::Unsupported, line, what))
            }
            Token::Open => self.list(line, depth + 1).map(Value::List),
            Token::Ident(word) if !self.is_in_python(&word) => Err(bare_word(line, &word)),
            other => Err(unexpected(&other, line, "a string in quotes, a number or a list")),
        }
    }

    /// Whether a bare word in place of a value is a Python expression, judging by the word itself
    /// or by the token after it.
    fn is_in_python(&self, word: &str) -> bool {
        PYTHON_WORDS.contains(&word)
            || match self.peek() {
                Some(Token::Other(c)) => PYTHON_OPERATORS.contains(c),
                Some(Token::Open) => true,
                Some(Token::Ident(next)) => PYTHON_WORDS.contains(&next.as_str()),
                _ => false,
            }
    }

    /// The elements up to the closing bracket; newlines may separate any of them.
    fn list(&mut self, open: u32, depth: usize) -> Result<Vec<ListItem>> {
        let mut items = Vec::new();
        loop {
            self.newlines()?;
            match self.current {
                Some((Token::Close, _)) => {
                    self.take()?;
                    return Ok(items);
                }
                Some((_, line)) => items.push(ListItem { line, value: self.value(depth)? }),
                None => break,
            }
            self.newlines()?;
            match self.take()? {
                Some((Token::Comma, _)) => {}
                Some((Token::Close, _)) => return Ok(items),
                Some((token, line)) => return Err(unexpected(&token, line, "',' or ']'")),
                None => break,
            }
        }
        let what = "the list that starts here is never closed with ']'";
        Err(error_at(ErrorKind::Corrupt, open, what))
    }

    fn newlines(&mut self) -> Result<()> {
        while self.peek() == Some(&Token::Newline) {
            self.take()?;
        }
        Ok(())
    }
}

/// The error for a token that the grammar doesn't allow here: Python, or a typing error.
fn unexpected(token: &Token, line: u32, wanted: &str) -> Error {
    match token {
        Token::Ident(word) if wanted.starts_with("a string") || PYTHON_WORDS.contains(&&**word) => {
            python(line, word)
        }
        Token::Other(c) if PYTHON_OPERATORS.contains(c) => python(line, c.encode_utf8(&mut [0; 4])),
        Token::Open => python(line, "["),
        other => {
            let found = other.describe();
            error_at(ErrorKind::Corrupt, line, format!("expected {wanted}, found {found}"))
        }
    }
}
