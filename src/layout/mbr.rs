//! The master boot record.

use super::{Layout, Placed, SECTOR};
use crate::{Error, ErrorKind, Result};
use mbrman::{CHS, MBRHeader, MBRPartitionEntry};
use std::io::Cursor;

/// Bytes of boot loader code that an MBR can hold before the disk signature.
pub const BOOTSTRAP_LEN: usize = 440;

const HEADS: u64 = 255;
const SECTORS_PER_TRACK: u64 = 63;

/// Sector 0 of the disk: `code`, the disk signature, up to four primary partitions, 0xAA55.
///
/// # Errors
/// [`ErrorKind::TooLarge`] if `code` does not fit or 32 bits cannot address a partition;
/// [`ErrorKind::Invalid`] for a partition number or type that an MBR does not support.
pub fn mbr_sector(layout: &Layout, disk_id: u32, code: &[u8]) -> Result<[u8; SECTOR as usize]> {
    check_code(code)?;
    let mut header = MBRHeader::new(disk_id.to_le_bytes());
    header.bootstrap_code[..code.len()].copy_from_slice(code);
    for p in &layout.partitions {
        let lba = |bytes: u64| {
            u32::try_from(bytes / SECTOR)
                .map_err(|e| Error::with_source(ErrorKind::TooLarge, "past 2 TiB in an MBR", e))
        };
        let entry = MBRPartitionEntry {
            boot: if p.active { mbrman::BOOT_ACTIVE } else { mbrman::BOOT_INACTIVE },
            first_chs: chs(p.start / SECTOR),
            sys: type_of(p)?,
            last_chs: chs(p.end() / SECTOR - 1),
            starting_lba: lba(p.start)?,
            sectors: lba(p.len)?,
        };
        *header.get_mut(p.number as usize).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("an MBR has no partition {}", p.number))
        })? = entry;
    }
    let mut sector = Cursor::new(Vec::with_capacity(SECTOR as usize));
    header
        .write_into(&mut sector)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "the MBR cannot be encoded", e))?;
    sector.into_inner().try_into().map_err(|v: Vec<u8>| {
        Error::new(ErrorKind::Invalid, format!("the MBR came out as {} bytes", v.len()))
    })
}

/// Refuses boot code that does not fit into an MBR.
///
/// # Errors
/// [`ErrorKind::TooLarge`].
pub fn check_code(code: &[u8]) -> Result<()> {
    if code.len() > BOOTSTRAP_LEN {
        let what = format!("the boot code has {} bytes; an MBR holds {BOOTSTRAP_LEN}", code.len());
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    Ok(())
}

fn type_of(p: &Placed) -> Result<u8> {
    let row = p.kind.properties();
    row.mbr.ok_or_else(|| {
        let what = format!("an MBR has no type for partition {} ({})", p.number, row.name);
        Error::new(ErrorKind::Invalid, what)
    })
}

/// Cylinder, head and sector of `lba` for the 255/63 geometry that BIOSes assume; FE FF FF if three
/// bytes are not enough.
fn chs(lba: u64) -> CHS {
    let cylinder = lba / (HEADS * SECTORS_PER_TRACK);
    match u16::try_from(cylinder) {
        Ok(cylinder @ 0..=1023) => CHS::new(
            cylinder,
            (lba / SECTORS_PER_TRACK % HEADS) as u8,
            (lba % SECTORS_PER_TRACK + 1) as u8,
        ),
        _ => CHS::new(1023, 254, 63),
    }
}

/// Parses a disk signature as written by `fdisk` and `root=PARTUUID=`: 8 hex digits, `0x` allowed.
///
/// # Errors
/// [`ErrorKind::Invalid`] for anything else, and for 0, which means "no signature".
pub fn parse_disk_id(text: &str) -> Result<u32> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    Some(digits)
        .filter(|d| d.len() <= 8 && d.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|d| u32::from_str_radix(d, 16).ok())
        .filter(|id| *id != 0)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("`{text}` is not a disk identifier; write up to 8 hex digits, not 0"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{LayoutSpec, PartitionKind, PartitionSpec};

    #[test]
    fn chs_is_exact_then_saturates() {
        assert_eq!(chs(0), CHS::new(0, 0, 1));
        assert_eq!(chs(2048), CHS::new(0, 32, 33));
        assert_eq!(chs(1023 * 255 * 63 + 254 * 63 + 62), CHS::new(1023, 254, 63));
        assert_eq!(chs(1024 * 255 * 63), CHS::new(1023, 254, 63));
        assert_eq!(chs(u64::MAX / 512), CHS::new(1023, 254, 63));
    }

    #[test]
    fn bytes_of_a_known_table() {
        let layout = Layout::compute(&LayoutSpec {
            align: 1 << 20,
            gap: 1 << 20,
            table: None,
            partitions: vec![PartitionSpec {
                number: 2,
                len: 3 << 40 >> 1,
                kind: PartitionKind::Linux,
                active: true,
            }],
        })
        .unwrap();
        let mbr = mbr_sector(&layout, 0x1234_abcd, &[0xeb, 0xfe]).unwrap();
        assert_eq!(&mbr[..4], &[0xeb, 0xfe, 0, 0]);
        assert_eq!(&mbr[440..446], &[0xcd, 0xab, 0x34, 0x12, 0, 0]);
        assert_eq!(&mbr[446..462], &[0; 16], "entry 1 is free");
        assert_eq!(
            &mbr[462..478],
            &[0x80, 32, 33, 0, 0x83, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0, 0, 0xc0]
        );
        assert_eq!(&mbr[510..], &[0x55, 0xaa]);
        assert_eq!(mbr_sector(&layout, 1, &[0; 441]).unwrap_err().kind(), ErrorKind::TooLarge);
        let mut bios_boot = layout;
        bios_boot.partitions[0].kind = PartitionKind::BiosBoot;
        assert_eq!(mbr_sector(&bios_boot, 1, &[]).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn disk_ids() {
        assert_eq!(parse_disk_id("0xDEADbeef").unwrap(), 0xdead_beef);
        assert_eq!(parse_disk_id("1").unwrap(), 1);
        for bad in ["", "0", "0x", "123456789", "xyz", "+1"] {
            assert!(parse_disk_id(bad).is_err(), "{bad}");
        }
    }
}
