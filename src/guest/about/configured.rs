//! Devices named in a guest's configuration: disks, network interfaces, consoles.

use super::{files, lines};
use crate::device_name::DeviceName;
use crate::fs::GuestFs;
use serde::Serialize;

/// A line of `/etc/fstab`. See fstab(5).
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct FstabEntry {
    /// The device to mount: a path, `UUID=`, `LABEL=`, or whatever the filesystem accepts as a
    /// source.
    pub source: String,
    /// The mount point.
    pub mountpoint: String,
    /// The filesystem's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its options.
    pub options: String,
    /// Whether the source's name depends on the machine: `/dev/xvda1`, `/dev/sda1`.
    pub machine_dependent: bool,
}

/// The entries of `/etc/fstab`.
pub fn fstab(root: &dyn GuestFs) -> Vec<FstabEntry> {
    let entry = |line: &String| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[source, mountpoint, kind, ref rest @ ..] = &fields[..] else { return None };
        let device = source.starts_with("/dev/") && DeviceName::parse(source).is_some();
        Some(FstabEntry {
            source: source.into(),
            mountpoint: mountpoint.into(),
            kind: kind.into(),
            options: rest.first().copied().unwrap_or_default().into(),
            machine_dependent: device,
        })
    };
    lines(root, "/etc/fstab").iter().filter_map(entry).collect()
}

/// Network interfaces named in the configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Interfaces {
    /// Their names, sorted.
    pub names: Vec<String>,
    /// Ethernet addresses that the configuration expects, in lower case, sorted.
    pub addresses: Vec<String>,
    /// The files that name them.
    pub files: Vec<String>,
}

/// Files and directories in which distributions configure interfaces.
const PLACES: [&str; 9] = [
    "/etc/network/interfaces",
    "/etc/network/interfaces.d",
    "/etc/sysconfig/network-scripts",
    "/etc/sysconfig/network",
    "/etc/netplan",
    "/etc/systemd/network",
    "/etc/NetworkManager/system-connections",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/conf.d/net",
];

/// Finds interfaces and addresses in the network configuration.
pub fn interfaces(root: &dyn GuestFs) -> Interfaces {
    let mut out = Interfaces::default();
    for place in PLACES {
        let mut paths = files(root, place);
        if paths.is_empty() {
            paths.push(place.to_owned());
        }
        for path in paths {
            let mut text = lines(root, &path).join("\n");
            if text.is_empty() {
                continue;
            }
            // The file name may contain the interface: ifcfg-eth0.
            text.push_str(&format!("\n{}", path.rsplit('/').next().unwrap_or_default()));
            let names: Vec<String> = words(&text).filter(|w| is_interface(w)).collect();
            let addresses: Vec<String> = addresses(&text).collect();
            if !names.is_empty() || !addresses.is_empty() {
                out.files.push(path);
            }
            out.names.extend(names);
            out.addresses.extend(addresses);
        }
    }
    for list in [&mut out.names, &mut out.addresses] {
        list.sort();
        list.dedup();
    }
    out
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned)
}

/// `eth0`, `enX0`, `ens3`, `enp0s3`, `eno1`: see systemd.net-naming-scheme(7).
fn is_interface(word: &str) -> bool {
    let digit_after = |prefix: &str| {
        let rest = word.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    ["eth", "enX", "ens", "enp", "eno", "enx"].iter().any(|p| digit_after(p))
}

/// Six pairs of hexadecimal digits separated by colons.
fn addresses(text: &str) -> impl Iterator<Item = String> + '_ {
    let is_address = |word: &&str| {
        let pair = |p: &str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
        word.split(':').count() == 6 && word.split(':').all(pair)
    };
    text.split(|c: char| !c.is_ascii_hexdigit() && c != ':')
        .filter(is_address)
        .map(str::to_ascii_lowercase)
}

/// Terminals that a login runs on.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Gettys {
    /// Terminals that the configuration starts a getty on, sorted: `hvc0`, `ttyS0`, `tty1`.
    pub terminals: Vec<String>,
    /// Whether root may log in on `ttyS0`, as far as `/etc/securetty` restricts it.
    pub root_on_serial: bool,
}

/// Gettys from inittab, upstart and enabled systemd units. Gettys that systemd starts because of
/// the kernel command line are not included.
pub fn gettys(root: &dyn GuestFs) -> Gettys {
    let mut found = Vec::new();
    // A guest that was upgraded to systemd keeps files that are no longer read.
    let is_systemd = super::init(root) == Some(super::Init::Systemd);
    let inittab = if is_systemd { Vec::new() } else { lines(root, "/etc/inittab") };
    for line in inittab {
        if line.contains("getty") {
            found.extend(words(&line).filter(|w| is_terminal(w)));
        }
    }
    for dir in ["/etc/init", "/etc/event.d"].into_iter().filter(|_| !is_systemd) {
        for path in files(root, dir) {
            let exec = lines(root, &path).into_iter().filter(|l| l.contains("getty"));
            found.extend(
                exec.flat_map(|l| words(&l).collect::<Vec<_>>()).filter(|w| is_terminal(w)),
            );
        }
    }
    for dir in ["/etc/systemd/system/getty.target.wants", "/etc/runlevels/default"] {
        for path in files(root, dir).iter().filter(|p| p.contains("getty")) {
            let name = path.rsplit('/').next().unwrap_or_default();
            found.extend(words(name).filter(|w| is_terminal(w)));
        }
    }
    found.sort();
    found.dedup();
    let securetty = lines(root, "/etc/securetty");
    let root_on_serial = securetty.is_empty() || securetty.iter().any(|l| l == "ttyS0");
    Gettys { terminals: found, root_on_serial }
}

fn is_terminal(word: &str) -> bool {
    ["hvc", "xvc", "ttyS", "tty"].iter().any(|p| {
        let rest = word.strip_prefix(p).unwrap_or_default();
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn entries() {
        let text =
            "# c\nproc /proc proc defaults 0 0\n/dev/xvda2 / ext4 noatime 0 1\nUUID=x /b ext4\n";
        let all = fstab(&MemFs::new().file("/etc/fstab", text));
        let short: Vec<_> =
            all.iter().map(|e| (&*e.source, &*e.options, e.machine_dependent)).collect();
        let proc = ("proc", "defaults", false);
        assert_eq!(short, [proc, ("/dev/xvda2", "noatime", true), ("UUID=x", "", false)]);
    }

    #[test]
    fn networks() {
        let root = MemFs::new()
            .file("/etc/network/interfaces", "auto eth0\n# eth7\niface eth0 inet dhcp\n")
            .file("/etc/sysconfig/network-scripts/ifcfg-eth1", "HWADDR=00:16:3E:AA:bb:01\n")
            .file("/etc/netplan/x.yaml", "ethernets:\n  enX0:\n    dhcp4: true\n");
        let found = interfaces(&root);
        assert_eq!(found.names, ["enX0", "eth0", "eth1"]);
        assert_eq!(found.addresses, ["00:16:3e:aa:bb:01"]);
        assert_eq!(found.files.len(), 3);
        assert_eq!(interfaces(&MemFs::new()), Interfaces::default());
    }

    #[test]
    fn logins() {
        let root = MemFs::new()
            .file("/etc/inittab", "1:2345:respawn:/sbin/getty 38400 hvc0\n#2:x:getty tty2\n")
            .file("/etc/init/tty1.conf", "exec /sbin/getty -8 38400 tty1\n")
            .symlink("/etc/systemd/system/getty.target.wants/serial-getty@ttyS1.service", "/x")
            .file("/etc/securetty", "tty1\nhvc0\n");
        let found = gettys(&root);
        assert_eq!(found.terminals, ["hvc0", "tty1", "ttyS1"]);
        assert!(!found.root_on_serial);
        assert!(gettys(&MemFs::new()).root_on_serial);
        let upgraded = root.file("/lib/systemd/systemd", "");
        let upgraded = upgraded.symlink("/sbin/init", "/lib/systemd/systemd");
        assert_eq!(gettys(&upgraded).terminals, ["ttyS1"]);
    }
}
