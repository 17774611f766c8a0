//! Virtual device names: the disk and partition that a disk spec defines.
//!
//! Source: xen-vbd-interface(7).

use super::config::parse_number;
use super::lexer::clip;
use crate::device_name::DeviceName;
use crate::{Error, ErrorKind, Result};

/// Parses `xvdb2`, `sda1`, `hdc`, `d0p1`, or a device number such as `0xca01` (202 << 8 | 1). A
/// leading `/dev/`, which xm allowed, is dropped.
///
/// # Errors
/// `Corrupt` if it is not a device name, `Unsupported` for a device number of another family.
pub fn parse_vdev(name: &str) -> Result<DeviceName> {
    if let Some(device) = DeviceName::parse_vdev(name) {
        return Ok(device);
    }
    let Some(number) = parse_number(name.strip_prefix("/dev/").unwrap_or(name)) else {
        let what = format!(
            "'{}' is not a device name; use one like xvda, xvda1, sda1, hdc or d0p1",
            clip(name)
        );
        return Err(Error::new(ErrorKind::Corrupt, what));
    };
    u32::try_from(number).ok().and_then(DeviceName::from_vbd_number).ok_or_else(|| {
        let what = format!(
            "vdev {} is not the device number of an xvd, sd or hd disk (xen-vbd-interface(7))",
            clip(name)
        );
        Error::new(ErrorKind::Unsupported, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_name::Family;

    #[test]
    fn names() {
        use Family::{Hd, Sd, Xvd};
        for (name, family, disk, partition) in [
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
            assert_eq!(parse_vdev(name).unwrap(), DeviceName { disk, family, partition }, "{name}");
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
            "896",
            "5888",
            "0x20000000",
            "99999999999999999999",
            "xvdzzzzzzzzzzzzzzzzzzz",
            "xvdé",
            "d0p1\0",
        ] {
            assert!(parse_vdev(name).is_err(), "{name:?}");
        }
    }
}
