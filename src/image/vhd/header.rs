//! The footer and the dynamic disk header of a VHD: parses and checks their bytes.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0, "Hard Disk Footer Format"
//! and "Dynamic Disk Header Format". All numbers are big-endian.

use crate::{Error, ErrorKind, Result};
use uuid::Uuid;

/// Length of the footer and of its copy, in bytes.
pub(super) const FOOTER_LEN: usize = 512;
/// Length of the dynamic disk header, in bytes.
pub(super) const HEADER_LEN: usize = 1024;
/// Bytes of a sector, the unit of the block allocation table.
pub(super) const SECTOR: u64 = 512;

/// Maximum length of the virtual disk: the specification's 2040 GiB, in bytes.
const MAX_SIZE: u64 = 2040 << 30;
/// Smallest and largest block, in bytes. 2 MiB is usual, and Virtual PC supports 512 KiB.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;
/// Maximum number of blocks of a disk: 2040 GiB in blocks of 512 KiB. It limits the table to 16
/// MiB.
const MAX_BLOCKS: u64 = 4 << 20;
/// Maximum length of a parent locator, in bytes.
const MAX_LOCATOR: u32 = 4096;

/// What a VHD stores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// All bytes, in order.
    Fixed,
    /// Only blocks that were written.
    Dynamic,
    /// Only sectors that differ from a parent.
    Differencing,
}

/// The footer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Footer {
    pub(super) kind: Kind,
    /// Length of the virtual disk in bytes.
    pub(super) size: u64,
    pub(super) id: Uuid,
    /// Offset of the dynamic disk header, in bytes; meaningless for a fixed disk.
    pub(super) header_offset: u64,
}

/// The dynamic disk header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    /// Offset of the block allocation table, in bytes.
    pub(super) table_offset: u64,
    /// Length of a block's data in bytes, a power of two.
    pub(super) block_size: u64,
    /// The parent of a differencing disk.
    pub(super) parent: Parent,
}

/// The metadata of a VHD.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Metadata {
    pub(super) footer: Footer,
    /// `None` for a fixed disk.
    pub(super) header: Option<Header>,
}

/// The parent named by a differencing disk. The parent's modification time, which is also recorded,
/// is not compared: copying a chain changes it, and so does XenServer, which marks a parent as
/// hidden after creating the child.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Parent {
    /// Identifier in the parent's footer; nil where the parent is a raw image (XenServer).
    pub(super) id: Uuid,
    /// Its name, as a path or a file name.
    pub(super) name: String,
    /// Where to search for it.
    pub(super) locators: Vec<Locator>,
}

/// Where a parent's path is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Locator {
    pub(super) encoding: Encoding,
    /// First byte of the path in the file.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) len: u32,
}

/// How a parent's path is encoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Encoding {
    /// `W2ru`, `W2ku`: a Windows path in UTF-16.
    Windows,
    /// `MacX`: a `file:` URL in UTF-8, which XenServer writes.
    Url,
}

impl Footer {
    /// Parse a footer or its copy.
    ///
    /// # Errors
    /// `Corrupt` for a missing or damaged footer, `Unsupported` for an unknown version or type.
    pub(super) fn parse(bytes: &[u8; FOOTER_LEN]) -> Result<Self> {
        if !bytes.starts_with(b"conectix") {
            return Err(corrupt("it has no VHD footer"));
        }
        if u32_at(bytes, 64) != checksum(bytes, 64) {
            return Err(corrupt("the checksum of its footer is wrong"));
        }
        let version = u32_at(bytes, 12);
        if version >> 16 != 1 {
            return Err(unsupported(format!("its format version is {:#x}, not 1.0", version)));
        }
        let kind = match u32_at(bytes, 60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => return Err(unsupported(format!("its disk type {other} is unknown"))),
        };
        let size = u64_at(bytes, 48);
        if size == 0 || size > MAX_SIZE || size % SECTOR != 0 {
            return Err(corrupt(format!("its footer claims a disk of {size} bytes")));
        }
        Ok(Self { kind, size, id: uuid_at(bytes, 68), header_offset: u64_at(bytes, 16) })
    }
}

impl Header {
    /// Parse the dynamic disk header of a disk of `size` bytes.
    ///
    /// # Errors
    /// As [`Footer::parse`].
    pub(super) fn parse(bytes: &[u8; HEADER_LEN], size: u64) -> Result<Self> {
        if !bytes.starts_with(b"cxsparse") {
            return Err(corrupt("it has no dynamic disk header"));
        }
        if u32_at(bytes, 36) != checksum(bytes, 36) {
            return Err(corrupt("the checksum of its dynamic disk header is wrong"));
        }
        let version = u32_at(bytes, 24);
        if version >> 16 != 1 {
            return Err(unsupported(format!("its header version is {version:#x}, not 1.0")));
        }
        let block_size = u64::from(u32_at(bytes, 32));
        if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
            return Err(unsupported(format!("it has blocks of {block_size} bytes")));
        }
        let table_entries = u32_at(bytes, 28);
        let blocks = size.div_ceil(block_size);
        if blocks > MAX_BLOCKS || u64::from(table_entries) < blocks {
            return Err(corrupt(format!(
                "its table has {table_entries} entries, and its disk {blocks} blocks"
            )));
        }
        let table_offset = u64_at(bytes, 16);
        Ok(Self { table_offset, block_size, parent: parent(bytes) })
    }
}

fn parent(bytes: &[u8; HEADER_LEN]) -> Parent {
    let locators = bytes[576..768].chunks_exact(24).filter_map(|entry| {
        let encoding = match &entry[..4] {
            b"W2ru" | b"W2ku" => Encoding::Windows,
            b"MacX" => Encoding::Url,
            _ => return None,
        };
        let len = u32_at(entry, 8);
        (1..=MAX_LOCATOR).contains(&len).then(|| Locator {
            encoding,
            offset: u64_at(entry, 16),
            len,
        })
    });
    Parent {
        id: uuid_at(bytes, 40),
        name: utf16(&bytes[64..576], u16::from_be_bytes),
        locators: locators.collect(),
    }
}

/// The path stored in a locator's bytes, with `/` as the separator; `None` if it is not text.
pub(super) fn located(encoding: Encoding, bytes: &[u8]) -> Option<String> {
    match encoding {
        // The specification does not define the byte order; Windows, libvhd and Hyper-V write
        // little-endian.
        Encoding::Windows => Some(utf16(bytes, u16::from_le_bytes).replace('\\', "/")),
        Encoding::Url => {
            let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
            let path = text.strip_prefix("file://").unwrap_or(text);
            percent_decoded(path.strip_prefix("localhost").unwrap_or(path))
        }
    }
    .filter(|path| !path.is_empty())
}

/// UTF-16 up to the end or the first NUL.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(code.unwrap_or(*first));
        if code.is_some() {
            rest = &after[2..];
        }
    }
    String::from_utf8(out).ok()
}

/// The complement of the sum of all bytes except the checksum itself, which is at `at`.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let others = bytes[..at].iter().chain(&bytes[at + 4..]);
    !others.fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_bytes(id)
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{footer, header};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let id = Uuid::from_bytes([7; 16]);
        let parsed = Footer::parse(&footer(4, 10 << 20, id)).unwrap();
        let expected = Footer { kind: Kind::Differencing, size: 10 << 20, id, header_offset: 512 };
        assert_eq!(parsed, expected);
        let parsed = Header::parse(&header(5, 2 << 20, Some((id, "basé.vhd"))), 10 << 20).unwrap();
        assert_eq!((parsed.table_offset, parsed.block_size), (1536, 2 << 20));
        assert_eq!(parsed.parent.id, id);
        assert_eq!(parsed.parent.name, "basé.vhd");
    }

    #[test]
    fn damage_and_nonsense_are_refused() {
        let good = footer(3, 10 << 20, Uuid::nil());
        for at in 0..FOOTER_LEN {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Footer::parse(&bad).is_err(), "byte {at}");
        }
        let good = header(5, 2 << 20, None);
        for at in 0..HEADER_LEN {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Header::parse(&bad, 10 << 20).is_err(), "byte {at}");
        }
        for (kind, size) in [(0, 1 << 20), (5, 1 << 20), (3, 0), (3, 1000), (3, MAX_SIZE + 512)] {
            assert!(Footer::parse(&footer(kind, size, Uuid::nil())).is_err(), "{kind} {size}");
        }
        for (entries, block, size) in [
            (4, 2 << 20, 10 << 20),
            (5, 3 << 20, 10 << 20),
            (5, 0, 10 << 20),
            (5, 32 << 10, 160 << 10),
            (u32::MAX, 128 << 20, 10 << 20),
            (u32::MAX, 64 << 10, MAX_SIZE),
        ] {
            let bytes = header(entries, block, None);
            assert!(Header::parse(&bytes, size).is_err(), "{entries} {block} {size}");
        }
    }

    #[test]
    fn locators_are_paths() {
        let utf16 =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        for (encoding, bytes, path) in [
            (Encoding::Windows, utf16(".\\base.vhd"), "./base.vhd"),
            (Encoding::Windows, utf16("C:\\disks\\base.vhd\0x"), "C:/disks/base.vhd"),
            (Encoding::Url, b"file://./0b0e.vhd\0\0".to_vec(), "./0b0e.vhd"),
            (Encoding::Url, b"file:///sr/a%20b.vhd".to_vec(), "/sr/a b.vhd"),
            (Encoding::Url, b"file://localhost/sr/x".to_vec(), "/sr/x"),
            (Encoding::Url, b"%zz%4".to_vec(), "%zz%4"),
        ] {
            assert_eq!(located(encoding, &bytes).as_deref(), Some(path));
        }
        assert_eq!(located(Encoding::Url, b"\xff"), None);
        assert_eq!(located(Encoding::Url, b"file://\0"), None);
    }
}
