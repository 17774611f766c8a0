//! Names of network interfaces.

use super::Step;
use crate::Result;
use crate::adapt::MAX_FILE;
use crate::adapt::draft::Draft;
use crate::guest::fs::GuestFs;

/// Name of the step.
pub const NETWORK: &str = "network";

pub(super) const STEP: Step = Step {
    name: NETWORK,
    what: "`net.ifnames=0` on the command line when the network configuration names `eth0`",
    draft,
};

/// What there is to do is done on the command line: see [`old_interface_names`].
fn draft(_: &mut Draft) -> Result<()> {
    Ok(())
}

/// Files and directories in which distributions configure interfaces by name.
const PLACES: [&str; 6] = [
    "/etc/network/interfaces",
    "/etc/network/interfaces.d",
    "/etc/sysconfig/network-scripts",
    "/etc/sysconfig/network",
    "/etc/netplan",
    "/etc/systemd/network",
];
/// Files of one directory that are looked at, at most.
const MOST: usize = 100;

/// Whether the guest's configuration names `eth0` and its like. Under Xen that was the name;
/// on KVM it is `ens3` or so, unless the kernel is told `net.ifnames=0`.
pub fn old_interface_names(root: &dyn GuestFs) -> bool {
    PLACES.iter().any(|place| {
        if let Ok(names) = root.read_dir(place) {
            return names.iter().take(MOST).any(|name| {
                // The file's name may say it: ifcfg-eth0.
                names_eth(name.as_bytes()) || file_names_eth(root, &format!("{place}/{name}"))
            });
        }
        file_names_eth(root, place)
    })
}

fn file_names_eth(root: &dyn GuestFs, path: &str) -> bool {
    root.read(path, MAX_FILE).is_ok_and(|bytes| {
        bytes
            .split(|b| *b == b'\n')
            .filter(|line| !line.trim_ascii_start().starts_with(b"#"))
            .any(names_eth)
    })
}

/// Whether `eth` and a digit stand in `text` as a word of their own.
fn names_eth(text: &[u8]) -> bool {
    text.windows(4).enumerate().any(|(i, w)| {
        let begins = i == 0 || !text[i - 1].is_ascii_alphanumeric();
        begins && w.starts_with(b"eth") && w[3].is_ascii_digit()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::tree::MemFs;

    #[test]
    fn who_says_eth0() {
        let says = |path: &str, text: &str| old_interface_names(&MemFs::new().file(path, text));
        assert!(says("/etc/network/interfaces", "auto lo\niface eth0 inet dhcp\n"));
        assert!(says("/etc/sysconfig/network-scripts/ifcfg-eth0", "ONBOOT=yes\n"));
        assert!(says("/etc/netplan/01.yaml", "network:\n  ethernets:\n    eth0:\n"));
        assert!(says("/etc/systemd/network/a.network", "[Match]\nName=eth1\n"));
        assert!(!says("/etc/network/interfaces", "auto lo\n# iface eth0 inet dhcp\n"));
        assert!(!says("/etc/systemd/network/a.network", "[Match]\nName=ether*\n"));
        assert!(!says("/etc/hostname", "eth0\n"));
    }
}
