//! Which paths in the guest are not on its root filesystem.

use crate::edit::Draft;
use crate::{Error, ErrorKind, Result};

/// Refuse a path that the guest's fstab hides below another filesystem.
///
/// # Errors
/// [`ErrorKind::Invalid`] naming the filesystem and `option`.
pub(super) fn on_root(draft: &Draft, path: &str, option: &str) -> Result<()> {
    let full = draft.root().canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = draft.text("/etc/fstab").unwrap_or_default();
    for line in text.lines().filter(|l| !l.trim_start().starts_with('#')) {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(dir), _kind, options) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let dir = dir.trim_end_matches('/');
        // A filesystem that may be missing, or is mounted only on request, is no reason to refuse.
        let absent = |o: &str| o.split(',').any(|o| o == "noauto" || o == "nofail");
        if !dir.starts_with('/') || options.is_some_and(absent) {
            continue;
        }
        let below =
            |p: &str| p.strip_prefix(dir).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        if below(path) || below(&full) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{option}: {dir} is a filesystem of its own in this guest, as its /etc/fstab \
                     says, and would hide what is written to {path}; only the root filesystem is \
                     edited"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn what_is_hidden() {
        let fstab = "UUID=a / ext4 x 0 1\n#/dev/x /opt ext4\nUUID=b /home ext4 x 0 2\n\
                     UUID=c none swap sw 0 0\nUUID=d /srv ext4 noauto 0 0\ntmpfs /tmp tmpfs\n";
        let fs =
            MemFs::new().file("/etc/fstab", fstab).symlink("/users", "home").file("/home/u/x", "");
        let fs = &fs;
        let draft = Draft::new(fs);
        for path in ["/root", "/opt/x", "/srv/x", "/homestead", "/"] {
            assert!(on_root(&draft, path, "-").is_ok(), "{path}");
        }
        for path in ["/home", "/home/u/.ssh", "/users/u", "/tmp/x"] {
            assert!(on_root(&draft, path, "-").is_err(), "{path}");
        }
    }
}
