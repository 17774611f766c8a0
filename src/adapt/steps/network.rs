//! Names of network interfaces. `eth0`, and `enX0` as newer systemd calls a Xen card, keep
//! referring to the first card, and rules for cards of the old machine no longer interfere.
//!
//! The kernel calls cards `eth0`, `eth1`, …; with `net.ifnames=0` on its command line udev keeps
//! these names, in the initrd and after it. A file for systemd-udevd then renames `eth0` to `enX0`.

mod cards;
mod names;
mod netplan;
mod networkd;
mod stale;

use super::lines::is_comment;
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::{Draft, MAX_FILE};
use crate::fs::GuestFs;
use cards::Cards;
use names::{NETWORKD, PLACES, old_name, old_names};

/// Name of the step.
pub const NETWORK: &str = "network";

pub(super) const STEP: Step = Step {
    name: NETWORK,
    what: "interfaces stay `eth0`, `enX0` (`net.ifnames=0` on the command line, a `.link` file); matches of the old MAC addresses go",
    draft,
};

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    let mut cards = Cards::new(draft, devices);
    stale::draft(draft, &mut cards);
    netplan::draft(draft, &mut cards);
    networkd::draft(draft, &mut cards);
    links(draft);
    Ok(())
}

/// Maximum number of files that are examined in one directory.
const MOST: usize = 100;

/// Whether the guest's configuration names interfaces as the old machine did: `eth0` and the like,
/// or `enX0`. On KVM they would be `ens3` or similar unless the kernel gets `net.ifnames=0`, so the
/// guest must be started with that.
pub fn old_interface_names(root: &dyn GuestFs) -> bool {
    PLACES.iter().any(|place| {
        if let Ok(names) = root.read_dir(place) {
            return names.iter().take(MOST).any(|name| {
                // The file name may contain the interface name: ifcfg-eth0.
                old_name(name).is_some() || file_has_old_name(root, &format!("{place}/{name}"))
            });
        }
        file_has_old_name(root, place)
    })
}

fn file_has_old_name(root: &dyn GuestFs, path: &str) -> bool {
    let Ok(bytes) = root.read(path, MAX_FILE) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    if text.lines().filter(|line| !is_comment(line)).any(|line| old_name(line).is_some()) {
        return true;
    }
    // A file that matches a card by its MAC address will name it eth0 once it is adapted.
    let devices = Devices::default();
    let mut cards = Cards::of(&devices);
    netplan::edit_file(path, &text, &mut cards).is_some()
        || networkd::edit_file(path, &text, &mut cards).is_some()
}

/// Files that give cards their Xen names `enX0` again, where the configuration uses these.
fn links(draft: &mut Draft) {
    let udevd = ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"];
    if !udevd.iter().any(|path| draft.exists(path)) {
        return;
    }
    let files = PLACES.iter().flat_map(|place| {
        let mut files = draft.paths(place);
        files.push((*place).to_owned());
        files
    });
    let mut numbers = Vec::new();
    let mut linked = Vec::new();
    for path in files {
        let name = path.rsplit('/').next().unwrap_or_default();
        numbers.extend(old_names(name));
        let text = draft.text(&path).unwrap_or_default();
        for line in text.lines().filter(|line| !is_comment(line)) {
            match path.ends_with(".link") && line.trim_start().starts_with("Name=") {
                true => linked.extend(old_names(line)),
                false => numbers.extend(old_names(line)),
            }
        }
    }
    numbers.retain(|name| name.0 == "enX" && !linked.contains(name));
    numbers.sort_unstable();
    numbers.dedup();
    for (kind, number) in numbers {
        let text = format!(
            "# By synthdisk: without Xen, the card that was {kind}{number} is eth{number} at first.\n\
             [Match]\nOriginalName=eth{number}\n\n[Link]\nName={kind}{number}\n"
        );
        let path = format!("{}/10-synthdisk-{kind}{number}.link", NETWORKD);
        draft.rewrite(&path, text, format!("the card eth{number} stays {kind}{number}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{edits, is_settled};
    use crate::fs::MemFs;

    #[test]
    fn who_says_eth0() {
        let says = |path: &str, text: &str| old_interface_names(&MemFs::new().file(path, text));
        assert!(says("/etc/network/interfaces", "auto lo\niface eth0 inet dhcp\n"));
        assert!(says("/etc/sysconfig/network-scripts/ifcfg-eth0", "ONBOOT=yes\n"));
        assert!(says("/etc/netplan/01.yaml", "network:\n  ethernets:\n    eth0:\n"));
        assert!(says(
            "/etc/netplan/01.yaml",
            "    a:\n      match:\n        macaddress: 00:16:3e:00:00:01\n"
        ));
        assert!(says("/etc/systemd/network/a.network", "[Match]\nName=eth1\n"));
        assert!(says("/etc/systemd/network/a.network", "[Match]\nMACAddress=00:16:3e:00:00:01\n"));
        assert!(says("/etc/network/interfaces", "auto enX0\n"));
        assert!(says("/etc/network/interfaces", "iface eth0:1 inet static\n"));
        assert!(says("/etc/conf.d/net", "config_eth0=\"dhcp\"\n"));
        assert!(says(
            "/etc/NetworkManager/system-connections/a",
            "[connection]\ninterface-name=eth0\n"
        ));
        assert!(!says("/etc/network/interfaces", "auto lo\n# iface eth0 inet dhcp\n"));
        assert!(!says("/etc/network/interfaces", "auto enx00163e000001 ens3 enp0s3\n"));
        assert!(!says("/etc/systemd/network/a.network", "[Match]\nName=ether*\n"));
        assert!(!says("/etc/systemd/network/a.network", "[Link]\nMACAddress=00:16:3e:00:00:01\n"));
        assert!(!says("/etc/hostname", "eth0\n"));
    }

    #[test]
    fn en_x0_is_made_from_eth0() {
        let interfaces = "auto enX0 enX1\niface enX0 inet dhcp\niface enX1 inet dhcp\n";
        let fs = || MemFs::new().file("/etc/network/interfaces", interfaces);
        assert_eq!(edits(&fs(), &STEP), [""; 0], "no udev");
        let fs = || fs().file("/usr/lib/systemd/systemd-udevd", "");
        let link = |n: u32| {
            format!(
                "/etc/systemd/network/10-synthdisk-enX{n}.link = # By synthdisk: without Xen, the \
                 card that was enX{n} is eth{n} at first.\n[Match]\nOriginalName=eth{n}\n\n\
                 [Link]\nName=enX{n}\n"
            )
        };
        assert_eq!(edits(&fs(), &STEP), [link(0), link(1)]);
        assert!(is_settled(fs(), &STEP));
        let own = fs().file("/etc/systemd/network/x.link", "[Match]\nPath=*\n[Link]\nName=enX1\n");
        assert_eq!(edits(&own, &STEP), [link(0)]);
        let eth = MemFs::new()
            .file("/usr/lib/systemd/systemd-udevd", "")
            .file("/etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n");
        assert_eq!(edits(&eth, &STEP), [""; 0]);
    }
}
