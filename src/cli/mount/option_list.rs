//! The options of one `-o`, in the syntax of mount(8) and fstab.
//!
//! `name=value` stands for `--name value` and `name` for the flag `--name`, written with `_` or
//! `-`. The names are derived from the arguments of `mount`.

use super::args::MountArgs;
use crate::fuse::MountOptions;
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Options of `mount` that `-o` does not accept, and why.
const NOT_IN_O: [(&str, &str); 4] = [
    ("options", "it is -o itself"),
    ("foreground", "mount(8) waits until its helper has ended"),
    ("read-only", "mount(8) calls it ro"),
    ("verbose", "mount(8) calls it -v"),
];

/// How an option is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// `name=value`
    Valued,
    /// `name`
    Flag,
}

/// The options of `mount` that `-o` accepts.
fn taken() -> Vec<(String, Form)> {
    let command = MountArgs::augment_args(clap::Command::new("mount"));
    let forms = command.get_arguments().filter_map(|arg| {
        let long = arg.get_long()?;
        let form = if arg.get_action().takes_values() { Form::Valued } else { Form::Flag };
        Some((long.to_owned(), form))
    });
    forms.filter(|(long, _)| NOT_IN_O.iter().all(|(name, _)| name != long)).collect()
}

/// The options of one `-o`.
#[derive(Debug, Default)]
pub(in crate::cli) struct OptionList {
    /// Options of the mount itself, each checked.
    pub(in crate::cli) own: Vec<String>,
    /// All others, as the equivalent arguments of `mount`.
    pub(in crate::cli) long: Vec<OsString>,
}

impl OptionList {
    /// Parse options separated by commas; a backslash before a comma makes it literal.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown option, [`ErrorKind::Invalid`] for a bad value.
    pub(in crate::cli) fn parse(options: &OsStr) -> Result<Self> {
        let taken = taken();
        let mut list = Self::default();
        for option in split(options.as_bytes()) {
            // A value may be a path with any bytes; names and the mount's own options are ASCII.
            let shown = String::from_utf8_lossy(&option).into_owned();
            if MountOptions::default().take(&shown)? {
                if std::str::from_utf8(&option).is_err() {
                    let what = format!("mount option '{shown}' is not UTF-8");
                    return Err(Error::new(ErrorKind::Usage, what));
                }
                list.own.push(shown);
                continue;
            }
            let at = option.iter().position(|b| *b == b'=');
            let (name, value) = option.split_at(at.unwrap_or(option.len()));
            let name = String::from_utf8_lossy(name).replace('_', "-");
            match taken.iter().find(|(taken, _)| *taken == name) {
                Some((_, Form::Valued)) if !value.is_empty() => {
                    list.long.push(format!("--{name}").into());
                    list.long.push(OsString::from_vec(value[1..].to_vec()));
                }
                Some((_, Form::Flag)) if value.is_empty() => {
                    list.long.push(format!("--{name}").into());
                }
                known => return Err(refused(&shown, &name, known.map(|(_, form)| *form))),
            }
        }
        Ok(list)
    }
}

/// The error for `option`, whose name without its value is `name`.
fn refused(option: &str, name: &str, form: Option<Form>) -> Error {
    let excluded = NOT_IN_O.iter().find(|(excluded, _)| *excluded == name);
    let what = match (form, excluded) {
        (Some(Form::Valued), _) => format!("mount option '{option}' needs a value: {name}=VALUE"),
        (Some(Form::Flag), _) => format!("mount option '{option}' takes no value"),
        (None, Some((_, why))) => format!("'{option}' is not a mount option: {why}"),
        (None, None) => {
            format!("unknown mount option '{option}'; see `synthdisk mount --help`")
        }
    };
    Error::new(ErrorKind::Usage, what)
}

/// Split at commas; a backslash makes the next byte literal.
fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = options.iter();
    while let Some(byte) = bytes.next() {
        let last = parts.len() - 1;
        match byte {
            b',' => parts.push(Vec::new()),
            b'\\' => parts[last].extend(bytes.next()),
            _ => parts[last].push(*byte),
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_mount_is_taken_or_excluded() {
        let command = MountArgs::augment_args(clap::Command::new("mount"));
        let longs: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for (excluded, why) in NOT_IN_O {
            assert!(longs.contains(&excluded), "--{excluded} is gone; drop it from NOT_IN_O");
            assert!(!why.is_empty());
        }
        let mut accepted = 0;
        for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
            let long = arg.get_long().unwrap();
            let name = long.replace('-', "_");
            let valued = arg.get_action().takes_values();
            let text = if valued { format!("{name}=a=b") } else { name.clone() };
            let parsed = OptionList::parse(text.as_ref());
            if NOT_IN_O.iter().any(|(excluded, _)| *excluded == long) {
                assert_eq!(parsed.unwrap_err().kind(), ErrorKind::Usage, "{text}");
                continue;
            }
            let expected = if valued {
                vec![format!("--{long}"), "a=b".into()]
            } else {
                vec![format!("--{long}")]
            };
            assert_eq!(
                parsed.unwrap().long,
                expected.iter().map(OsString::from).collect::<Vec<_>>()
            );
            // A value is accepted where one belongs, and nowhere else.
            let wrong = if valued { name } else { format!("{name}=1") };
            assert_eq!(OptionList::parse(wrong.as_ref()).unwrap_err().kind(), ErrorKind::Usage);
            accepted += 1;
        }
        assert!(accepted > 25, "{accepted} options");
    }

    #[test]
    fn what_is_not_utf8() {
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let path = OptionList::parse(&bytes(b"ro,overlay=/\xff")).unwrap();
        assert_eq!(
            (path.own, path.long),
            (vec!["ro".into()], vec!["--overlay".into(), bytes(b"/\xff")])
        );
        for wrong in [&b"\xff"[..], b"ro,\xff=1", b"x-\xff"] {
            let e = OptionList::parse(&bytes(wrong)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage, "{e}");
        }
    }
}
