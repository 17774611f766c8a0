//! The headers and the region table of a VHDX: which state of the file is current, and where its
//! tables are.
//!
//! Source: [MS-VHDX] 2.2 "Header Section".

use super::patched::Patched;
use crate::crc::CASTAGNOLI;
use crate::image::stored_file::StoredFile;
use crate::{Error, ErrorKind, Result};
use std::io;
use uuid::{Uuid, uuid};

/// Offsets of the two headers, and their length, in bytes.
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_LEN: usize = 4096;
/// Offsets of the two region tables, and their length, in bytes.
const TABLES: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_LEN: usize = 64 << 10;
/// Maximum number of regions.
const MAX_REGIONS: usize = 2047;
/// Regions lie at multiples of this, in bytes.
const REGION_ALIGN: u64 = 1 << 20;

const BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// The current header. Offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    sequence: u64,
    /// Changes when the disk's content changes.
    pub(super) data_write_id: Uuid,
    /// Of the log's entries; nil if there are none.
    pub(super) log_id: Uuid,
    pub(super) log_len: u64,
    pub(super) log_offset: u64,
}

/// A range of the file, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Where the tables are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Regions {
    pub(super) bat: Range,
    pub(super) metadata: Range,
}

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map(u32::from_le_bytes).unwrap_or_default()
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map(u64::from_le_bytes).unwrap_or_default()
}

pub(super) fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let bytes = bytes.get(at..at + 16).and_then(|b| b.try_into().ok());
    bytes.map(Uuid::from_bytes_le).unwrap_or_default()
}

/// Whether the checksum at offset 4 of `bytes` is that of `bytes` with zeros in its place.
pub(super) fn is_intact(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_at_checked(8) else { return false };
    let sum = CASTAGNOLI.update(!0, &head[..4]);
    let sum = CASTAGNOLI.update(CASTAGNOLI.update(sum, &[0; 4]), rest);
    !sum == u32_at(head, 4)
}

/// The current header of `file`: the valid one that was written last.
///
/// # Errors
/// Errors of the file; `Corrupt` without a valid header.
pub(super) fn read(file: &StoredFile) -> Result<Header> {
    let mut magic = [0; 8];
    let cut = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            corrupt("the file ends within its headers; it was cut short")
        }
        _ => Error::io("cannot read its headers", e),
    };
    file.read(&mut magic, 0).map_err(cut)?;
    if &magic != b"vhdxfile" {
        return Err(corrupt("it is not a VHDX file"));
    }
    let mut current: Option<Header> = None;
    for at in HEADERS {
        let mut bytes = vec![0; HEADER_LEN];
        file.read(&mut bytes, at).map_err(cut)?;
        let Some(header) = parse(&bytes)? else { continue };
        if current.is_none_or(|current| current.sequence < header.sequence) {
            current = Some(header);
        }
    }
    current.ok_or_else(|| corrupt("both of its headers are damaged"))
}

/// The header in `bytes`; `None` if it is damaged, as one of the two may be.
fn parse(bytes: &[u8]) -> Result<Option<Header>> {
    if !bytes.starts_with(b"head") || !is_intact(bytes) {
        return Ok(None);
    }
    let version = u32_at(bytes, 64) >> 16;
    if version != 1 {
        let what = format!("it is VHDX of version {version}; 1 is read");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    Ok(Some(Header {
        sequence: u64_at(bytes, 8),
        data_write_id: uuid_at(bytes, 32),
        log_id: uuid_at(bytes, 48),
        log_len: u32_at(bytes, 68).into(),
        log_offset: u64_at(bytes, 72),
    }))
}

/// The region table of the file: the first of the two that is valid.
///
/// # Errors
/// Errors of the file; `Corrupt` without a valid table; `Unsupported` for a required region that is
/// not known.
pub(super) fn read_regions(tables: &Patched) -> Result<Regions> {
    for at in TABLES {
        let mut bytes = vec![0; TABLE_LEN];
        tables.read(&mut bytes, at).map_err(|e| Error::io("cannot read its region table", e))?;
        if bytes.starts_with(b"regi") && is_intact(&bytes) {
            return parse_regions(&bytes, tables.file().len());
        }
    }
    Err(corrupt("both of its region tables are damaged"))
}

fn parse_regions(bytes: &[u8], file_len: u64) -> Result<Regions> {
    let count = u32_at(bytes, 8) as usize;
    if count > MAX_REGIONS {
        return Err(corrupt("its region table is too long"));
    }
    let (mut bat, mut metadata) = (None, None);
    for entry in bytes[16..].chunks_exact(32).take(count) {
        let range = Range { start: u64_at(entry, 16), len: u32_at(entry, 24).into() };
        let kind = uuid_at(entry, 0);
        let slot = match kind {
            BAT => &mut bat,
            METADATA => &mut metadata,
            _ if u32_at(entry, 28) & 1 == 0 => continue,
            _ => {
                let what = format!("it needs a region of the unknown kind {kind}");
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        };
        let end = range.start.checked_add(range.len).filter(|_| range.start >= REGION_ALIGN);
        if end.is_none_or(|end| end > file_len) {
            return Err(corrupt(format!(
                "the file ends at {file_len} bytes, and a table of it is at {}; it was cut short",
                range.start
            )));
        }
        if slot.replace(range).is_some() {
            return Err(corrupt("a region is listed twice"));
        }
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) => Ok(Regions { bat, metadata }),
        _ => Err(corrupt("its region table lacks a region")),
    }
}
