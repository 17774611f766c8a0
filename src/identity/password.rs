//! Root's password, as a hash in shadow(5).

use super::guest_text::text_of;
use crate::edit::Draft;
use crate::{Error, ErrorKind, Result};
use sha_crypt::{Algorithm, Params, PasswordHasher, ShaCrypt};
use std::fmt;

/// A hash in the format of crypt(5): `$id$…$…`.
#[derive(Clone, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PasswordHash(String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// More bytes than any hash has (crypt(5): `CRYPT_OUTPUT_SIZE`).
const MAX: usize = 384;

impl PasswordHash {
    /// The hash of `password` by SHA-512 (crypt(5)), which every Linux guest since 2007 knows. Made for
    /// passwords that are random: few rounds, because guests may be emulated.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it can't be made.
    pub fn of(password: &str, salt: [u8; 12]) -> Result<Self> {
        let hasher = ShaCrypt::new(Algorithm::Sha512Crypt, Params::new(1000).unwrap_or_default());
        let hash = hasher.hash_password_with_salt(password.as_bytes(), &salt);
        let hash = hash.map_err(|e| {
            Error::new(ErrorKind::Invalid, format!("cannot hash the check's password: {e}"))
        })?;
        Self::parse(hash.as_str())
    }

    /// Check that `text` has the form of a hash.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]; the message does not repeat `text`, which may be a password.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split('$');
        // Nothing precedes the first $; then come the method, parameters and salt, and the hash.
        let empty = parts.next() == Some("");
        let id = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let letters = |part: &str, more: &str| {
            part.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
        };
        let id_fits = (1..=8).contains(&id.len()) && letters(id, "-");
        let hash_fits = rest.len() >= 2
            && rest.last().is_some_and(|hash| hash.len() >= 20)
            && rest.iter().all(|part| letters(part, "./+=,-_"));
        if empty && id_fits && hash_fits && text.len() <= MAX {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(
            ErrorKind::Usage,
            "--root-password-hash takes a hash like $6$SALT$HASH, as `openssl passwd -6` prints it, \
             in single quotes so that the shell leaves it alone, or @FILE with one in it",
        ))
    }
}

const SHADOW: &str = "/etc/shadow";

pub(super) fn draft(draft: &mut Draft, hash: &PasswordHash) -> Result<()> {
    let Some(text) = text_of(draft, SHADOW)? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            "--root-password-hash: there is no /etc/shadow in the guest",
        ));
    };
    if !text.lines().any(|l| l.starts_with("root:") && l.split(':').count() > 2) {
        let what = "--root-password-hash: there is no root in the guest's /etc/shadow";
        return Err(Error::new(ErrorKind::NotFound, what));
    }
    draft.edit(SHADOW, |text| {
        let new: String = text.split_inclusive('\n').map(|line| with_hash(line, hash)).collect();
        (new != text).then(|| (new, "root has the password that was given".into()))
    });
    Ok(())
}

/// Root's line with `hash` as its second field; the other fields stay.
fn with_hash(line: &str, hash: &PasswordHash) -> String {
    let mut fields: Vec<&str> = line.split(':').collect();
    match fields[..] {
        ["root", _, _, ..] => {
            fields[1] = &hash.0;
            fields.join(":")
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::{applied, drafted};

    const SHA512: &str = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";

    #[test]
    fn shapes() {
        for good in [
            SHA512,
            "$5$rounds=5000$salt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/",
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
            "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
            "$1$salt$qFmFH.bQmmtXzyBY0s9v7O",
        ] {
            assert!(PasswordHash::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "secret",
            "$6$salt$",
            "$6$salt",
            "$$salt$qFmFH.bQmmtXzyBY0s9v7Oicd",
            "$6$sa:lt$qFmFH.bQmmtXzyBY0s9v7Oicd",
            "$6$salt$qFmFH.bQmmtXzyBY0s9v7\nOicd",
            "x$6$salt$qFmFH.bQmmtXzyBY0s9v7Oicd",
        ] {
            let e = PasswordHash::parse(bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage);
            assert!(bad.is_empty() || !e.to_string().contains(bad));
        }
        assert!(!format!("{:?}", PasswordHash::parse(SHA512).unwrap()).contains("salt"));
    }

    #[test]
    fn as_crypt_has_it() {
        // crypt(5): at most 16 letters of a salt count, so there must not be more.
        let PasswordHash(hash) = PasswordHash::of("secret", [0; 12]).unwrap();
        assert!(hash.starts_with("$6$rounds=1000$................$"), "{hash}");
        assert_eq!(hash.len(), "$6$rounds=1000$".len() + 16 + 1 + 86);
    }

    #[test]
    fn one_field_of_one_line() {
        let hash = PasswordHash::parse(SHA512).unwrap();
        let text =
            "daemon:*:19000:0:99999:7:::\nroot:$1$old$x:19001:0:99999:7:::\nrootless:!:1::::::\n";
        let fs = MemFs::new().file(SHADOW, text);
        let edits = drafted(&fs, |d| draft(d, &hash)).unwrap();
        assert_eq!(edits, [(SHADOW.to_owned(), text.replace("$1$old$x", SHA512))]);
        assert_eq!(drafted(&applied(fs, &edits), |d| draft(d, &hash)).unwrap(), []);
        for fs in [MemFs::new(), MemFs::new().file(SHADOW, "daemon:*:1\n")] {
            let e = drafted(&fs, |d| draft(d, &hash)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotFound);
        }
    }
}
