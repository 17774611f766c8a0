//! A Rust source file as tokens, and the module paths that it names.

/// A token; everything but identifiers, `::` and single punctuation is left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Token {
    Ident(String),
    PathSep,
    Punct(char),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Ident(ident) if ident == word)
    }
}

/// The tokens of `source`, without comments, literals and lifetimes.
pub fn lex(source: &str) -> Vec<Token> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    while at < bytes.len() {
        let rest = &source[at..];
        let b = bytes[at];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if let Some(len) = raw_string(rest) {
            at += len;
        } else if b == b'"' || rest.starts_with("b\"") || rest.starts_with("c\"") {
            at += if b == b'"' { 1 } else { 2 };
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if b == b'\'' {
            // A character literal ends within a few bytes; a lifetime has no second quote.
            let mut chars = rest.char_indices().skip(1);
            let (_, first) = chars.next().unwrap_or((1, ' '));
            if first == '\\' {
                at += 3;
                at += source[at..].find('\'').unwrap_or(0) + 1;
            } else if let Some((end, '\'')) = chars.next() {
                at += end + 1;
            } else {
                at += 1;
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
        } else if is_word(b) {
            let len = rest.bytes().take_while(|b| is_word(*b)).count();
            tokens.push(Token::Ident(rest[..len].to_owned()));
            at += len;
        } else if rest.starts_with("::") {
            tokens.push(Token::PathSep);
            at += 2;
        } else {
            if !b.is_ascii_whitespace() {
                tokens.push(Token::Punct(char::from(b)));
            }
            at += 1;
        }
    }
    tokens
}

/// The length of the raw string that `rest` starts with.
fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.bytes().take_while(|b| *b == b'#').count();
    let text = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - text.len();
    Some(start + text.find(&end).map_or(text.len(), |at| at + end.len()))
}

/// One path as a file names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedPath {
    /// Its segments; the last is `*` for a glob import.
    pub segments: Vec<String>,
    /// How many inline modules (`mod x { … }`) it stands in.
    pub inline: usize,
    /// Whether it is imported by `pub use`.
    pub reexport: bool,
    /// Whether it is imported.
    pub import: bool,
}

/// What a file declares and names, without its `#[cfg(test)]` parts.
#[derive(Debug, Default)]
pub struct Source {
    /// Modules declared by `mod x;`.
    pub children: Vec<String>,
    /// Of these, those for tests.
    pub test_children: Vec<String>,
    /// Every path of two segments or more, and every import.
    pub paths: Vec<NamedPath>,
    /// Names of items that are defined here.
    pub items: Vec<String>,
    /// Every identifier outside of imports.
    pub words: Vec<String>,
}

/// Reads a source file.
pub fn read(source: &str) -> Source {
    let tokens = lex(source);
    let mut out = Source::default();
    let mut inline_ends: Vec<usize> = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    let mut test_only = false;
    let ident = |at: usize| match tokens.get(at) {
        Some(Token::Ident(name)) => Some(name.as_str()),
        _ => None,
    };
    let punct = |at: usize, c: char| tokens.get(at) == Some(&Token::Punct(c));
    while at < tokens.len() {
        if is_cfg_test(&tokens[at..]) {
            test_only = true;
            at += 7;
            continue;
        }
        if test_only {
            // Further attributes and the visibility belong to the same item.
            if let (Some("mod"), Some(name), true) = (ident(at), ident(at + 1), punct(at + 2, ';'))
            {
                out.test_children.push(name.to_owned());
            }
            let (end, ended) = skip_step(&tokens, at);
            at = end;
            test_only = !ended;
            continue;
        }
        match &tokens[at] {
            Token::Punct('{') => depth += 1,
            Token::Punct('}') => {
                depth = depth.saturating_sub(1);
                if inline_ends.last() == Some(&depth) {
                    inline_ends.pop();
                }
            }
            Token::Ident(word) if word == "mod" && punct(at + 2, ';') => {
                out.children.extend(ident(at + 1).map(str::to_owned));
                at += 3;
                continue;
            }
            Token::Ident(word) if word == "mod" && punct(at + 2, '{') => {
                out.items.extend(ident(at + 1).map(str::to_owned));
                inline_ends.push(depth);
                depth += 1;
                at += 3;
                continue;
            }
            Token::Ident(word) if word == "use" && !punct(at + 1, '<') => {
                let reexport = is_public(&tokens[..at]);
                let mut leaves = Vec::new();
                at = use_tree(&tokens, at + 1, &[], &mut leaves);
                let inline = inline_ends.len();
                out.paths.extend(leaves.into_iter().map(|segments| NamedPath {
                    segments,
                    inline,
                    reexport,
                    import: true,
                }));
                continue;
            }
            // `pub(in a::b)` says who may use an item, and uses nothing itself.
            Token::Ident(word) if word == "in" && at > 1 && tokens[at - 2].is("pub") => {
                at += tokens[at..].iter().position(|t| *t == Token::Punct(')')).unwrap_or(1);
                continue;
            }
            Token::Ident(word) => {
                let before = at.checked_sub(1).map(|i| &tokens[i]);
                let item = ["fn", "struct", "enum", "trait", "const", "static", "type", "union"];
                if before.is_some_and(|b| item.iter().any(|i| b.is(i)))
                    || (before == Some(&Token::Punct('!'))
                        && at > 1
                        && tokens[at - 2].is("macro_rules"))
                {
                    out.items.push(word.clone());
                }
                out.words.push(word.clone());
                if before != Some(&Token::PathSep) && tokens.get(at + 1) == Some(&Token::PathSep) {
                    let mut segments = vec![word.clone()];
                    let mut next = at + 1;
                    while let (Some(Token::PathSep), Some(name)) =
                        (tokens.get(next), ident(next + 1))
                    {
                        segments.push(name.to_owned());
                        next += 2;
                    }
                    let inline = inline_ends.len();
                    if segments.len() > 1 {
                        let (reexport, import) = (false, false);
                        out.paths.push(NamedPath { segments, inline, reexport, import });
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// Whether `#[cfg(test)]` stands here.
fn is_cfg_test(tokens: &[Token]) -> bool {
    let p = Token::Punct;
    tokens.len() >= 7
        && tokens[..2] == [p('#'), p('[')]
        && tokens[2].is("cfg")
        && tokens[3] == p('(')
        && tokens[4].is("test")
        && tokens[5..7] == [p(')'), p(']')]
}

/// Skips a token, or a whole block, of an item for tests; whether the item ends there.
fn skip_step(tokens: &[Token], at: usize) -> (usize, bool) {
    let (open, close, ends) = match tokens[at] {
        Token::Punct('{') => ('{', '}', true),
        Token::Punct('[') => ('[', ']', false),
        Token::Punct('(') => ('(', ')', false),
        Token::Punct(';') => return (at + 1, true),
        _ => return (at + 1, false),
    };
    let mut level = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        if *token == Token::Punct(open) {
            level += 1;
        } else if *token == Token::Punct(close) {
            level -= 1;
            if level == 0 {
                return (i + 1, ends);
            }
        }
    }
    (tokens.len(), true)
}

/// Whether the tokens before `use` make it public: `pub`, `pub(crate)`, `pub(in a::b)`.
fn is_public(before: &[Token]) -> bool {
    match before.last() {
        Some(token) if token.is("pub") => true,
        Some(Token::Punct(')')) => {
            let open = before.iter().rposition(|t| *t == Token::Punct('('));
            open.and_then(|at| at.checked_sub(1)).is_some_and(|at| before[at].is("pub"))
        }
        _ => false,
    }
}

/// Reads one tree of a `use` declaration; returns the index after it.
fn use_tree(
    tokens: &[Token],
    mut at: usize,
    front: &[String],
    out: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = front.to_vec();
    while at < tokens.len() {
        match &tokens[at] {
            Token::Ident(word) if word == "as" => {
                at += 2;
                break;
            }
            Token::Ident(word) => {
                path.push(word.clone());
                at += 1;
            }
            Token::PathSep => at += 1,
            Token::Punct('*') => {
                path.push("*".to_owned());
                at += 1;
            }
            Token::Punct('{') => {
                at += 1;
                while at < tokens.len() && tokens[at] != Token::Punct('}') {
                    at = use_tree(tokens, at, &path, out);
                    if tokens.get(at) == Some(&Token::Punct(',')) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => break,
        }
    }
    // `use a::{self}` names `a`.
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if !path.is_empty() {
        out.push(path);
    }
    at
}

#[test]
fn paths_of_a_file() {
    let source = read(
        r##"
        //! `use crate::comment::X;`
        pub(crate) use self::child::{Own, deep::{self, Er}};
        use crate::{a::b, c::*};
        mod child;
        #[cfg(test)]
        #[path = "x"]
        mod tests { use crate::test_only::X; }
        #[cfg(test)] mod more_tests;
        mod inner { use super::super::up::Y; }
        pub(in crate::visible) fn f<'a>(x: &'a str) -> char { let _ = ("crate::text::T", r#"crate::raw::"T"#, '"', '\''); crate::called::g(); x.y::<crate::turbo::Fish>(); 'c' }
        "##,
    );
    let got: Vec<String> = source
        .paths
        .iter()
        .map(|p| {
            format!(
                "{}{}{}",
                p.segments.join("::"),
                "^".repeat(p.inline),
                if p.reexport { " pub" } else { "" }
            )
        })
        .collect();
    assert_eq!(
        got,
        [
            "self::child::Own pub",
            "self::child::deep pub",
            "self::child::deep::Er pub",
            "crate::a::b",
            "crate::c::*",
            "super::super::up::Y^",
            "crate::called::g",
            "crate::turbo::Fish",
        ]
    );
    assert_eq!(
        (source.children, source.test_children),
        (vec!["child".to_owned()], vec!["more_tests".to_owned()])
    );
    assert_eq!(source.items, ["inner", "f"]);
}
