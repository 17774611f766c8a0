//! Detects a guest's distribution. See os-release(5); older distributions each have their own file.

use super::{lines, text};
use crate::fs::GuestFs;
use serde::Serialize;

/// A distribution and its version.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Distribution {
    /// Short lower-case name, like `ID` in os-release: `debian`.
    pub id: String,
    /// Version, like `VERSION_ID`: `12`. Empty if there is none.
    pub version: String,
    /// Human-readable name: `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
}

/// Files from before os-release: the file and the distribution's short name.
const OLD_FILES: [(&str, &str); 9] = [
    ("/etc/centos-release", "centos"),
    ("/etc/fedora-release", "fedora"),
    ("/etc/oracle-release", "ol"),
    ("/etc/redhat-release", "rhel"),
    ("/etc/SuSE-release", "suse"),
    ("/etc/gentoo-release", "gentoo"),
    ("/etc/slackware-version", "slackware"),
    ("/etc/alpine-release", "alpine"),
    ("/etc/arch-release", "arch"),
];

/// The guest's distribution; `None` if it cannot be determined.
pub fn distribution(root: &dyn GuestFs) -> Option<Distribution> {
    os_release(root).or_else(|| lsb_release(root)).or_else(|| old(root)).or_else(|| debian(root))
}

fn os_release(root: &dyn GuestFs) -> Option<Distribution> {
    let found = ["/etc/os-release", "/usr/lib/os-release"].map(|p| lines(root, p));
    let lines = found.into_iter().find(|lines| !lines.is_empty())?;
    let value = |key: &str| value(&lines, key);
    let id = value("ID").unwrap_or_else(|| "linux".into());
    let version = value("VERSION_ID").unwrap_or_default();
    let name = value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| id.clone());
    Some(Distribution { id, version, name })
}

fn lsb_release(root: &dyn GuestFs) -> Option<Distribution> {
    let lines = lines(root, "/etc/lsb-release");
    let id = value(&lines, "DISTRIB_ID")?.to_ascii_lowercase();
    let version = value(&lines, "DISTRIB_RELEASE").unwrap_or_default();
    let name = value(&lines, "DISTRIB_DESCRIPTION").unwrap_or_else(|| format!("{id} {version}"));
    Some(Distribution { id, version, name })
}

fn old(root: &dyn GuestFs) -> Option<Distribution> {
    OLD_FILES.iter().find_map(|(path, id)| {
        let text = text(root, path)?;
        let first = text.lines().next().unwrap_or_default().trim().to_owned();
        let name = if first.is_empty() { (*id).to_owned() } else { first };
        Some(Distribution { id: (*id).into(), version: number(&name), name })
    })
}

fn debian(root: &dyn GuestFs) -> Option<Distribution> {
    let version = lines(root, "/etc/debian_version").into_iter().next()?;
    let name = format!("Debian GNU/Linux {version}");
    Some(Distribution { id: "debian".into(), version, name })
}

/// The value of `KEY=value` or `KEY="value"`, a subset of shell syntax.
fn value(lines: &[String], key: &str) -> Option<String> {
    let of_key = |l: &String| l.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    let value = lines.iter().filter_map(of_key).next_back()?;
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|v| !v.is_empty())
}

/// The first word that starts with a digit.
fn number(text: &str) -> String {
    let is_number = |w: &&str| w.starts_with(|c: char| c.is_ascii_digit());
    text.split_whitespace().find(is_number).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn who_they_are() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
                      VERSION_ID=\"12\"\nID=debian\n";
        for (path, text, id, version, name) in [
            ("/etc/os-release", debian, "debian", "12", "Debian GNU/Linux 12 (bookworm)"),
            ("/usr/lib/os-release", "ID=arch\nNAME='Arch Linux'\n", "arch", "", "Arch Linux"),
            (
                "/etc/centos-release",
                "CentOS release 6.10 (Final)\n",
                "centos",
                "6.10",
                "CentOS release 6.10 (Final)",
            ),
            ("/etc/debian_version", "5.0.10\n", "debian", "5.0.10", "Debian GNU/Linux 5.0.10"),
            (
                "/etc/lsb-release",
                "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=8.04\nDISTRIB_DESCRIPTION=\"Ubuntu 8.04\"\n",
                "ubuntu",
                "8.04",
                "Ubuntu 8.04",
            ),
            ("/etc/alpine-release", "3.19.1\n", "alpine", "3.19.1", "3.19.1"),
            ("/etc/arch-release", "", "arch", "", "arch"),
        ] {
            let found = distribution(&MemFs::new().file(path, text)).unwrap();
            let (id, version, name) = (id.into(), version.into(), name.into());
            assert_eq!(found, Distribution { id, version, name });
        }
        assert_eq!(distribution(&MemFs::new().file("/etc/fstab", "x")), None);
    }
}
