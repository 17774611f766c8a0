//! Names of disks and partitions that depend on the machine: `/dev/xvda2`, `sdb`, `hdc`, `d0p1`, and
//! the device numbers of Xen's block interface.
//!
//! A guest names its disks in fstab, boot menus and udev's `/dev/disk/by-path`; a domU config promises
//! them. All of these are parsed here and nowhere else.
//!
//! Sources: xen-vbd-interface(7) (docs/misc/vbd-interface.txt before Xen 4.7); libxl's
//! `libxl__device_disk_dev_number` for the limits of a config; Linux's `sd_format_disk_name` for letters.

use std::fmt;

/// The driver that a disk's name belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// `xvd*`: Xen's own.
    Xvd,
    /// `sd*`: SCSI; another name for a Xen disk in a PV guest.
    Sd,
    /// `hd*`: IDE; another name for a Xen disk in a PV guest.
    Hd,
    /// `vd*`: virtio, which no Xen config can promise.
    Vd,
}

impl Family {
    const ALL: [Self; 4] = [Self::Xvd, Self::Sd, Self::Hd, Self::Vd];

    /// The prefix of the device's name: `xvd`, `sd`, `hd` or `vd`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Xvd => "xvd",
            Self::Sd => "sd",
            Self::Hd => "hd",
            Self::Vd => "vd",
        }
    }

    /// Greatest disk and partition numbers that a domU config can name; `None` for virtio.
    fn vdev_limits(self) -> Option<(u32, u32)> {
        match self {
            Self::Xvd => Some((MAX_DISK, 255)),
            Self::Sd => Some((15, 15)),
            Self::Hd => Some((3, 63)),
            Self::Vd => None,
        }
    }

    /// Greatest disk number of a name in a guest: four letters, which is more than any of these
    /// drivers counts to, but for Xen's.
    fn max_disk(self) -> u32 {
        match self {
            Self::Xvd => MAX_DISK,
            _ => 26 + 26 * 26 + 26 * 26 * 26 + 26 * 26 * 26 * 26 - 1,
        }
    }
}

/// Greatest disk number in Xen's block interface, which has 20 bits for it.
const MAX_DISK: u32 = (1 << 20) - 1;

/// A disk, or one partition of it, as the machine's drivers name it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceName {
    /// The disk's number: 0 for `xvda`.
    pub disk: u32,
    /// The driver.
    pub family: Family,
    /// The partition's number from 1, or 0 for the whole disk.
    pub partition: u32,
}

impl DeviceName {
    /// Parses a name as a guest uses it: `/dev/xvda2`, `sdb`, `hda12`, `vda`, with or without `/dev/`.
    /// `None` for a name that means the same on every machine, and for anything else.
    pub fn parse(name: &str) -> Option<Self> {
        Self::parse_letters(without_dir(name))
    }

    fn parse_letters(name: &str) -> Option<Self> {
        let (family, rest) = Family::ALL
            .into_iter()
            .find_map(|family| Some((family, name.strip_prefix(family.prefix())?)))?;
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let disk = disk_number(&rest[..rest.len() - digits.len()])?;
        let partition = if digits.is_empty() { 0 } else { plain_number(digits, 1)? };
        (disk <= family.max_disk()).then_some(Self { disk, family, partition })
    }

    /// Parses a name as a domU config promises it to a guest: `xvdb2`, `sda1`, `hdc`, `d0p1`, within
    /// the limits of libxl. `/dev/` in front, as xm allowed it, is dropped.
    pub fn parse_vdev(name: &str) -> Option<Self> {
        let name = without_dir(name);
        let found = Self::parse_letters(name).or_else(|| Self::parse_numbers(name))?;
        let (max_disk, max_partition) = found.family.vdev_limits()?;
        (found.disk <= max_disk && found.partition <= max_partition).then_some(found)
    }

    /// `d0p1`: disk and partition by number.
    fn parse_numbers(name: &str) -> Option<Self> {
        let (disk, partition) = name.strip_prefix('d')?.split_once('p')?;
        let (disk, partition) = (plain_number(disk, 0)?, plain_number(partition, 0)?);
        Some(Self { disk, family: Family::Xvd, partition })
    }

    /// The device that a number of Xen's block interface means (xen-vbd-interface(7), "Concrete encoding
    /// in the VBD interface"): 51714 is `xvda2`, 5632 is `hdc`. `None` for a number that is reserved or
    /// belongs to another family. Several numbers can mean one device.
    pub fn from_vbd_number(number: u32) -> Option<Self> {
        let minor = number & 0xff;
        let (family, disk, partition) = match (number >> 28, number >> 8) {
            (1, _) => (Family::Xvd, (number >> 8) & MAX_DISK, minor),
            (0, 202) => (Family::Xvd, minor >> 4, minor & 15),
            (0, 8) => (Family::Sd, minor >> 4, minor & 15),
            // Each of the two IDE majors has two disks, with 64 minors each.
            (0, 3) if minor < 128 => (Family::Hd, minor >> 6, minor & 63),
            (0, 22) if minor < 128 => (Family::Hd, 2 + (minor >> 6), minor & 63),
            _ => return None,
        };
        Some(Self { disk, family, partition })
    }

    /// The number that [`from_vbd_number`](Self::from_vbd_number) reads as this device; `None` when the
    /// interface has none.
    pub fn vbd_number(self) -> Option<u32> {
        let Self { disk, family, partition } = self;
        let (max_disk, max_partition) = family.vdev_limits()?;
        if disk > max_disk || partition > max_partition {
            return None;
        }
        Some(match family {
            Family::Xvd if disk < 16 && partition < 16 => 202 << 8 | disk << 4 | partition,
            Family::Xvd => 1 << 28 | disk << 8 | partition,
            Family::Sd => 8 << 8 | disk << 4 | partition,
            Family::Hd if disk < 2 => 3 << 8 | disk << 6 | partition,
            Family::Hd => 22 << 8 | (disk - 2) << 6 | partition,
            Family::Vd => return None,
        })
    }

    /// The name of the whole disk: `xvda`, `xvdaa`.
    pub fn disk_name(self) -> String {
        format!("{}{}", self.family.prefix(), self.letters())
    }

    /// The disk's letters alone: `a` for `xvda2` and `hda`.
    pub fn letters(self) -> String {
        disk_letters(self.disk)
    }

    /// Number of the partition on the new disk: a disk without one held a bare filesystem under Xen,
    /// which is partition 1 now.
    pub fn number(self) -> u32 {
        self.partition.max(1)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.disk_name())?;
        if self.partition > 0 { write!(f, "{}", self.partition) } else { Ok(()) }
    }
}

fn without_dir(name: &str) -> &str {
    name.strip_prefix("/dev/").unwrap_or(name)
}

/// The letters of a disk: 0 is `a`, 25 is `z`, 26 is `aa`.
pub fn disk_letters(disk: u32) -> String {
    let mut letters = Vec::new();
    let mut rest = u64::from(disk) + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(b'a' + (rest % 26) as u8);
        rest /= 26;
    }
    letters.iter().rev().map(|&b| char::from(b)).collect()
}

/// The number of the disk with these letters, at most [`MAX_DISK`]; `None` for anything else.
fn disk_number(letters: &str) -> Option<u32> {
    let mut number = 0u32; // counts from 1, as spreadsheet columns do
    for c in letters.bytes() {
        if !c.is_ascii_lowercase() {
            return None;
        }
        number = number * 26 + u32::from(c - b'a') + 1;
        if number > MAX_DISK + 1 {
            return None;
        }
    }
    number.checked_sub(1)
}

/// A decimal number of at least `min`, without sign or leading zeros.
fn plain_number(digits: &str, min: u32) -> Option<u32> {
    let is_plain = digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    digits.parse().ok().filter(|n| is_plain && *n >= min)
}

#[cfg(test)]
mod tests {
    use super::Family::{Hd, Sd, Vd, Xvd};
    use super::*;
    use proptest::prelude::*;

    fn name(disk: u32, family: Family, partition: u32) -> DeviceName {
        DeviceName { disk, family, partition }
    }

    #[test]
    fn names_in_guests() {
        for (text, expected, letters, number) in [
            ("/dev/xvda2", name(0, Xvd, 2), "a", 2),
            ("/dev/sdb", name(1, Sd, 0), "b", 1),
            ("hdaa12", name(26, Hd, 12), "aa", 12),
            ("/dev/xvdab12", name(27, Xvd, 12), "ab", 12),
            ("vda", name(0, Vd, 0), "a", 1),
            ("/dev/sdq20", name(16, Sd, 20), "q", 20),
            ("xvdbgqcv", name(MAX_DISK, Xvd, 0), "bgqcv", 1),
        ] {
            let found = DeviceName::parse(text).unwrap();
            assert_eq!(found, expected, "{text}");
            assert_eq!((found.letters().as_str(), found.number()), (letters, number), "{text}");
        }
        for other in [
            "",
            "proc",
            "UUID=x",
            "/dev/mapper/sda",
            "/dev/xvd1",
            "/dev/xvd",
            "/dev/sdA1",
            "/dev/disk/x",
            "/dev/md0",
            "/dev/nvme0n1p1",
            "/dev/sda0",
            "/dev/sda01",
            "/dev/sda+1",
            "/dev/sda99999999999",
            "/dev/sdaaaaa",
            "xvdbgqcw",
            "xvdzzzzzzzzzzzzzzzzzzz",
            "xvdé",
            "d0p1",
            "/dev//dev/sda",
        ] {
            assert_eq!(DeviceName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn vbd_numbers() {
        for (number, expected) in [
            (51712, name(0, Xvd, 0)),
            (51714, name(0, Xvd, 2)),
            (51728, name(1, Xvd, 0)),
            (51952, name(15, Xvd, 0)),
            (51967, name(15, Xvd, 15)),
            (268_439_552, name(16, Xvd, 0)),
            (268_446_722, name(44, Xvd, 2)),
            (0x1000_0010, name(0, Xvd, 16)),
            (0x1fff_ffff, name(MAX_DISK, Xvd, 255)),
            (2048, name(0, Sd, 0)),
            (2049, name(0, Sd, 1)),
            (2065, name(1, Sd, 1)),
            (768, name(0, Hd, 0)),
            (831, name(0, Hd, 63)),
            (832, name(1, Hd, 0)),
            (5632, name(2, Hd, 0)),
            (5633, name(2, Hd, 1)),
            (5696, name(3, Hd, 0)),
            (5759, name(3, Hd, 63)),
        ] {
            assert_eq!(DeviceName::from_vbd_number(number), Some(expected), "{number}");
            assert_eq!(expected.vbd_number(), Some(number), "{expected}");
        }
        // Two numbers mean xvdb1; the short one is written.
        let twice = DeviceName::from_vbd_number(0x1000_0101).unwrap();
        assert_eq!(twice.vbd_number(), Some(51729));
        for other in [0, 1, 257, 3 << 8 | 128, 22 << 8 | 255, 0x2000_0000, u32::MAX] {
            assert_eq!(DeviceName::from_vbd_number(other), None, "{other}");
        }
        for none in [name(0, Vd, 0), name(16, Sd, 0), name(4, Hd, 0), name(0, Xvd, 256)] {
            assert_eq!(none.vbd_number(), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn printed_as_read(
            disk in prop_oneof![0u32..800, 0..=MAX_DISK],
            partition in prop_oneof![0u32..300, any::<u32>()],
            family in 0usize..4,
        ) {
            let family = Family::ALL[family];
            let name = name(disk.min(family.max_disk()), family, partition);
            prop_assert_eq!(DeviceName::parse(&name.to_string()), Some(name));
            prop_assert_eq!(DeviceName::parse(&format!("/dev/{name}")), Some(name));
            match name.vbd_number() {
                Some(number) => {
                    prop_assert_eq!(DeviceName::from_vbd_number(number), Some(name));
                    prop_assert_eq!(DeviceName::parse_vdev(&name.to_string()), Some(name));
                }
                None => prop_assert_eq!(DeviceName::parse_vdev(&name.to_string()), None),
            }
        }

        #[test]
        fn no_number_panics(number: u32) {
            if let Some(name) = DeviceName::from_vbd_number(number) {
                let again = name.vbd_number().and_then(DeviceName::from_vbd_number);
                prop_assert_eq!(again, Some(name));
            }
        }
    }
}
