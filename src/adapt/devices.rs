//! What the guest's old device names mean on the new disk.

use crate::device_name::DeviceName;
use serde::{Deserialize, Serialize};

/// First three bytes of the MAC addresses that QEMU and libvirt generate.
const QEMU_MAC: &str = "52:54:00:";

/// A partition of the new disk.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Drive letters of its disk under Xen: `a` for `xvda`.
    pub disk: String,
    /// Its partition number on that disk.
    pub number: u32,
    /// A name that no other partition has: `UUID=…`, `PARTUUID=…` or a link in `/dev/disk`.
    pub spec: String,
    /// UUID of its contents; `None` if they have none, or if it was not read.
    pub uuid: Option<String>,
    /// Identifier in the partition table, in the form that `PARTUUID=` takes.
    pub partuuid: String,
    /// Label of its contents; `None` if they have none.
    pub label: Option<String>,
    /// Whether it is swap.
    pub swap: bool,
}

impl Device {
    /// The path of its device.
    pub fn path(&self) -> String {
        match self.spec.split_once('=') {
            Some(("UUID", uuid)) => format!("/dev/disk/by-uuid/{uuid}"),
            Some(("PARTUUID", id)) => format!("/dev/disk/by-partuuid/{id}"),
            _ => self.spec.clone(),
        }
    }
}

/// All partitions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Devices {
    /// The root filesystem comes first.
    list: Vec<Device>,
    /// Whether letters and numbers are those that the guest had under Xen.
    same_names: bool,
    /// Whether a UUID or label that no partition has is known to be missing.
    complete: bool,
    /// Whether a loader is stored after the last partition.
    has_tail: bool,
    /// In lower case, with colons.
    macs: Vec<String>,
}

/// What a name in a configuration file means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Meaning<'a> {
    /// A partition of the new disk.
    Present(&'a Device),
    /// A device of the old machine that the new one does not have.
    Missing,
    /// Something else, which means the same on every machine.
    Unrelated,
}

impl Devices {
    /// Partitions, the root filesystem first. `same_names`: letters and numbers are those that the
    /// guest had under Xen.
    pub fn new(list: Vec<Device>, same_names: bool) -> Self {
        Self { list, same_names, ..Self::default() }
    }

    /// Declares that no disk of the new machine holds a filesystem or swap area outside the list,
    /// so that a UUID or label that no partition has belongs to a missing disk.
    #[must_use]
    pub fn and_no_others(mut self) -> Self {
        // The contents of a partition without a UUID of its own, such as a volume group, have UUIDs
        // that have not been read.
        self.complete = self.list.iter().all(|d| d.uuid.is_some());
        self
    }

    /// Declares that a loader is stored after the last partition.
    #[must_use]
    pub fn with_tail(mut self) -> Self {
        self.has_tail = true;
        self
    }

    pub(super) fn has_tail(&self) -> bool {
        self.has_tail
    }

    /// Sets the MAC addresses that the new machine has, as far as they are known.
    #[must_use]
    pub fn with_macs(mut self, macs: &[String]) -> Self {
        self.macs = macs.iter().map(|mac| mac.to_ascii_lowercase()).collect();
        self
    }

    #[cfg(test)]
    pub(super) fn of(list: &[(&str, u32, &str, bool)], same_names: bool) -> Self {
        let device = |&(disk, number, spec, swap): &(&str, u32, &str, bool)| Device {
            disk: disk.into(),
            number,
            spec: spec.into(),
            uuid: spec.strip_prefix("UUID=").map(str::to_owned),
            partuuid: format!("{disk}-0{number}"),
            label: None,
            swap,
        };
        Self::new(list.iter().map(device).collect(), same_names)
    }

    #[cfg(test)]
    pub(super) fn with_label(mut self, disk: &str, number: u32, label: &str) -> Self {
        let mut all = self.list.iter_mut();
        let found = all.find(|d| d.disk == disk && d.number == number).unwrap();
        found.label = Some(label.to_owned());
        self
    }

    /// The root filesystem.
    pub(super) fn root(&self) -> Option<&Device> {
        self.list.first().filter(|d| !d.swap)
    }

    /// The swap areas.
    pub(super) fn swaps(&self) -> impl Iterator<Item = &Device> {
        self.list.iter().filter(|d| d.swap)
    }

    /// Whether no network card of the new machine has the address `mac`, with colons. An address
    /// that QEMU generates is never stale: the guest got it on KVM.
    pub(super) fn is_stale_mac(&self, mac: &str) -> bool {
        !self.has_mac(mac) && !mac.to_ascii_lowercase().starts_with(QEMU_MAC)
    }

    /// Whether a network card of the new machine is known to have the address `mac`.
    pub(super) fn has_mac(&self, mac: &str) -> bool {
        self.macs.contains(&mac.to_ascii_lowercase())
    }

    /// What the device `name`, written as in fstab(5), refers to.
    pub(super) fn meaning(&self, name: &str) -> Meaning<'_> {
        let name = name.trim_matches('"');
        if let Some(uuid) =
            name.strip_prefix("UUID=").or_else(|| name.strip_prefix("/dev/disk/by-uuid/"))
        {
            let has = |d: &Device, uuid: &str| {
                d.uuid.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(uuid))
            };
            return self.only(uuid, has);
        }
        if let Some(label) =
            name.strip_prefix("LABEL=").or_else(|| name.strip_prefix("/dev/disk/by-label/"))
        {
            return self.only(label, |d, label| d.label.as_deref() == Some(label));
        }
        let partuuid =
            name.strip_prefix("PARTUUID=").or_else(|| name.strip_prefix("/dev/disk/by-partuuid/"));
        if let Some(partuuid) = partuuid {
            // Identifiers of the old partition table do not apply to partitions of the new one.
            return self.only(partuuid, |d, id| d.partuuid.eq_ignore_ascii_case(id));
        }
        if let Some(rest) = name.strip_prefix("/dev/disk/by-path/") {
            return match xen_path(rest) {
                Some(device) => self.partition(device),
                // A hardware slot of the old machine.
                None => Meaning::Missing,
            };
        }
        if let Some(id) = name.strip_prefix("/dev/disk/by-id/") {
            let is_drive = OLD_DRIVES.iter().any(|bus| id.starts_with(bus));
            return if is_drive { Meaning::Missing } else { Meaning::Unrelated };
        }
        // Without /dev/ it is a word that only looks like a device name.
        match DeviceName::parse(name).filter(|_| name.starts_with("/dev/")) {
            Some(device) => self.partition(device),
            None => Meaning::Unrelated,
        }
    }

    /// What a machine-independent name refers to. The device is missing if it is known that no
    /// partition `has` it. Of several that have it, it is the root filesystem, else one on the same
    /// disk, else the first.
    fn only(&self, value: &str, has: impl Fn(&Device, &str) -> bool) -> Meaning<'_> {
        let value = value.trim_matches('"');
        let found: Vec<&Device> = self.list.iter().filter(|d| has(d, value)).collect();
        // fstab(5) and udev write a space as `\040` and `\x20`.
        let is_plain = !value.contains('\\');
        match found.as_slice() {
            [] if self.complete && is_plain => Meaning::Missing,
            [] | [_] => Meaning::Unrelated,
            [first, ..] => {
                let root = self.root();
                let is_root = |d: &&&Device| root.is_some_and(|root| root == **d);
                let beside = |d: &&&Device| root.is_some_and(|root| root.disk == d.disk);
                let best = found.iter().find(is_root).or_else(|| found.iter().find(beside));
                Meaning::Present(best.unwrap_or(first))
            }
        }
    }

    fn partition(&self, name: DeviceName) -> Meaning<'_> {
        let (disk, number) = (name.letters(), name.number());
        let same = |d: &&Device| d.disk == disk && d.number == number;
        let here = self.list.iter().filter(|_| self.same_names).find(same);
        here.map_or(Meaning::Missing, Meaning::Present)
    }
}

/// Prefixes of names in `/dev/disk/by-id` that udev derives from a drive's own serial number. Other
/// names, such as those of LVM, RAID and virtio, are the same on every machine.
const OLD_DRIVES: [&str; 6] = ["ata-", "scsi-", "wwn-", "nvme-", "ide-", "usb-"];

/// The device that udev calls `name` in `/dev/disk/by-path` under Xen: `xen-vbd-51712-part2` or,
/// for a partition that is a device of its own, `xen-vbd-51714`.
fn xen_path(name: &str) -> Option<DeviceName> {
    let rest = name.strip_prefix("xen-vbd-")?;
    let (device, part) = match rest.split_once("-part") {
        Some((device, part)) => (device, Some(part.parse::<u32>().ok().filter(|n| *n > 0)?)),
        None => (rest, None),
    };
    let found = DeviceName::from_vbd_number(device.parse().ok()?)?;
    Some(DeviceName { partition: part.unwrap_or(found.partition), ..found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings() {
        let devices = || {
            let list = [("a", 2, "UUID=Ab-1", false), ("b", 1, "UUID=2", true)];
            Devices::of(&list, true).with_label("a", 2, "root")
        };
        let known = devices().and_no_others();
        for (name, here) in [
            ("/dev/xvda2", Some("UUID=Ab-1")),
            ("/dev/xvdb", Some("UUID=2")),
            ("/dev/disk/by-path/xen-vbd-51712-part2", Some("UUID=Ab-1")),
            ("/dev/disk/by-path/xen-vbd-51714", Some("UUID=Ab-1")),
            ("/dev/disk/by-path/xen-vbd-51728", Some("UUID=2")),
            ("/dev/xvdc1", None),
            ("/dev/disk/by-path/xen-vbd-51730", None),
            ("/dev/disk/by-path/pci-0000:00:01.1-ata-1-part2", None),
            ("/dev/disk/by-path/xen-vbd-x", None),
            ("/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part1", None),
            ("UUID=3", None),
            ("/dev/disk/by-uuid/3", None),
            ("LABEL=data", None),
            ("LABEL=Root", None),
            ("/dev/disk/by-label/data", None),
            ("PARTUUID=6a1b2c3d-02", None),
        ] {
            let expected = here.map(str::to_owned);
            match known.meaning(name) {
                Meaning::Present(device) => {
                    assert_eq!(Some(device.spec.clone()), expected, "{name}")
                }
                other => assert_eq!((other, expected), (Meaning::Missing, None), "{name}"),
            }
        }
        for name in [
            "UUID=ab-1",
            "UUID=\"Ab-1\"",
            "/dev/disk/by-uuid/Ab-1",
            "LABEL=root",
            "LABEL=\"root\"",
            "/dev/disk/by-label/root",
            "LABEL=my\\040data",
            "PARTUUID=A-02",
            "/dev/disk/by-id/dm-name-vg-home",
            "/dev/disk/by-id/virtio-xvdb-part1",
            "/dev/mapper/vg-home",
            "xvda2",
            "/swapfile",
        ] {
            assert_eq!(known.meaning(name), Meaning::Unrelated, "{name}");
        }
        for name in ["UUID=3", "LABEL=data", "PARTUUID=6a1b2c3d-02"] {
            assert_eq!(devices().meaning(name), Meaning::Unrelated, "{name} may be anywhere");
        }
        let opaque = Devices::of(&[("a", 1, "PARTUUID=9", false)], true).and_no_others();
        assert_eq!(opaque.meaning("UUID=3"), Meaning::Unrelated, "it may be inside");
        assert_eq!(opaque.meaning("LABEL=x"), Meaning::Unrelated, "it may be inside");
    }

    /// A snapshot of the root's disk is attached too.
    #[test]
    fn of_several_it_is_the_one_beside_the_root() {
        let device = |disk: &str, number, uuid: &str, swap| Device {
            disk: disk.into(),
            number,
            spec: format!("PARTUUID={disk}-{number}"),
            uuid: Some(uuid.into()),
            partuuid: format!("{disk}-{number}"),
            label: Some("data".into()),
            swap,
        };
        let list = [("b", 2, "R"), ("a", 1, "h"), ("a", 2, "r"), ("b", 1, "h")];
        let list = list.map(|(disk, number, uuid)| device(disk, number, uuid, false));
        let devices = Devices::new(list.to_vec(), true).and_no_others();
        for (name, expected) in [
            ("UUID=r", "/dev/disk/by-partuuid/b-2"),
            ("UUID=h", "/dev/disk/by-partuuid/b-1"),
            ("/dev/disk/by-uuid/H", "/dev/disk/by-partuuid/b-1"),
            ("LABEL=data", "/dev/disk/by-partuuid/b-2"),
        ] {
            let Meaning::Present(found) = devices.meaning(name) else { panic!("{name}") };
            assert_eq!(found.path(), expected, "{name}");
            assert_eq!(devices.meaning(&found.spec), Meaning::Unrelated, "once is enough");
        }
        assert_eq!(devices.meaning("UUID=x"), Meaning::Missing);
    }

    #[test]
    fn disks_of_device_numbers() {
        for (name, disk, number) in [
            ("xen-vbd-51712", "a", 1),
            ("xen-vbd-51713", "a", 1),
            ("xen-vbd-51952-part3", "p", 3),
            ("xen-vbd-268439552", "q", 1),
            ("xen-vbd-268446722", "as", 2),
            ("xen-vbd-832-part1", "b", 1),
            ("xen-vbd-2049", "a", 1),
            ("xen-vbd-5632", "c", 1),
            ("xen-vbd-5697", "d", 1),
        ] {
            let found = xen_path(name).map(|d| (d.letters(), d.number()));
            assert_eq!(found, Some((disk.to_owned(), number)), "{name}");
        }
        for other in ["xen-vbd-", "xen-vbd-51712-part0", "xen-vbd-896", "xen-vbd-4294967295"] {
            assert_eq!(xen_path(other), None, "{other}");
        }
    }

    #[test]
    fn macs() {
        let devices = Devices::default().with_macs(&["00:16:3E:00:00:0A".to_owned()]);
        assert!(!devices.is_stale_mac("00:16:3e:00:00:0a"));
        assert!(devices.is_stale_mac("00:16:3E:00:00:0b"));
        assert!(!devices.is_stale_mac("52:54:00:12:34:56"));
    }
}
