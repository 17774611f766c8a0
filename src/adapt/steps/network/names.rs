//! Where distributions configure network interfaces, and the names that interfaces have on Xen.

use crate::adapt::steps::lines::words;

/// Directory of netplan(5).
pub(super) const NETPLAN: &str = "/etc/netplan";
/// Directory of systemd.network(5) and systemd.link(5).
pub(super) const NETWORKD: &str = "/etc/systemd/network";
/// Directory of NetworkManager's connections.
pub(super) const KEYFILES: &str = "/etc/NetworkManager/system-connections";
/// Directories of ifcfg files: Red Hat's and SUSE's.
pub(super) const IFCFG: [&str; 2] = ["/etc/sysconfig/network-scripts", "/etc/sysconfig/network"];
/// Directory of udev's rules.
pub(super) const UDEV_RULES: &str = "/etc/udev/rules.d";
/// Files read by nameif(8) and similar tools.
pub(super) const NAMEIF: [&str; 2] = ["/etc/mactab", "/etc/iftab"];

/// Files and directories in which distributions configure interfaces by name.
pub(super) const PLACES: [&str; 10] = [
    "/etc/network/interfaces",
    "/etc/network/interfaces.d",
    IFCFG[0],
    IFCFG[1],
    NETPLAN,
    NETWORKD,
    KEYFILES,
    "/etc/netctl",
    "/etc/conf.d/net",
    "/etc/dhcpcd.conf",
];

/// The first interface name of the old machine in `text`, as a separate word: `eth` or `enX`, and
/// its number.
pub(super) fn old_name(text: &str) -> Option<(&'static str, u32)> {
    old_names(text).next()
}

pub(super) fn old_names(text: &str) -> impl Iterator<Item = (&'static str, u32)> {
    words(text).filter_map(|word| {
        let kind = ["eth", "enX"].into_iter().find(|kind| word.starts_with(kind))?;
        let rest = &word[kind.len()..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        Some((kind, rest[..digits].parse().ok()?))
    })
}
