//! The metadata of a VHDX: lengths, and the parent.
//!
//! Source: [MS-VHDX] 2.6 "Metadata Region".

use super::header::{Range, corrupt, u32_at, u64_at, uuid_at};
use super::patched::Patched;
use crate::{Error, ErrorKind, Result};
use uuid::{Uuid, uuid};

const TABLE_LEN: usize = 64 << 10;
/// Maximum number of items.
const MAX_ITEMS: usize = 2047;
/// Longest item that is read, in bytes: a parent locator with its paths.
const MAX_ITEM: u32 = 1 << 20;
/// Maximum length of a disk, in bytes.
const MAX_LEN: u64 = 64 << 40;
/// Smallest and largest block, in bytes.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 1 << 20..=256 << 20;
/// A flag of an item that must be known.
const REQUIRED: u32 = 4;
/// A flag of the file parameters: there is a parent.
const HAS_PARENT: u32 = 2;

const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
/// The type of the parent locators of VHDX.
const VHDX_LOCATOR: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");

/// What the metadata says. Lengths in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Metadata {
    pub(super) len: u64,
    pub(super) block_size: u64,
    pub(super) logical_sector: u64,
    pub(super) parent: Option<Parent>,
}

/// The parent of a differencing disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Parent {
    /// The parent's data write identifier when the disk was made.
    pub(super) id: String,
    /// Recorded paths, most likely first.
    pub(super) paths: Vec<String>,
}

/// Read the metadata in the region `range`.
///
/// # Errors
/// Errors of the file; `Corrupt` for damaged metadata; `Unsupported` for a required item that is not
/// known.
pub(super) fn read(tables: &Patched, range: Range) -> Result<Metadata> {
    let failed = |e| Error::io("cannot read its metadata", e);
    if range.len < TABLE_LEN as u64 {
        return Err(corrupt("its metadata region is too short"));
    }
    let mut table = vec![0; TABLE_LEN];
    tables.read(&mut table, range.start).map_err(failed)?;
    let count = u32_at(&table, 8) >> 16;
    if !table.starts_with(b"metadata") || count as usize > MAX_ITEMS {
        return Err(corrupt("its metadata table is damaged"));
    }
    let (mut parameters, mut len, mut sector, mut locator) = (None, None, None, None);
    for entry in table[32..].chunks_exact(32).take(count as usize) {
        let (offset, length) = (u32_at(entry, 16), u32_at(entry, 20));
        let kind = uuid_at(entry, 0);
        let slot = match kind {
            FILE_PARAMETERS => &mut parameters,
            DISK_SIZE => &mut len,
            LOGICAL_SECTOR => &mut sector,
            PARENT_LOCATOR => &mut locator,
            DISK_ID | PHYSICAL_SECTOR => continue,
            _ if u32_at(entry, 24) & REQUIRED == 0 => continue,
            _ => {
                let what = format!("it needs metadata of the unknown kind {kind}");
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        };
        if length > MAX_ITEM || u64::from(offset) + u64::from(length) > range.len {
            return Err(corrupt("an item of its metadata is misplaced"));
        }
        let mut item = vec![0; length as usize];
        tables.read(&mut item, range.start + u64::from(offset)).map_err(failed)?;
        *slot = Some(item);
    }
    let (Some(parameters), Some(len), Some(sector)) = (parameters, len, sector) else {
        return Err(corrupt("its metadata lacks an item"));
    };
    let (block_size, flags) = (u32_at(&parameters, 0), u32_at(&parameters, 4));
    let (len, sector) = (u64_at(&len, 0), u64::from(u32_at(&sector, 0)));
    if !BLOCK_SIZES.contains(&block_size) || !block_size.is_power_of_two() {
        return Err(corrupt("invalid block size"));
    }
    if !matches!(sector, 512 | 4096) || len == 0 || len % sector != 0 || len > MAX_LEN {
        return Err(corrupt("invalid sector size or length of the disk"));
    }
    let parent = match (flags & HAS_PARENT != 0, locator) {
        (false, _) => None,
        (true, Some(locator)) => Some(parse_locator(&locator)?),
        (true, None) => return Err(corrupt("it has a parent and does not say which")),
    };
    Ok(Metadata { len, block_size: block_size.into(), logical_sector: sector, parent })
}

fn parse_locator(item: &[u8]) -> Result<Parent> {
    let damaged = || corrupt("its parent locator is damaged");
    if uuid_at(item, 0) != VHDX_LOCATOR || item.len() < 20 {
        return Err(Error::new(ErrorKind::Unsupported, "its parent is not a VHDX"));
    }
    let text = |offset: u32, len: u32| {
        let bytes = item.get(offset as usize..)?.get(..len as usize)?;
        let units: Vec<u16> =
            bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        Some(String::from_utf16_lossy(&units))
    };
    let (mut linkage, mut paths) = (None, [const { None }; 3]);
    let count = u32_at(item, 16) >> 16;
    for entry in item[20..].chunks_exact(12).take(count as usize) {
        let lengths = u32_at(entry, 8);
        let key = text(u32_at(entry, 0), lengths & 0xffff).ok_or_else(damaged)?;
        let value = text(u32_at(entry, 4), lengths >> 16).ok_or_else(damaged)?;
        match key.as_str() {
            "parent_linkage" => linkage = Some(value),
            "relative_path" => paths[0] = Some(value),
            "absolute_win32_path" => paths[1] = Some(value),
            "volume_path" => paths[2] = Some(value),
            _ => {}
        }
    }
    let linkage = linkage.and_then(|text| Uuid::parse_str(text.trim()).ok()).ok_or_else(damaged)?;
    let id = linkage.hyphenated().to_string();
    Ok(Parent { id, paths: paths.into_iter().flatten().collect() })
}
