//! Virtual device names: which disk and which of its partitions a disk spec stands for.
//!
//! Source: xen-vbd-interface(7), and libxl's `libxl__device_disk_dev_number` for the limits.

use std::fmt;

use super::config::parse_number;
use super::lexer::clip;
use crate::{Error, ErrorKind, Result};

/// The device family that the guest was promised.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Interface {
    /// `xvd*`, Xen's own.
    Xvd,
    /// `sd*`: emulated SCSI in an HVM guest, another name for a Xen disk in a PV guest.
    Sd,
    /// `hd*`: emulated IDE in an HVM guest, another name for a Xen disk in a PV guest.
    Hd,
}

impl Interface {
    /// The prefix of the device's name: `xvd`, `sd` or `hd`.
    pub fn prefix(self) -> &'static str {
        match self {
            Interface::Xvd => "xvd",
            Interface::Sd => "sd",
            Interface::Hd => "hd",
        }
    }

    /// Greatest disk and partition number.
    fn limits(self) -> (u32, u32) {
        match self {
            Interface::Xvd => ((1 << 20) - 1, 255),
            Interface::Sd => (15, 15),
            Interface::Hd => (3, 63),
        }
    }
}

/// A disk, or one partition of it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Vdev {
    /// The disk's number: 0 for `xvda`.
    pub disk: u32,
    /// The device family.
    pub interface: Interface,
    /// The partition's number from 1, or 0 for the whole disk.
    pub partition: u32,
}

impl Vdev {
    /// Parses `xvdb2`, `sda1`, `hdc`, `d0p1`, or a device number such as `0xca01` (202 << 8 | 1).
    /// `/dev/` in front, as xm allowed it, is dropped.
    ///
    /// # Errors
    /// `Corrupt` if it is no device name, `Unsupported` for a device number of another family.
    pub fn parse(name: &str) -> Result<Self> {
        let name = name.strip_prefix("/dev/").unwrap_or(name);
        for interface in [Interface::Xvd, Interface::Sd, Interface::Hd] {
            if let Some(vdev) = letters(name, interface) {
                return Ok(vdev);
            }
        }
        if let Some(vdev) = disk_and_partition(name) {
            return Ok(vdev);
        }
        match parse_number(name) {
            Some(number) => decode(number).ok_or_else(|| {
                let what = format!(
                    "vdev {} is a device number of no xvd, sd or hd disk (xen-vbd-interface(7))",
                    clip(name)
                );
                Error::new(ErrorKind::Unsupported, what)
            }),
            None => {
                let what = format!(
                    "'{}' is no device name; one looks like xvda, xvda1, sda1, hdc or d0p1",
                    clip(name)
                );
                Err(Error::new(ErrorKind::Corrupt, what))
            }
        }
    }

    /// The name of the whole disk: `xvda`, `xvdaa`.
    pub fn disk_name(self) -> String {
        format!("{}{}", self.interface.prefix(), disk_letters(self.disk))
    }
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.disk_name())?;
        if self.partition > 0 { write!(f, "{}", self.partition) } else { Ok(()) }
    }
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

fn letters(name: &str, interface: Interface) -> Option<Vdev> {
    let rest = name.strip_prefix(interface.prefix())?;
    let (max_disk, max_partition) = interface.limits();
    let digits = rest.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let letters = &rest[..rest.len() - digits.len()];
    let mut disk = 0u32; // from 1, as in spreadsheet columns
    for c in letters.bytes() {
        disk = disk * 26 + u32::from(c - b'a') + 1;
        if disk > max_disk + 1 {
            return None;
        }
    }
    let disk = disk.checked_sub(1)?;
    let partition = if digits.is_empty() { 0 } else { plain_number(digits, 1, max_partition)? };
    Some(Vdev { disk, interface, partition })
}

fn disk_and_partition(name: &str) -> Option<Vdev> {
    let (disk, partition) = name.strip_prefix('d')?.split_once('p')?;
    let (max_disk, max_partition) = Interface::Xvd.limits();
    let disk = plain_number(disk, 0, max_disk)?;
    let partition = plain_number(partition, 0, max_partition)?;
    Some(Vdev { disk, interface: Interface::Xvd, partition })
}

/// A decimal number without sign and leading zeroes.
fn plain_number(digits: &str, min: u32, max: u32) -> Option<u32> {
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| (min..=max).contains(n))
}

/// The device numbers of xen-vbd-interface(7), "Concrete encoding in the VBD interface".
fn decode(number: u64) -> Option<Vdev> {
    let n = u32::try_from(number).ok()?;
    let vdev = |interface, disk, partition| Some(Vdev { disk, interface, partition });
    if n >> 28 == 1 {
        return vdev(Interface::Xvd, (n >> 8) & 0xf_ffff, n & 0xff);
    }
    match n >> 8 {
        202 => vdev(Interface::Xvd, (n >> 4) & 15, n & 15),
        8 => vdev(Interface::Sd, (n >> 4) & 15, n & 15),
        3 => vdev(Interface::Hd, (n >> 6) & 1, n & 63),
        22 => vdev(Interface::Hd, 2 + ((n >> 6) & 1), n & 63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        use Interface::{Hd, Sd, Xvd};
        for (name, interface, disk, partition) in [
            ("xvda", Xvd, 0, 0),
            ("xvda1", Xvd, 0, 1),
            ("/dev/xvdb2", Xvd, 1, 2),
            ("xvdz", Xvd, 25, 0),
            ("xvdaa", Xvd, 26, 0),
            ("xvdaa15", Xvd, 26, 15),
            ("xvda16", Xvd, 0, 16),
            ("xvda255", Xvd, 0, 255),
            ("xvdba", Xvd, 52, 0),
            ("sda1", Sd, 0, 1),
            ("sdp15", Sd, 15, 15),
            ("hdc", Hd, 2, 0),
            ("hda63", Hd, 0, 63),
            ("d0p0", Xvd, 0, 0),
            ("d0p1", Xvd, 0, 1),
            ("d26p3", Xvd, 26, 3),
            ("d1048575p255", Xvd, 1_048_575, 255),
            ("51712", Xvd, 0, 0),
            ("51714", Xvd, 0, 2),
            ("0xca11", Xvd, 1, 1),
            ("268442113", Xvd, 26, 1),
            ("0x10000010", Xvd, 0, 16),
            ("2049", Sd, 0, 1),
            ("0x811", Sd, 1, 1),
            ("768", Hd, 0, 0),
            ("769", Hd, 0, 1),
            ("833", Hd, 1, 1),
            ("5632", Hd, 2, 0),
            ("5696", Hd, 3, 0),
        ] {
            assert_eq!(Vdev::parse(name).unwrap(), Vdev { disk, interface, partition }, "{name}");
        }
    }

    #[test]
    fn refused() {
        for name in [
            "",
            "xvd",
            "d0",
            "xvd1",
            "xvda0",
            "xvda01",
            "xvda256",
            "xvda-1",
            "xvdA",
            "xvda1x",
            "sdq",
            "sda16",
            "hde",
            "hda64",
            "vda",
            "sr0",
            "d1p",
            "dp1",
            "d1048576p0",
            "d0p256",
            "d+1p1",
            "-1",
            "0x",
            "257",
            "0x20000000",
            "99999999999999999999",
            "xvdzzzzzzzzzzzzzzzzzzz",
            "xvdé",
            "d0p1\0",
        ] {
            assert!(Vdev::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn printed_as_read() {
        for disk in [0, 1, 25, 26, 27, 51, 52, 701, 702, 703, 18_277, 18_278, (1 << 20) - 1] {
            let vdev = Vdev { disk, interface: Interface::Xvd, partition: 7 };
            assert_eq!(Vdev::parse(&vdev.to_string()).unwrap(), vdev);
        }
    }
}
