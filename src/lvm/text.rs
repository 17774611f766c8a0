//! The grammar of LVM2's metadata: sections in braces, and assignments of numbers, strings and
//! lists.

use crate::{Error, ErrorKind, Result};

/// Deepest nesting of sections; LVM's own have four levels.
const MAX_DEPTH: usize = 8;
/// Most entries and list members in a text.
const MAX_ITEMS: usize = 300_000;

/// The content of a section, in order.
#[derive(Debug, Default)]
pub(super) struct Section<'a>(Vec<(&'a str, Item<'a>)>);

#[derive(Debug)]
pub(super) enum Item<'a> {
    Section(Section<'a>),
    /// A single value is a list of one.
    List(Vec<Value<'a>>),
}

/// A value. Fractions and negative numbers, which nothing needed here has, are `Other`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Value<'a> {
    Number(u64),
    /// As written, with its escapes: names and identifiers have none.
    Text(&'a str),
    Other,
}

impl<'a> Section<'a> {
    /// Parses a whole text.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] with the line; [`ErrorKind::TooLarge`] for too many entries.
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let mut parser = Parser { text, at: 0, items: 0 };
        let section = parser.section(0)?;
        match parser.peek() {
            None => Ok(section),
            Some(_) => Err(parser.error()),
        }
    }

    /// The sections in it, in order.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'a str, &Section<'a>)> {
        self.0.iter().filter_map(|(name, item)| match item {
            Item::Section(section) => Some((*name, section)),
            Item::List(_) => None,
        })
    }

    /// The section `name`.
    pub(super) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections().find(|(n, _)| *n == name).map(|(_, section)| section)
    }

    /// The values of `name`.
    pub(super) fn list(&self, name: &str) -> Option<&[Value<'a>]> {
        self.0.iter().find_map(|(n, item)| match item {
            Item::List(values) if *n == name => Some(values.as_slice()),
            _ => None,
        })
    }

    /// The number `name`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.list(name)? {
            [Value::Number(number)] => Some(*number),
            _ => None,
        }
    }

    /// The string `name`.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        match self.list(name)? {
            [Value::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the list `name` contains the string `word`.
    pub(super) fn says(&self, name: &str, word: &str) -> bool {
        self.list(name).is_some_and(|values| values.contains(&Value::Text(word)))
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    items: usize,
}

impl<'a> Parser<'a> {
    /// Everything up to the end of the text, or a closing brace, which is not consumed.
    fn section(&mut self, depth: usize) -> Result<Section<'a>> {
        let mut entries = Vec::new();
        while self.peek().is_some_and(|b| b != b'}') {
            let name = self.name()?;
            self.count()?;
            let item = match self.peek() {
                Some(b'{') if depth < MAX_DEPTH => {
                    self.at += 1;
                    let section = self.section(depth + 1)?;
                    self.expect(b'}')?;
                    Item::Section(section)
                }
                Some(b'=') => {
                    self.at += 1;
                    Item::List(self.values()?)
                }
                _ => return Err(self.error()),
            };
            entries.push((name, item));
        }
        Ok(Section(entries))
    }

    fn values(&mut self) -> Result<Vec<Value<'a>>> {
        if self.peek() != Some(b'[') {
            return Ok(vec![self.value()?]);
        }
        self.at += 1;
        let mut values = Vec::new();
        loop {
            if self.peek() == Some(b']') {
                break;
            }
            self.count()?;
            values.push(self.value()?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {}
                _ => return Err(self.error()),
            }
        }
        self.expect(b']')?;
        Ok(values)
    }

    fn value(&mut self) -> Result<Value<'a>> {
        if self.peek() == Some(b'"') {
            self.at += 1;
            return self.string().map(Value::Text);
        }
        let word = self.word(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))?;
        let number = word.parse().map_or(Value::Other, Value::Number);
        let is_number = word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        if is_number { Ok(number) } else { Err(self.error()) }
    }

    /// A string whose opening quote was consumed.
    fn string(&mut self) -> Result<&'a str> {
        let rest = &self.text.as_bytes()[self.at..];
        let mut len = 0;
        loop {
            match rest.get(len) {
                None => return Err(self.error()),
                Some(b'"') => break,
                Some(b'\\') => len += 2,
                Some(_) => len += 1,
            }
        }
        // Both ends are next to an ASCII character.
        let string = self.text.get(self.at..self.at + len).ok_or_else(|| self.error())?;
        self.at += len + 1;
        Ok(string)
    }

    fn name(&mut self) -> Result<&'a str> {
        self.word(|b| !b.is_ascii_whitespace() && !b"#={}[],\"".contains(&b))
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool) -> Result<&'a str> {
        self.peek();
        let rest = &self.text.as_bytes()[self.at..];
        let len = rest.iter().position(|b| !belongs(*b)).unwrap_or(rest.len());
        let word = self.text.get(self.at..self.at + len).filter(|word| !word.is_empty());
        let word = word.ok_or_else(|| self.error())?;
        self.at += len;
        Ok(word)
    }

    /// The next byte that is neither white space nor in a comment.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at)? {
                b'#' => {
                    let rest = &bytes[self.at..];
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                b if b.is_ascii_whitespace() => self.at += 1,
                b => return Some(*b),
            }
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<()> {
        if self.peek() != Some(wanted) {
            return Err(self.error());
        }
        self.at += 1;
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.items += 1;
        if self.items > MAX_ITEMS {
            let what = format!("its metadata has more than {MAX_ITEMS} entries");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        Ok(())
    }

    fn error(&self) -> Error {
        let read = self.text.as_bytes().get(..self.at).unwrap_or_default();
        let line = 1 + read.iter().filter(|b| **b == b'\n').count();
        let what = format!("line {line} of its metadata cannot be understood");
        Error::new(ErrorKind::Corrupt, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_values() {
        let text = "# a comment\na {\n\tb = 7\t# seven\n c=\"x # \\\"y\\\"\" d = [\"p\", 3,\n -4 ]\n\
                    e { } f = []\n}\ng = 1.5 a = 9 lv-1+x.y { z = [1,] }";
        let root = Section::parse(text).unwrap();
        let a = root.section("a").unwrap();
        assert_eq!((a.number("b"), a.text("c")), (Some(7), Some("x # \\\"y\\\"")));
        let list = [Value::Text("p"), Value::Number(3), Value::Other];
        assert_eq!(a.list("d"), Some(&list[..]));
        assert!(a.says("d", "p") && !a.says("d", "q") && !a.says("e", "p"));
        assert_eq!(a.list("f"), Some(&[][..]));
        assert_eq!((root.number("g"), root.number("a"), root.number("b")), (None, Some(9), None));
        let names: Vec<_> = root.sections().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "lv-1+x.y"]);
        assert!(Section::parse("").unwrap().list("a").is_none());
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [
            ("a", 1),
            ("\n\na = ", 3),
            ("a {\n", 2),
            ("}", 1),
            ("a = \"x", 1),
            ("a = \"x\\", 1),
            ("a = [1 2]", 1),
            ("a = [1", 1),
            ("a = x", 1),
            ("a = {}", 1),
            ("= 1", 1),
            ("a = \"\\ü", 1),
            ("ü ü", 1),
        ] {
            let e = Section::parse(text).unwrap_err();
            let expected = format!("line {line} of its metadata cannot be understood");
            assert_eq!(e.to_string(), expected, "{text:?}");
        }
    }

    #[test]
    fn limits() {
        let deep = |n| format!("{}{}", "a {".repeat(n), "}".repeat(n));
        assert!(Section::parse(&deep(MAX_DEPTH)).is_ok());
        assert!(Section::parse(&deep(MAX_DEPTH + 1)).is_err());
        assert!(Section::parse(&"a {".repeat(1_000_000)).is_err());
        let many = |n| format!("a = [{}]", "1,".repeat(n));
        assert!(Section::parse(&many(MAX_ITEMS - 1)).is_ok());
        assert_eq!(Section::parse(&many(MAX_ITEMS)).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
