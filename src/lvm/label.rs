//! The label and the header of a physical volume.

use super::crc::crc;
use crate::bytes::ReadAt;
use crate::{Error, ErrorKind, Result};

/// Bytes of a sector.
const SECTOR: usize = 512;
/// The label is in one of the first sectors (`LABEL_SCAN_SECTORS`).
const SCANNED: usize = 4;
/// Bytes of a UUID, which is printed with dashes.
pub(super) const UUID_LEN: usize = 32;

/// An area of a physical volume, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Area {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What the header of a physical volume says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Label {
    /// The UUID, without dashes.
    pub(super) uuid: String,
    /// Areas that hold metadata; none on a volume made with `--metadatacopies 0`.
    pub(super) metadata: Vec<Area>,
}

/// The label of the physical volume in `bytes`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] without a valid label; errors from reading.
pub(super) fn read_label(bytes: &dyn ReadAt) -> Result<Label> {
    let mut head = vec![0; (SCANNED * SECTOR).min(bytes.len().try_into().unwrap_or(usize::MAX))];
    bytes.read_at(&mut head, 0).map_err(|e| Error::io("cannot read its label", e))?;
    let mut damage = "it has no label";
    for (number, sector) in head.chunks_exact(SECTOR).enumerate() {
        if !sector.starts_with(b"LABELONE") || &sector[24..32] != b"LVM2 001" {
            continue;
        }
        let claimed = u64_at(sector, 8);
        if crc(&sector[20..]) != u32_at(sector, 16) || claimed != number as u64 {
            damage = "the checksum of its label is wrong";
            continue;
        }
        match header(sector) {
            Some(label) => return Ok(label),
            None => damage = "its header is damaged",
        }
    }
    Err(Error::new(ErrorKind::Corrupt, damage))
}

/// `struct pv_header`: UUID, length, data areas, metadata areas; each list ends with zeros.
fn header(sector: &[u8]) -> Option<Label> {
    let start = usize::try_from(u32_at(sector, 20)).ok()?;
    let header = sector.get(start..).filter(|h| h.len() >= UUID_LEN + 8)?;
    let uuid = std::str::from_utf8(&header[..UUID_LEN]).ok()?;
    if !uuid.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let mut areas = header[UUID_LEN + 8..]
        .chunks_exact(16)
        .map(|area| Area { offset: u64_at(area, 0), len: u64_at(area, 8) });
    // The data areas say nothing that the metadata does not.
    areas.by_ref().find(|area| area.offset == 0)?;
    let metadata = areas.take_while(|area| area.offset != 0).collect();
    Some(Label { uuid: uuid.to_owned(), metadata })
}

/// The number at `at`; the caller has checked the length.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]))
}

/// As [`u32_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::super::testing::Pv;
    use super::*;

    fn problem(bytes: &Vec<u8>) -> String {
        read_label(bytes).unwrap_err().to_string()
    }

    #[test]
    fn labels() {
        let bytes = Pv::new('a', 64 << 10).bytes();
        let label = read_label(&bytes).unwrap();
        assert_eq!(label.uuid, "a".repeat(32));
        assert_eq!(label.metadata.len(), 1);
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            problem(&bytes)
        };
        assert_eq!(with(512, b'l'), "it has no label");
        assert_eq!(with(600, 7), "the checksum of its label is wrong");
        // A label that was copied to another sector.
        let mut moved = bytes.clone();
        moved.copy_within(512..1024, 0);
        moved[512..1024].fill(0);
        assert_eq!(problem(&moved), "the checksum of its label is wrong");
        for len in 0..1024 {
            assert!(read_label(&bytes[..len].to_vec()).is_err());
        }
    }

    #[test]
    fn headers_that_reach_past_the_sector() {
        for start in [0, 472, 473, 511, 512, u32::MAX] {
            let mut bytes = Pv::new('a', 64 << 10).bytes();
            bytes[512 + 20..512 + 24].copy_from_slice(&start.to_le_bytes());
            let sum = crc(&bytes[512 + 20..1024]);
            bytes[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(problem(&bytes), "its header is damaged", "{start}");
        }
    }
}
