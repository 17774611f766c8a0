//! The lexer of GRUB 2's script language: what a shell-like script is made of, before anything is
//! expanded or run.
//!
//! Source: GNU GRUB manual, "Shell-like scripting"; `grub-core/script/yylex.l`.

/// A piece of a word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// Text; whether it stood in quotes.
    Text(String, bool),
    /// The name of a variable; whether it stood in double quotes.
    Variable(String, bool),
}

/// A word or the end of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Token {
    /// A word of one or more parts.
    Word(Vec<Part>),
    /// A newline or semicolon.
    End,
}

impl Token {
    /// The word's text, if it is plain: unquoted and without variables, as keywords must be.
    pub(super) fn keyword(&self) -> Option<&str> {
        match self {
            Self::Word(parts) => match &parts[..] {
                [Part::Text(text, false)] => Some(text),
                _ => None,
            },
            Self::End => None,
        }
    }
}

/// Splits a script into tokens. Never fails: an open quote ends with the text.
pub(super) fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { tokens: Vec::new(), word: None, chars: text.chars().peekable() };
    lexer.run();
    lexer.tokens
}

struct Lexer<'a> {
    tokens: Vec<Token>,
    /// The word that is being read; `Some` and empty after an empty pair of quotes.
    word: Option<Vec<Part>>,
    chars: std::iter::Peekable<std::str::Chars<'a>>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(c) = self.chars.next() {
            match c {
                '\n' | ';' => {
                    self.end_word();
                    self.tokens.push(Token::End);
                }
                c if c.is_whitespace() => self.end_word(),
                '#' if self.word.is_none() => while self.chars.next_if(|c| *c != '\n').is_some() {},
                '{' | '}' if self.word.is_none() && self.at_word_end() => {
                    // A brace alone closes or opens a block, wherever it stands.
                    if c == '}' {
                        self.tokens.push(Token::End);
                    }
                    self.push(c, false);
                    self.end_word();
                }
                '\\' => match self.chars.next() {
                    Some('\n') | None => {}
                    Some(c) => self.push(c, true),
                },
                '\'' => {
                    self.open(true);
                    while let Some(c) = self.chars.next_if(|c| *c != '\'') {
                        self.push(c, true);
                    }
                    self.chars.next();
                }
                '"' => self.double_quoted(),
                '$' => self.variable(false),
                c => self.push(c, false),
            }
        }
        self.end_word();
        self.tokens.push(Token::End);
    }

    fn at_word_end(&mut self) -> bool {
        self.chars.peek().is_none_or(|c| c.is_whitespace() || *c == ';')
    }

    fn double_quoted(&mut self) {
        self.open(true);
        while let Some(c) = self.chars.next() {
            match c {
                '"' => break,
                '\\' => match self.chars.next() {
                    Some('\n') | None => {}
                    Some(c @ ('"' | '\\' | '$')) => self.push(c, true),
                    Some(c) => {
                        self.push('\\', true);
                        self.push(c, true);
                    }
                },
                '$' => self.variable(true),
                c => self.push(c, true),
            }
        }
    }

    fn variable(&mut self, quoted: bool) {
        let braced = self.chars.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || "_?@*".contains(*c))
        {
            name.push(c);
        }
        if braced {
            self.chars.next_if_eq(&'}');
        } else if name.is_empty() {
            self.push('$', quoted);
            return;
        }
        self.word.get_or_insert_default().push(Part::Variable(name, quoted));
    }

    fn open(&mut self, quoted: bool) {
        self.word.get_or_insert_default().push(Part::Text(String::new(), quoted));
    }

    fn push(&mut self, c: char, quoted: bool) {
        let word = self.word.get_or_insert_default();
        match word.last_mut() {
            Some(Part::Text(text, q)) if *q == quoted => text.push(c),
            _ => word.push(Part::Text(c.to_string(), quoted)),
        }
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take() {
            self.tokens.push(Token::Word(word));
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
                Token::Word(parts) => parts
                    .iter()
                    .map(|p| match p {
                        Part::Text(t, q) => format!("{}{t}", if *q { "'" } else { "" }),
                        Part::Variable(v, q) => format!("{}${v}", if *q { "'" } else { "" }),
                    })
                    .collect::<Vec<_>>()
                    .join("+"),
            };
            lex(text).iter().map(word).collect::<Vec<_>>().join(" ")
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
