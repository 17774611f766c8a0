//! Whether root can log in. See shadow(5).

use super::text;
use crate::fs::GuestFs;
use serde::Serialize;

/// The state of root in `/etc/shadow`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootAccount {
    /// A password is set.
    Password,
    /// No password is required.
    NoPassword,
    /// No password is accepted.
    Locked,
    /// The line for root is missing or malformed.
    Missing,
    /// There is no readable `/etc/shadow`.
    NoFile,
}

/// Whether root can log in with a password.
pub fn root_account(root: &dyn GuestFs) -> RootAccount {
    let Some(text) = text(root, "/etc/shadow") else { return RootAccount::NoFile };
    let fields = text.lines().find_map(|l| l.strip_prefix("root:"));
    match fields.and_then(|f| f.split_once(':')).map(|f| f.0) {
        None => RootAccount::Missing,
        Some("") => RootAccount::NoPassword,
        Some(hash) if hash.starts_with(['!', '*']) || hash == "x" => RootAccount::Locked,
        Some(_) => RootAccount::Password,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn shadows() {
        let account = |text: &str| root_account(&MemFs::new().file("/etc/shadow", text));
        assert_eq!(account("daemon:*:1::\nroot:$6$a$b:1:0:99999:7:::\n"), RootAccount::Password);
        assert_eq!(account("root::1:0:99999:7:::\n"), RootAccount::NoPassword);
        assert_eq!(account("root:!$6$a$b:1:0:99999:7:::\n"), RootAccount::Locked);
        assert_eq!(account("root:*:1:\n"), RootAccount::Locked);
        assert_eq!(account("root\n"), RootAccount::Missing);
        assert_eq!(root_account(&MemFs::new()), RootAccount::NoFile);
    }
}
