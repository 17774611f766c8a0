//! Who is asking: a user and a password from the URL, or from a netrc file as curl reads it.
//!
//! Source: ftp(1), "THE .netrc FILE".

use super::url::RemoteUrl;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Longest netrc file that is read, in bytes.
const MOST: u64 = 1 << 20;

/// A user and a password. `Debug` shows neither.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// The login for `url`: its own, or that of the file that `NETRC` names or `~/.netrc`.
    pub(super) fn of(url: &RemoteUrl) -> Option<Self> {
        let (user, password) = match &url.user {
            Some((user, Some(password))) => {
                return Some(Self { user: user.clone(), password: password.clone() });
            }
            Some((user, None)) => (Some(user.as_str()), String::new()),
            None => (None, String::new()),
        };
        let path = std::env::var_os("NETRC").map(PathBuf::from);
        let path = path.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".netrc")));
        let mut text = String::new();
        let read = path.and_then(|path| File::open(path).ok());
        let read = read.and_then(|file| file.take(MOST).read_to_string(&mut text).ok());
        read.and_then(|_| find(&text, url.host(), user))
            .or_else(|| Some(Self { user: user?.to_owned(), password }))
    }
}

/// The login for `host`, of `user` if one is given, in the netrc file `text`.
fn find(text: &str, host: &str, user: Option<&str>) -> Option<Login> {
    // A macro's lines end with an empty one.
    let mut in_macro = false;
    let lines = text.lines().filter(|line| {
        let starts = line.trim_start().starts_with("macdef");
        in_macro = (in_macro && !line.trim().is_empty()) || starts;
        !in_macro && !line.trim_start().starts_with('#')
    });
    let mut words = lines.flat_map(str::split_whitespace);
    let mut found: Option<Login> = None;
    while let Some(word) = words.next() {
        match (word, &mut found) {
            ("machine" | "default", Some(login)) if fits(login, user) => break,
            ("machine", login) => {
                let is_it = words.next().is_some_and(|name| name.eq_ignore_ascii_case(host));
                *login = is_it.then(|| Login { user: String::new(), password: String::new() });
            }
            ("default", login) => {
                *login = Some(Login { user: String::new(), password: String::new() });
            }
            ("login", login) => {
                let value = words.next().unwrap_or_default();
                login.iter_mut().for_each(|login| value.clone_into(&mut login.user));
            }
            ("password", login) => {
                let value = words.next().unwrap_or_default();
                login.iter_mut().for_each(|login| value.clone_into(&mut login.password));
            }
            ("account", _) => drop(words.next()),
            _ => {}
        }
    }
    found.filter(|login| fits(login, user))
}

fn fits(login: &Login, user: Option<&str>) -> bool {
    match user {
        Some(user) => login.user == user,
        None => !login.user.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netrc() {
        let text = "# comment\nmachine a.example login alice password one\nmacdef init\nmachine b.example\n\n\
                    machine b.example\n  login bob\n  password two account x\n\
                    machine b.example login carol password three\ndefault login anyone password four\n";
        let get = |host, user| find(text, host, user).map(|l| (l.user, l.password));
        let is = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(get("a.example", None), is("alice", "one"));
        assert_eq!(get("B.example", None), is("bob", "two"));
        assert_eq!(get("b.example", Some("carol")), is("carol", "three"));
        assert_eq!(get("b.example", Some("dave")), None);
        assert_eq!(get("c.example", None), is("anyone", "four"));
        assert_eq!(find("machine", "x", None), None);
        assert_eq!(find("", "x", None), None);
        assert_eq!(format!("{:?}", find(text, "a.example", None)), "Some(Login)");
    }
}
