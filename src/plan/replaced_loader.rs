//! Replacing the boot code of one of our loaders in an overlay.
//!
//! A guest that writes its partition table stores the whole of sector 0, and with it our boot code,
//! in its overlay. That code cannot start another loader.

use super::boot_area::BootArea;
use crate::bytes::ReadAt;
use crate::disk::{Disk, RegionKind, Source};
use crate::layout::BOOTSTRAP_LEN;
use crate::loader::{BootOrder, LoaderKind};
use std::io;

/// The part of the disk that an overlay may have stored together with the partition table, in
/// bytes. Whatever may change is stored after it.
const STORED_WITH_TABLE: u64 = 64 << 10;

/// Writes the boot code of the loader in `area` to `disk` if the code there belongs to another of
/// our loaders, or if there is none, as on a disk for UEFI only; boot code of the guest's own stays.
///
/// # Errors
/// Those of reading and writing the overlay.
pub(super) fn replace_loader(disk: &Disk, area: &BootArea) -> io::Result<()> {
    let mut stored = [0; BOOTSTRAP_LEN];
    disk.read_at(&mut stored, 0)?;
    let code = area.boot_code();
    let is_current = stored.starts_with(code) && !code.is_empty();
    let is_missing = area.firmware().has_uefi() && stored == [0; BOOTSTRAP_LEN] && !code.is_empty();
    let is_ours = is_missing || LoaderKind::any_recognizes(&stored, disk, area.origin());
    if disk.is_read_only() || is_current || !is_ours {
        return Ok(());
    }
    let mut new = [0; BOOTSTRAP_LEN];
    new[..code.len()].copy_from_slice(code);
    disk.write_at(&new, 0)?;
    // Code after the MBR does not depend on what the loader is to do.
    for region in area.regions(BootOrder::Print("")) {
        match &region.source {
            Source::Bytes(bytes)
                if region.kind == RegionKind::Loader && region.end() <= STORED_WITH_TABLE =>
            {
                disk.write_at(bytes, region.start)?;
            }
            _ => {}
        }
    }
    Ok(())
}
