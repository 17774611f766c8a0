//! The partition from which UEFI firmware starts a loader.

use super::api::{Space, WantedPartition};
use crate::disk::{Region, RegionKind, Source};
use crate::layout::{EFI_SYSTEM_LEN, PartitionKind, efi_system};
use crate::{Error, ErrorKind, Result};

/// The EFI system partition that a loader for UEFI requests.
pub(super) fn wanted() -> WantedPartition {
    WantedPartition { kind: PartitionKind::EfiSystem, len: EFI_SYSTEM_LEN }
}

/// The regions of the EFI system partition in `space` from which the firmware starts `program`, in
/// disk order. `origin` describes the program.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the disk has no such partition; those of [`efi_system`].
pub(super) fn regions(space: &Space, origin: &str, program: &[u8]) -> Result<Vec<Region>> {
    let found = space.partitions.iter().find(|p| p.kind == PartitionKind::EfiSystem);
    let place = found.filter(|p| p.len == EFI_SYSTEM_LEN).ok_or_else(|| {
        let what = "the disk has no EFI system partition of synthdisk's; use --firmware bios";
        Error::new(ErrorKind::Invalid, what)
    })?;
    let region = |(start, bytes): (u64, Vec<u8>)| Region {
        start: place.start + start,
        len: bytes.len() as u64,
        kind: RegionKind::Loader,
        origin: format!("EFI system partition with {origin}"),
        source: Source::Bytes(bytes.into()),
    };
    Ok(efi_system(space.volume_id, program)?.into_iter().map(region).collect())
}
