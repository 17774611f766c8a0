//! A console's output with its colours: "select graphic rendition" of ECMA-48 becomes classes, every other
//! control sequence is left out.

use super::html::Html;

/// How text looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Look {
    /// 0 to 15; bright ones from 8 on.
    colour: Option<u8>,
    bold: bool,
}

/// Write `bytes` as text with colours.
pub(super) fn write(out: &mut Html, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (mut look, mut shown) = (Look::default(), Look::default());
    let mut run = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                Some('[') => {
                    let mut parameters = String::new();
                    let last = loop {
                        match chars.next() {
                            Some(c @ '\u{20}'..='\u{3f}') if parameters.len() < 64 => {
                                parameters.push(c)
                            }
                            Some('\u{20}'..='\u{3f}') => {}
                            other => break other,
                        }
                    };
                    if last == Some('m') {
                        look = changed(look, &parameters);
                    }
                }
                // A string: up to BEL, ESC \ or the end of the line.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some(c) = chars.peek().copied() {
                        if c == '\n' {
                            break;
                        }
                        chars.next();
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                Some('\u{20}'..='\u{2f}') => drop(chars.next()),
                _ => {}
            },
            '\r' | '\u{7}' | '\0' => {}
            '\u{8}' => drop(run.pop()),
            c => {
                if look != shown {
                    flush(out, &mut run, shown);
                    shown = look;
                }
                run.push(c);
            }
        }
    }
    flush(out, &mut run, shown);
}

fn flush(out: &mut Html, run: &mut String, look: Look) {
    if look == Look::default() {
        out.text(run);
    } else if !run.is_empty() {
        out.raw("<span class=\"");
        if let Some(colour) = look.colour {
            out.raw("c").number(f64::from(colour), 0);
        }
        if look.bold {
            out.raw(" b");
        }
        out.raw("\">").text(run).raw("</span>");
    }
    run.clear();
}

fn changed(mut look: Look, parameters: &str) -> Look {
    for word in parameters.split(';') {
        match word.parse::<u8>().unwrap_or(0) {
            0 => look = Look::default(),
            1 => look.bold = true,
            22 => look.bold = false,
            // 256 colours and more: what follows are numbers of another kind.
            38 | 48 => break,
            39 => look.colour = None,
            n @ 30..=37 => look.colour = Some(n - 30),
            n @ 90..=97 => look.colour = Some(n - 82),
            _ => {}
        }
    }
    look
}
