//! Properties derived from the images of one disk: whether it is writable, its identifiers, its
//! shape.

use super::options::SourceOptions;
use super::source::SourceImage;
use super::types::{DiskContent, DiskRole, DiskShape, DiskSource, PartitionSource, WholeDisk};
use crate::layout::{Ids, TableKind};
use crate::loader::{FirmwareSet, LoaderKind};

/// Whether the guest may not write to any part of the disk.
pub(super) fn is_read_only(source: &DiskSource) -> bool {
    match &source.content {
        DiskContent::Partitions(partitions) => partitions.iter().all(|p| p.read_only),
        DiskContent::Whole(whole) => whole.read_only,
        DiskContent::Cdrom(_) => true,
    }
}

/// The images of a disk with their numbers; 0 means the whole disk.
pub(super) fn images_of(source: &DiskSource) -> Vec<(u32, &SourceImage)> {
    match &source.content {
        DiskContent::Partitions(parts) => parts.iter().map(|p| (p.number, &p.image)).collect(),
        DiskContent::Whole(WholeDisk { image, .. }) | DiskContent::Cdrom(image) => {
            vec![(0, image)]
        }
    }
}

/// The partitions of a disk that have bytes of an image.
pub(super) fn partitions_of(source: &DiskSource) -> &[PartitionSource] {
    match &source.content {
        DiskContent::Partitions(partitions) => partitions,
        DiskContent::Whole(whole) => whole.partitions(),
        DiskContent::Cdrom(_) => &[],
    }
}

/// The identifiers of a disk without an overlay: those in its own partition table, else from the
/// options, else derived from its images.
pub(super) fn new_ids(source: &DiskSource, options: &SourceOptions, role: DiskRole) -> Ids {
    let first = role == DiskRole::First;
    let mut seed: Vec<u8> = images_of(source).iter().flat_map(|(_, image)| image.seed()).collect();
    if !first {
        // Two disks with the same images must not get the same identifiers.
        seed.extend(source.letters.as_bytes());
    }
    let mut ids = Ids::derive(&seed);
    if first {
        ids.disk_id = options.disk_id.unwrap_or(ids.disk_id);
        ids.swap_uuid = options.swap_uuid.unwrap_or(ids.swap_uuid);
    }
    if let DiskContent::Whole(WholeDisk { table: Ok(table), .. }) = &source.content {
        (ids.disk_id, ids.disk_guid) = (table.disk_id, table.disk_guid);
    }
    ids
}

/// The shape of a disk without an overlay. The options about the boot loader, swap and root apply
/// to the first disk.
pub(super) fn new_shape(
    source: &DiskSource,
    options: &SourceOptions,
    loader: LoaderKind,
    role: DiskRole,
) -> DiskShape {
    let first = role == DiskRole::First;
    // A config says which swap the guest has; a bare image does not.
    let has_swap = options.config.is_some() || images_of(source).iter().any(|(_, i)| i.is_swap());
    let has_table = matches!(source.content, DiskContent::Whole(_));
    let default_swap = if has_swap || has_table { 0 } else { SourceOptions::DEFAULT_SWAP };
    let shape = DiskShape {
        swap: if first { options.swap.unwrap_or(default_swap) } else { 0 },
        align: options.align.unwrap_or(SourceOptions::DEFAULT_ALIGN),
        root_size: options.root_size.filter(|_| first),
        table: options.table,
        bootloader: if first { loader } else { LoaderKind::none() },
        firmware: options.firmware.unwrap_or_default(),
    };
    DiskShape { table: shape.table.or(shape.needs_gpt().then_some(TableKind::Gpt)), ..shape }
}

/// The shape of a disk with an overlay, with another loader and for other firmware if that fits into
/// its layout.
pub(super) fn shape_with(
    loader: Option<LoaderKind>,
    firmware: Option<FirmwareSet>,
    shape: DiskShape,
) -> DiskShape {
    let loader = loader.filter(|loader| loader.can_replace(shape.bootloader));
    let firmware = firmware.filter(|firmware| shape.fits(*firmware));
    DiskShape {
        bootloader: loader.unwrap_or(shape.bootloader),
        firmware: firmware.unwrap_or(shape.firmware),
        ..shape
    }
}
