//! Disks that are a single image with a partition table of its own.
//!
//! Table, partitions and their places stay as they are. A loader of ours has the code area of the
//! MBR, and the tail: space after the image's last sector, which the table does not know.

use super::boot_area::BootArea;
use super::options::SourceOptions;
use super::regions::RegionList;
use super::source::SourceImage;
use super::types::{DiskContent, DiskSource, OwnTable, PartitionSource, WholeDisk};
use crate::bytes::ReadAt;
use crate::disk::{Region, RegionKind};
use crate::fs::boot_code::boot_code;
use crate::fs::probe::ImageContent;
use crate::fs::table::DiskTable;
use crate::image::{Image, Window};
use crate::layout::{Layout, PartitionKind, Placed, SECTOR, TableKind};
use crate::loader::BootOrder;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use uuid::Uuid;

impl WholeDisk {
    /// Looks at the partition table and the boot code of `image`.
    ///
    /// # Errors
    /// Errors from reading it.
    pub(super) fn new(image: SourceImage, read_only: bool) -> Result<Self> {
        let found = match image.content {
            ImageContent::WholeDisk(_) => DiskTable::read(&image.image),
            _ => {
                let what = format!("it holds {}", image.content.describe());
                Err(Error::new(ErrorKind::Unsupported, what))
            }
        };
        let found = match found {
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            found => found,
        };
        let path = image.image.path().display().to_string();
        let failed = |e| Error::io(format!("cannot read {path}"), e);
        let none = DiskTable {
            kind: TableKind::Mbr,
            disk_id: 0,
            disk_guid: Uuid::nil(),
            partitions: Vec::new(),
        };
        let code = boot_code(&image.image, found.as_ref().unwrap_or(&none)).map_err(failed)?;
        let table = match found {
            Ok(found) => Ok(own_table(found, &image, read_only)?),
            Err(e) => Err(e),
        };
        Ok(Self { image, read_only, table, boot_code: code })
    }

    /// Its partitions; none if its table cannot be read.
    pub(super) fn partitions(&self) -> &[PartitionSource] {
        self.table.as_ref().map_or(&[], |table| &table.partitions)
    }

    /// Its layout with a tail of `tail` bytes for a loader; 0 for none. `None` if its table cannot
    /// be read.
    ///
    /// # Errors
    /// Those of [`Layout::of_image`].
    pub(super) fn layout(&self, tail: u64) -> Result<Option<Layout>> {
        let Ok(table) = &self.table else { return Ok(None) };
        let (len, places) = (self.image.image.len(), table.places.clone());
        Layout::of_image(table.kind, len, places, tail).map(Some)
    }

    /// The layout for an overlay that remembers `stored`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if that is the layout of another image.
    pub(super) fn layout_over(&self, stored: Option<Layout>) -> Result<Option<Layout>> {
        let own = self.layout(0)?;
        match (stored, own) {
            // An overlay of a disk that was not looked into.
            (None, own) => Ok(own),
            (Some(stored), Some(own))
                if stored.partitions == own.partitions
                    && (stored.table, stored.image_len) == (own.table, own.image_len) =>
            {
                Ok(Some(stored))
            }
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "the overlay was made for another partition table than the image has; use another \
                 overlay",
            )),
        }
    }
}

fn own_table(found: DiskTable, image: &SourceImage, read_only: bool) -> Result<OwnTable> {
    let mut places = Vec::new();
    let mut partitions = Vec::new();
    for p in found.partitions {
        let Placed { number, start, len, .. } = p.placed;
        let window = Window::new(Arc::clone(&image.image), start, len);
        let image = SourceImage::of(Arc::new(window))?;
        let kind = match image.content {
            ImageContent::Swap { .. } => PartitionKind::Swap,
            _ if image.has_filesystem() => PartitionKind::Linux,
            _ if image.holds_volumes() => PartitionKind::Lvm,
            ImageContent::Lvm2Pv => PartitionKind::Lvm,
            _ => p.placed.kind,
        };
        // pygrub tries the active partition first.
        let listed = number as usize + if p.placed.active { 0 } else { 1 << 16 };
        let partuuid = Some(p.partuuid);
        partitions.push(PartitionSource { number, image, kind, partuuid, read_only, listed });
        places.push(Placed { kind, ..p.placed });
    }
    let DiskTable { kind, disk_id, disk_guid, .. } = found;
    Ok(OwnTable { kind, disk_id, disk_guid, places, partitions })
}

/// The image of `source`, if it is a whole disk.
pub(super) fn whole_disk(source: &DiskSource) -> Option<&WholeDisk> {
    match &source.content {
        DiskContent::Whole(whole) => Some(whole),
        DiskContent::Partitions(_) | DiskContent::Cdrom(_) => None,
    }
}

/// What the user should know if the guest has changed the partition table of `source`, which now is
/// that of `disk`.
pub(super) fn changed_table(
    disk: &dyn ReadAt,
    layout: Option<&Layout>,
    source: &DiskSource,
) -> Option<String> {
    let own = whole_disk(source)?.table.as_ref().ok()?;
    let now = DiskTable::read(disk).ok()?;
    let places = now.partitions.iter().map(|p| (p.placed.number, p.placed.start, p.placed.len));
    if places.clone().eq(own.places.iter().map(|p| (p.number, p.start, p.len))) {
        return None;
    }
    let tail = layout.and_then(Layout::tail);
    let over =
        now.partitions.iter().find(|p| tail.as_ref().is_some_and(|t| p.placed.end() > t.start));
    let vdev = &source.vdev;
    Some(match over {
        Some(p) => format!(
            "partition {} of {vdev} now covers the space of the boot loader after the image, so the \
             disk may not boot; use another overlay and keep the guest from growing the partition",
            p.placed.number
        ),
        None => format!(
            "the guest has changed the partition table of {vdev}; its partitions are shown as the \
             image has them"
        ),
    })
}

/// Refuses options about a layout that the image already has.
///
/// # Errors
/// [`ErrorKind::Usage`] with the option.
pub(super) fn refuse_layout_options(options: &SourceOptions) -> Result<()> {
    let given = [
        ("swap", options.swap.is_some_and(|len| len > 0)),
        ("root-size", options.root_size.is_some()),
        ("disk-id", options.disk_id.is_some()),
        ("swap-uuid", options.swap_uuid.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "--{name} is not for a whole disk, which keeps its partition table; leave it out"
            ),
        )),
    }
}

/// Sector 0 of the image.
///
/// # Errors
/// Errors from reading it.
pub(super) fn first_sector(image: &dyn Image) -> Result<[u8; SECTOR as usize]> {
    let mut sector = [0; SECTOR as usize];
    let failed = |e| Error::io(format!("cannot read {}", image.path().display()), e);
    image.read_at(&mut sector, 0).map_err(failed)?;
    Ok(sector)
}

/// The regions of `image` with `layout`, and of the loader in `area`, which executes `order`.
pub(super) fn regions(
    layout: &Layout,
    image: &Arc<dyn Image>,
    area: Option<&BootArea>,
    order: BootOrder<'_>,
) -> Vec<Region> {
    let mut out = RegionList::default();
    let mut at = 0;
    if let Some(area) = area {
        let origin = "loader, stage 1, and the image's partition table";
        out.bytes(0, RegionKind::Mbr, origin, area.mbr());
        at = SECTOR;
    }
    for p in &layout.partitions {
        out.part(at, p.start, RegionKind::Image, image);
        out.part(p.start, p.end(), RegionKind::Partition(p.number), image);
        at = p.end();
    }
    out.part(at, layout.image_len.unwrap_or(layout.len), RegionKind::Image, image);
    if let (Some(area), Some(tail)) = (area, layout.tail()) {
        out.zeros(layout.image_len.unwrap_or(tail.start), tail.start, RegionKind::Gap);
        out.append(area.regions(order));
    }
    out.finish()
}

/// The regions of a disk that is a single image and not looked into, padded to whole sectors.
pub(super) fn image_regions(image: &Arc<dyn Image>) -> Vec<Region> {
    let mut out = RegionList::default();
    out.part(0, image.len().next_multiple_of(SECTOR), RegionKind::Image, image);
    out.finish()
}
