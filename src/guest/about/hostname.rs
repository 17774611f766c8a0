//! The guest's hostname: hostname(5), and the files that distributions used earlier.

use super::{lines, text};
use crate::fs::GuestFs;

/// The guest's hostname; `None` if no file contains it.
pub fn hostname(root: &dyn GuestFs) -> Option<String> {
    // Red Hat up to 6, Gentoo; SUSE up to 11.
    let elsewhere = [("/etc/sysconfig/network", "HOSTNAME"), ("/etc/conf.d/hostname", "hostname")];
    plain(root, "/etc/hostname")
        .or_else(|| elsewhere.iter().find_map(|(path, key)| value(root, path, key)))
        .or_else(|| plain(root, "/etc/HOSTNAME"))
}

/// The first line of a file that contains only the name.
fn plain(root: &dyn GuestFs, path: &str) -> Option<String> {
    let text = text(root, path)?;
    let lines = text.lines().map(str::trim);
    lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).next()
}

fn value(root: &dyn GuestFs, path: &str, key: &str) -> Option<String> {
    let lines = lines(root, path);
    let value = lines.iter().rev().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn where_it_stands() {
        for (path, text, name) in [
            ("/etc/hostname", "# mine\nweb1\n", Some("web1")),
            ("/etc/HOSTNAME", "web1.example.com\n", Some("web1.example.com")),
            ("/etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=web1\n", Some("web1")),
            ("/etc/conf.d/hostname", "# x\nhostname=\"web1\"\n", Some("web1")),
            ("/etc/hostname", "\n", None),
        ] {
            assert_eq!(hostname(&MemFs::new().file(path, text)).as_deref(), name, "{path}");
        }
    }
}
