//! Version comparison, as defined by the package managers that ship kernels.

use std::cmp::Ordering;

/// Debian's ordering of upstream versions and revisions (deb-version(7), without epoch): letters
/// sort before other characters, `~` before everything, even the end; runs of digits compare by
/// value.
pub fn debian_cmp(a: &str, b: &str) -> Ordering {
    fn rank(c: Option<u8>) -> i32 {
        match c {
            None => 0,
            Some(b'~') => -1,
            Some(c) if c.is_ascii_digit() => 0,
            Some(c) if c.is_ascii_alphabetic() => i32::from(c),
            Some(c) => i32::from(c) + 256,
        }
    }
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (x, y) = (a.first().copied(), b.first().copied());
            let is_text = |c: Option<u8>| c.is_some_and(|c| !c.is_ascii_digit());
            if !is_text(x) && !is_text(y) {
                break;
            }
            match rank(x).cmp(&rank(y)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            // If ranks are equal and one side has text, both have the same character.
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (x, y);
        (x, a) = digits(a);
        (y, b) = digits(b);
        match compare_numbers(x, y) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
    Ordering::Equal
}

/// RPM's ordering of versions (rpm `rpmio/rpmvercmp.c`): runs of digits or letters are compared,
/// separators only separate them, digits are newer than letters, `~` sorts before and `^` after the
/// end.
pub fn rpm_cmp(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    let skip = |s: &mut &[u8]| {
        let n = s.iter().take_while(|c| !c.is_ascii_alphanumeric() && !b"~^".contains(c)).count();
        *s = &s[n..];
    };
    loop {
        skip(&mut a);
        skip(&mut b);
        let (x, y) = (a.first().copied(), b.first().copied());
        match (x, y) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), _) => return Ordering::Less,
            (_, Some(b'^')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) => match (x.is_ascii_digit(), y.is_ascii_digit()) {
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (numbers, _) => {
                    let (m, n);
                    let order;
                    if numbers {
                        (m, a) = digits(a);
                        (n, b) = digits(b);
                        order = compare_numbers(m, n);
                    } else {
                        (m, a) = split_while(a, u8::is_ascii_alphabetic);
                        (n, b) = split_while(b, u8::is_ascii_alphabetic);
                        order = m.cmp(n);
                    }
                    if order != Ordering::Equal {
                        return order;
                    }
                }
            },
        }
    }
}

fn digits(s: &[u8]) -> (&[u8], &[u8]) {
    split_while(s, u8::is_ascii_digit)
}

fn split_while(s: &[u8], f: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    s.split_at(s.iter().take_while(|c| f(c)).count())
}

/// Compares decimal numbers of any length.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let a = &a[a.iter().take_while(|c| **c == b'0').count()..];
    let b = &b[b.iter().take_while(|c| **c == b'0').count()..];
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        for (older, newer) in [
            ("5.10.0-8-amd64", "5.10.0-23-amd64"),
            ("6.1.0-9-amd64", "6.1.0-10-amd64"),
            ("6.1~rc3", "6.1"),
            ("6.1.0-50-amd64", "6.12.1-amd64"),
            ("2.6.32-5-xen-amd64", "3.2.0-4-amd64"),
        ] {
            assert_eq!(debian_cmp(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(debian_cmp(newer, older), Ordering::Greater, "{older} {newer}");
            assert_eq!(rpm_cmp(older, newer), Ordering::Less, "{older} {newer}");
        }
        for (older, newer) in [
            ("5.14.0-70.el9.x86_64", "5.14.0-70.13.1.el9.x86_64"),
            ("1.0~rc1", "1.0"),
            ("1.0", "1.0^git1"),
            ("1.0^git1", "1.0.1"),
            ("a", "1"),
            ("10", "10a"),
        ] {
            assert_eq!(rpm_cmp(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(rpm_cmp(newer, older), Ordering::Greater, "{older} {newer}");
        }
        for equal in ["", "1.0", "x-1", "é~^"] {
            assert_eq!(debian_cmp(equal, equal), Ordering::Equal);
            assert_eq!(rpm_cmp(equal, equal), Ordering::Equal);
        }
        assert_eq!(debian_cmp("1.01", "1.1"), Ordering::Equal);
        assert_eq!(rpm_cmp("1_1", "1.01"), Ordering::Equal);
    }
}
