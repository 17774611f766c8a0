//! The guest's name: hostname(5), hosts(5), and where older distributions keep it.

use super::guest_text::text_of;
use crate::edit::Draft;
use crate::{Error, ErrorKind, Result};
use std::fmt;

/// A name that a Linux machine can have.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Hostname(String);

/// Linux's limit in bytes (`__NEW_UTS_LEN`).
const MAX: usize = 64;

impl Hostname {
    /// Check `name`: letters, digits and hyphens, separated by dots (RFC 1123, section 2.1), at
    /// most 64 bytes in total.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`], saying what is wrong.
    pub fn parse(name: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Err(Error::new(ErrorKind::Usage, format!("'{name}' can be no hostname: {why}")))
        };
        if name.len() > MAX {
            return wrong("Linux takes 64 bytes at most");
        }
        let label = |l: &str| {
            let ends = !l.starts_with('-') && !l.ends_with('-');
            let all = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            (1..=63).contains(&l.len()) && ends && all
        };
        if !name.split('.').all(label) {
            return wrong(
                "it is letters, digits and hyphens, with dots between labels of at most 63, and no \
                 label begins or ends with a hyphen",
            );
        }
        if name.parse::<std::net::Ipv4Addr>().is_ok() {
            return wrong("it is an address");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const HOSTNAME: &str = "/etc/hostname";
/// SUSE, Slackware.
const UPPER: &str = "/etc/HOSTNAME";
/// Red Hat before systemd.
const SYSCONFIG: &str = "/etc/sysconfig/network";
/// Gentoo.
const CONF_D: &str = "/etc/conf.d/hostname";

pub(super) fn draft(draft: &mut Draft, new: &Hostname) -> Result<()> {
    let new = new.as_str();
    let old = current(draft);
    let why = |old: Option<&str>| match old {
        Some(old) => format!("{old} became {new}"),
        None => format!("the name is {new}"),
    };
    let old = old.as_deref();
    let elsewhere = [SYSCONFIG, CONF_D, UPPER].iter().any(|path| draft.exists(path));
    for path in [HOSTNAME, UPPER] {
        let own = text_of(draft, path)?;
        let wanted = match &own {
            // A name that differs, for example by a domain, keeps the difference.
            Some(text) => {
                let name = first_name(text).unwrap_or_default();
                old.and_then(|old| renamed(name, old, new)).unwrap_or_else(|| new.to_owned())
            }
            None if path == HOSTNAME && !elsewhere => new.to_owned(),
            None => continue,
        };
        if own.as_deref().and_then(first_name) != Some(&wanted) {
            draft.rewrite(path, format!("{wanted}\n"), why(old));
        }
    }
    let in_sysconfig = !draft.exists(HOSTNAME) && !draft.exists(UPPER) && !draft.exists(CONF_D);
    draft.edit(SYSCONFIG, |text| {
        let text = set(text, "HOSTNAME", new, in_sysconfig)?;
        Some((text, why(old)))
    });
    draft
        .edit(CONF_D, |text| Some((set(text, "hostname", &format!("\"{new}\""), true)?, why(old))));
    if let Some(old) = old {
        draft.edit("/etc/hosts", |text| Some((hosts(text, old, new)?, why(Some(old)))));
        draft.edit("/etc/mailname", |text| {
            let name = renamed(text.trim(), old, new)?;
            Some((format!("{name}\n"), why(Some(old))))
        });
    }
    Ok(())
}

/// The name that the guest has now.
fn current(draft: &Draft) -> Option<String> {
    let plain = |path| first_name(&draft.text(path)?).map(str::to_owned);
    let value = |path, key: &str| {
        let text = draft.text(path)?;
        let value = text.lines().filter_map(|l| assigned(l, key)).next_back()?;
        Some(value.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
    };
    plain(HOSTNAME)
        .or_else(|| value(SYSCONFIG, "HOSTNAME"))
        .or_else(|| value(CONF_D, "hostname"))
        .or_else(|| plain(UPPER))
}

/// The name in a file that holds nothing else except comments.
fn first_name(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The value that `line` assigns to the shell variable `key`.
fn assigned<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.trim().strip_prefix(key)?.strip_prefix('=').map(str::trim)
}

/// `text` with the variable `key` set to `value`; appended if missing and `add` is set. `None` when
/// nothing changes.
fn set(text: &str, key: &str, value: &str, add: bool) -> Option<String> {
    let mut found = false;
    let mut out = String::with_capacity(text.len() + 80);
    for line in text.split_inclusive('\n') {
        let is_it = assigned(line, key).is_some();
        found |= is_it;
        out.push_str(&if is_it { format!("{key}={value}\n") } else { line.to_owned() });
    }
    if !found && add {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(&format!("{key}={value}\n"));
    }
    (out != text).then_some(out)
}

/// What `token` becomes when `old` is renamed to `new`; `None` when it is not a form of `old`.
fn renamed(token: &str, old: &str, new: &str) -> Option<String> {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    if token.eq_ignore_ascii_case(old) {
        return Some(new.to_owned());
    }
    let (first, domain) = match token.split_once('.') {
        Some((first, domain)) => (first, Some(domain)),
        None => (token, None),
    };
    if !first.eq_ignore_ascii_case(&short(old)) {
        return None;
    }
    Some(match domain {
        None => short(new),
        // A new name that has its own domain replaces the old domain.
        Some(_) if new.contains('.') => new.to_owned(),
        Some(domain) => format!("{new}.{domain}"),
    })
}

/// The text of hosts(5) with all forms of the old name replaced.
fn hosts(text: &str, old: &str, new: &str) -> Option<String> {
    // A golden image may itself be called localhost; localhost stays localhost.
    if old.split('.').next().is_some_and(|n| n.eq_ignore_ascii_case("localhost")) {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 80);
    for line in text.split_inclusive('\n') {
        let content = line.split('#').next().unwrap_or_default();
        let mut rest = content;
        let mut seen: Vec<String> = Vec::new();
        let mut changed = String::new();
        let mut fields = 0;
        while let Some(begin) = rest.find(|c: char| !c.is_ascii_whitespace()) {
            let len = rest[begin..].find(|c: char| c.is_ascii_whitespace());
            let end = len.map_or(rest.len(), |len| begin + len);
            let (gap, token) = (&rest[..begin], &rest[begin..end]);
            fields += 1;
            let word = match renamed(token, old, new) {
                Some(word) if fields > 1 => word,
                _ => token.to_owned(),
            };
            // Two forms of the old name may become the same.
            if fields == 1 || !seen.contains(&word) {
                changed.push_str(gap);
                changed.push_str(&word);
            }
            seen.push(word);
            rest = &rest[end..];
        }
        changed.push_str(rest);
        out.push_str(&changed);
        out.push_str(&line[content.len()..]);
    }
    (out != text).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::{applied, drafted};

    fn edits(fs: &MemFs, name: &str) -> Vec<(String, String)> {
        drafted(fs, |d| draft(d, &Hostname::parse(name).unwrap())).unwrap()
    }

    #[test]
    fn names() {
        let long = "a".repeat(63);
        for good in ["web2", "a", "3com", "web-2.example.org", "WEB", &long] {
            assert_eq!(Hostname::parse(good).unwrap().as_str(), good);
        }
        let label = "a".repeat(64);
        let all = format!("{long}.bc");
        for bad in ["", "-a", "a-", "a..b", "a.", ".a", "a_b", "a b", "ü", "1.2.3.4", &label, &all]
        {
            let e = Hostname::parse(bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn every_place_and_only_once() {
        let debian = MemFs::new()
            .file("/etc/hostname", "golden\n")
            .file(
                "/etc/hosts",
                "127.0.0.1 localhost\n127.0.1.1\tgolden.example.org golden # golden\n",
            )
            .file("/etc/mailname", "golden.example.org\n");
        let (hosts, mail) = ("/etc/hosts".to_owned(), "/etc/mailname".to_owned());
        let done = edits(&debian, "web2");
        let expected = [
            ("/etc/hostname".into(), "web2\n".into()),
            (hosts, "127.0.0.1 localhost\n127.0.1.1\tweb2.example.org web2 # golden\n".into()),
            (mail, "web2.example.org\n".into()),
        ];
        assert_eq!(done, expected);
        assert_eq!(edits(&applied(debian, &done), "web2"), []);
        let red_hat =
            || MemFs::new().file("/etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=old.b\n");
        let done = edits(&red_hat(), "new.c");
        let text = "NETWORKING=yes\nHOSTNAME=new.c\n".to_owned();
        assert_eq!(done, [("/etc/sysconfig/network".to_owned(), text)]);
        assert_eq!(edits(&applied(red_hat(), &done), "new.c"), []);
        let gentoo = MemFs::new().file("/etc/conf.d/hostname", "# name\nhostname=\"old\"");
        assert_eq!(edits(&gentoo, "new")[0].1, "# name\nhostname=\"new\"\n");
        let suse = MemFs::new().file("/etc/HOSTNAME", "old.example.org\n");
        assert_eq!(edits(&suse, "new")[0], ("/etc/HOSTNAME".into(), "new\n".into()));
        let linked = MemFs::new().file("/etc/hostname", "a\n").symlink("/etc/HOSTNAME", "hostname");
        assert_eq!(edits(&linked, "b"), [("/etc/hostname".to_owned(), "b\n".to_owned())]);
        let none = MemFs::new().file("/etc/fstab", "");
        assert_eq!(edits(&none, "b"), [("/etc/hostname".to_owned(), "b\n".to_owned())]);
        let bare = MemFs::new().file("/etc/sysconfig/network", "NETWORKING=yes");
        assert_eq!(edits(&bare, "b")[0].1, "NETWORKING=yes\nHOSTNAME=b\n");
    }

    #[test]
    fn lines_of_hosts() {
        for (line, old, new, expected) in [
            ("::1 a a.b c", "a", "x", Some("::1 x x.b c")),
            ("::1 a.b a", "a.b", "x", Some("::1 x")),
            ("::1 a.b a", "a.b", "x.y", Some("::1 x.y x")),
            ("::1 a.b a", "a", "x.y", Some("::1 x.y")),
            ("::1 A", "a", "x", Some("::1 x")),
            ("::1 ab", "a", "x", None),
            ("# ::1 a", "a", "x", None),
            ("a b", "a", "x", None),
            ("127.0.0.1 localhost", "localhost", "x", None),
        ] {
            assert_eq!(hosts(line, old, new).as_deref(), expected, "{line}");
        }
    }
}
