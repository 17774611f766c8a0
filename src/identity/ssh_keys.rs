//! Who may log in by key: `authorized_keys` of sshd(8).

use super::guest_text::text_of;
use super::mounts;
use crate::edit::{Draft, FileAccess, FileContent};
use crate::{Error, ErrorKind, Result};

/// Public keys of one user of the guest.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SshKeys {
    /// The user's name in the guest.
    user: String,
    /// Lines for `authorized_keys`.
    keys: Vec<String>,
}

/// Key types, as they appear in a line and inside the key (OpenSSH `sshkey.c`).
const KINDS: [&str; 8] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl SshKeys {
    /// The keys in `text`, which was read from `file`, for the guest's user `user`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it contains something else, above all a private key.
    pub fn parse(user: &str, file: &str, text: &str) -> Result<Self> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if text.contains("PRIVATE KEY") || text.starts_with("PuTTY-User-Key-File") {
            return wrong(format!(
                "{file} holds a private key, which belongs nowhere but where it is; give the public \
                 key that goes with it, most often {file}.pub"
            ));
        }
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let keys: Vec<String> = lines.map(str::to_owned).collect();
        if keys.is_empty() {
            return wrong(format!("{file} holds no SSH public key"));
        }
        if !keys.iter().all(|line| is_key(line)) {
            return wrong(format!(
                "{file} holds something that is no SSH public key; a line of it reads like \
                 `ssh-ed25519 AAAA… name`"
            ));
        }
        Ok(Self { user: user.to_owned(), keys })
    }
}

/// Whether `line` has a key type followed by a key of that type, with or without options before it.
fn is_key(line: &str) -> bool {
    if line.chars().any(char::is_control) {
        return false;
    }
    let words: Vec<&str> = words(line);
    // Options are one word: spaces in it are quoted.
    (0..words.len().min(2)).any(|i| {
        let blob = words.get(i + 1).and_then(|word| decode(word)).unwrap_or_default();
        let len = blob.get(..4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
        let kind = len.and_then(|len| blob.get(4..)?.get(..len));
        let more = len.is_some_and(|len| blob.len() > len.saturating_add(4 + 16));
        KINDS.contains(&words[i]) && kind == Some(words[i].as_bytes()) && more
    })
}

/// Words separated by spaces; a space in double quotes does not separate.
fn words(line: &str) -> Vec<&str> {
    let mut quoted = false;
    line.split(|c: char| {
        quoted ^= c == '"';
        !quoted && (c == ' ' || c == '\t')
    })
    .filter(|word| !word.is_empty())
    .collect()
}

/// Decodes standard base64 (RFC 4648, section 4); `None` for anything else.
fn decode(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_end_matches('=');
    if text.len() % 4 != 0 || text.len() - body.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for byte in body.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

/// A user, as in passwd(5).
struct User {
    uid: u32,
    gid: u32,
    home: String,
}

fn user(draft: &Draft, name: &str) -> Result<User> {
    let text = text_of(draft, "/etc/passwd")?.unwrap_or_default();
    let line = text.lines().find(|l| l.split(':').next() == Some(name));
    let fields: Vec<&str> = line.unwrap_or_default().split(':').collect();
    let found = match fields[..] {
        [_, _, uid, gid, _, home, ..] if home.starts_with('/') => {
            let number = |text: &str| text.parse::<u32>().ok();
            number(uid).zip(number(gid)).map(|(uid, gid)| User { uid, gid, home: home.to_owned() })
        }
        _ => None,
    };
    let what = || format!("--ssh-key: the guest's /etc/passwd has no user {name} with a home");
    match found {
        Some(user) => Ok(user),
        // Root is known even if the file has no usable entry.
        None if name == "root" => Ok(User { uid: 0, gid: 0, home: "/root".into() }),
        None => Err(Error::new(ErrorKind::NotFound, what())),
    }
}

pub(super) fn draft(draft: &mut Draft, wanted: &SshKeys) -> Result<()> {
    let User { uid, gid, home } = user(draft, &wanted.user)?;
    let home = if home.len() > 1 { home.trim_end_matches('/') } else { "" };
    let dir = format!("{home}/.ssh");
    let path = format!("{dir}/authorized_keys");
    mounts::on_root(draft, &path, "--ssh-key")?;
    let old = text_of(draft, &path)?;
    let there: Vec<&str> = old.iter().flat_map(|text| text.lines().map(str::trim)).collect();
    let mut missing: Vec<&str> = Vec::new();
    for key in &wanted.keys {
        if !there.contains(&key.as_str()) && !missing.contains(&key.as_str()) {
            missing.push(key);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let why = match missing.len() {
        1 => format!("a key of {}", wanted.user),
        n => format!("{n} keys of {}", wanted.user),
    };
    let added: String = missing.iter().map(|key| format!("{key}\n")).collect();
    match old {
        Some(_) => draft.edit(&path, |text| {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            Some((format!("{text}{end}{added}"), why))
        }),
        None => {
            draft.make_dir(home, FileAccess { mode: 0o700, uid, gid });
            draft.make_dir(&dir, FileAccess { mode: 0o700, uid, gid });
            let access = FileAccess { mode: 0o600, uid, gid };
            draft.create(&path, FileContent::Bytes(added.into_bytes()), access, why);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::{applied, drafted};

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@here";

    fn keys(user: &str, text: &str) -> Result<SshKeys> {
        SshKeys::parse(user, "id", text)
    }

    #[test]
    fn base64() {
        for (text, bytes) in
            [("", Some("")), ("Zg==", Some("f")), ("Zm8=", Some("fo")), ("Zm9v", Some("foo"))]
        {
            assert_eq!(decode(text).as_deref(), bytes.map(str::as_bytes));
        }
        for bad in ["Z", "Zm9", "Zm 9", "Zg=a", "===="] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_a_key() {
        let with_options = format!("from=\"10.0.0.1, a b\",no-pty {KEY}");
        for good in [KEY, &with_options, &format!("# mine\n\n{KEY}\n{KEY} 2\n")] {
            assert!(keys("root", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "# nothing\n",
            "hello",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            &KEY.replace("ssh-ed25519", "ssh-rsa"),
            &KEY.replace("AAAAC3", "AAAAC4"),
            &format!("{KEY}\nhello\n"),
            &format!("{KEY}\x07"),
        ] {
            assert_eq!(keys("root", bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n";
        let said = keys("root", private).unwrap_err().to_string();
        assert!(said.contains("private key") && said.contains("id.pub") && !said.contains("b3Bl"));
    }

    #[test]
    fn added_once() {
        let passwd = "root:x:0:0::/root:/bin/sh\nme:x:1000:100::/home/me:/bin/sh\n";
        let fs = MemFs::new().file("/etc/passwd", passwd).file("/root/.bashrc", "");
        let root = keys("root", KEY).unwrap();
        let edits = drafted(&fs, |d| draft(d, &root)).unwrap();
        let path = "/root/.ssh/authorized_keys";
        let expected = [("/root/.ssh".into(), "/".into()), (path.into(), format!("{KEY}\n"))];
        assert_eq!(edits, expected);
        let fs = applied(fs, &edits);
        assert_eq!(drafted(&fs, |d| draft(d, &root)).unwrap(), []);
        let more = keys("root", &format!("{KEY}\n{KEY} two")).unwrap();
        let fs = fs.file(path, KEY);
        let edits = drafted(&fs, |d| draft(d, &more)).unwrap();
        assert_eq!(edits, [(path.to_owned(), format!("{KEY}\n{KEY} two\n"))]);
        let me = keys("me", KEY).unwrap();
        let paths: Vec<String> =
            drafted(&fs, |d| draft(d, &me)).unwrap().into_iter().map(|e| e.0).collect();
        assert_eq!(paths[1..], ["/home/me", "/home/me/.ssh", "/home/me/.ssh/authorized_keys"]);
        let nobody = drafted(&fs, |d| draft(d, &keys("nobody", KEY)?)).unwrap_err();
        assert!(nobody.to_string().contains("no user nobody"), "{nobody}");
    }
}
