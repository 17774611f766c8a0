//! Building one disk: its layout, its regions and its overlay.

use super::boot_area::BootArea;
use super::created_file::CreatedFile;
use super::current_uuid::changed_uuid;
use super::disk_source::{images_of, is_read_only, new_ids, new_shape, partitions_of, shape_with};
use super::options::SourceOptions;
use super::overlay_metadata::{ImageMark, OverlayMetadata};
use super::regions::RegionList;
use super::replaced_loader::replace_loader;
use super::scratch_overlay::scratch;
use super::source::SourceImage;
use super::types::{
    DiskContent, DiskRole, DiskShape, DiskSource, OverlayChoice, PartitionNames, PartitionSource,
    WholeDisk,
};
use super::whole_disk::{first_sector, image_regions, regions, whole_disk};
use crate::bytes::ReadAt;
use crate::disk::{
    Disk, LayeredOverlay, Overlay, Qcow2Overlay, Region, RegionKind, RegionTable, temporary_dir,
};
use crate::image::common_mode;
use crate::layout::{
    Ids, Layout, LayoutSpec, PartitionKind, PartitionSpec, Placed, SWAP_MIN_LEN, SWAP_PAGE,
    SwapHeader, TableKind, format_size,
};
use crate::loader::{BootOrder, LoaderKind, Payload, WantedPartition};
use crate::{Error, ErrorKind, Result};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A disk whose identifiers and shape are known, from the options or from its overlay.
#[derive(Debug)]
pub(super) struct DiskBuilder {
    pub(super) source: DiskSource,
    pub(super) ids: Ids,
    pub(super) shape: DiskShape,
    /// The layout, once it is known.
    pub(super) layout: Option<Layout>,
    /// The overlay file for writes.
    pub(super) overlay_path: Option<PathBuf>,
    existing: Option<Qcow2Overlay>,
    had_overlay: bool,
    pub(super) role: DiskRole,
    /// Current UUIDs of filesystems, by partition, where they differ from the images'.
    changed_uuids: Vec<(u32, String)>,
    /// The boot area, once it was made: a loader may need tools of the host for it.
    area: OnceCell<BootArea>,
}

impl DiskBuilder {
    /// Determines the identifiers and the shape of `source`. `loader` is for the first disk; `None`
    /// means the default, or that of its overlay.
    ///
    /// # Errors
    /// Errors from an existing overlay: damaged, in use, or made for something else.
    pub(super) fn new(
        source: DiskSource,
        options: &SourceOptions,
        loader: Option<LoaderKind>,
        role: DiskRole,
        overlay_path: Option<PathBuf>,
        choice: &OverlayChoice,
    ) -> Result<Self> {
        let frozen = matches!(choice, OverlayChoice::Over { .. });
        let existing = match &overlay_path {
            Some(path) if path.symlink_metadata().is_ok() => {
                Some(open_overlay(path, frozen, options, &source)?)
            }
            _ => None,
        };
        Ok(match existing {
            Some((overlay, metadata)) => Self {
                changed_uuids: changed_uuids(&overlay, metadata.layout.as_ref(), &source)?,
                ids: metadata.ids(),
                shape: shape_with(
                    loader.filter(|_| role == DiskRole::First),
                    options.firmware,
                    metadata.shape,
                ),
                layout: metadata.layout,
                overlay_path,
                existing: Some(overlay),
                had_overlay: true,
                role,
                source,
                area: OnceCell::new(),
            },
            None => Self {
                changed_uuids: Vec::new(),
                ids: new_ids(&source, options, role),
                shape: new_shape(&source, options, loader.unwrap_or_default(), role),
                layout: None,
                overlay_path,
                existing: None,
                had_overlay: false,
                role,
                source,
                area: OnceCell::new(),
            },
        })
    }

    /// Whether the overlay existed before.
    pub(super) fn has_overlay(&self) -> bool {
        self.had_overlay
    }

    /// Whether the disk is a CD or DVD.
    pub(super) fn is_cdrom(&self) -> bool {
        matches!(self.source.content, DiskContent::Cdrom(_))
    }

    /// The partitions backed by images.
    pub(super) fn partitions(&self) -> &[PartitionSource] {
        partitions_of(&self.source)
    }

    /// Type of a generated partition table: that of the layout, else the expected one.
    fn table(&self) -> TableKind {
        self.layout.as_ref().map_or(self.shape.table.unwrap_or_default(), |l| l.table)
    }

    /// Number of the swap partition without an image, if there is one.
    fn extra_swap(&self) -> Option<u32> {
        let most = self.partitions().iter().map(|p| p.number).max().unwrap_or(0);
        (self.shape.swap > 0).then_some(most + 1)
    }

    /// The names that command lines may use for the partitions.
    pub(super) fn names(&self) -> Vec<PartitionNames> {
        let name = |number, kind, uuid, label: Option<&str>, read_only| PartitionNames {
            disk: self.source.letters.clone(),
            vdev: self.source.vdev.clone(),
            number,
            kind,
            uuid,
            former: Vec::new(),
            label: label.map(str::to_owned),
            partuuid: self.ids.partuuid(self.table(), number),
            read_only,
            volume: None,
        };
        let is_whole = whole_disk(&self.source).is_some();
        let images = self.partitions().iter().map(|p| {
            // A swap area for an image is generated, with a UUID if the image has none.
            let uuid = if p.kind.is_swap() && !is_whole {
                Some(self.swap_uuid(&p.image).to_string())
            } else {
                p.image.uuid_text()
            };
            let mut names = name(p.number, p.kind, uuid, p.image.label(), p.read_only);
            names.partuuid = p.partuuid.clone().unwrap_or(names.partuuid);
            match self.changed_uuids.iter().find(|(number, _)| *number == p.number) {
                Some((_, now)) => PartitionNames {
                    former: names.uuid.into_iter().collect(),
                    uuid: Some(now.clone()),
                    ..names
                },
                None => names,
            }
        });
        let extra = self.extra_swap().map(|number| {
            name(number, PartitionKind::Swap, Some(self.ids.swap_uuid.to_string()), None, false)
        });
        images.chain(extra).collect()
    }

    /// UUID of the swap area for `image`: the image's own if it has one.
    fn swap_uuid(&self, image: &SourceImage) -> Uuid {
        image.content.uuid().map_or(self.ids.swap_uuid, Uuid::from_bytes)
    }

    /// Computes the layout, unless it came from the overlay. `payload` is what the loader will
    /// start, `grown` the number of the partition that `--root-size` applies to.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for impossible sizes; those of [`Layout::compute`].
    pub(super) fn lay_out(&mut self, payload: Option<&Payload>, grown: Option<u32>) -> Result<()> {
        if self.layout.is_some() {
            return Ok(());
        }
        if let Some(whole) = whole_disk(&self.source) {
            let loader = self.shape.bootloader;
            let tail = loader.limits().map_or(0, |_| loader.reserve(payload));
            self.layout = whole.layout(tail)?;
            return Ok(());
        }
        if self.partitions().is_empty() {
            return Ok(());
        }
        if (1..SWAP_MIN_LEN).contains(&self.shape.swap) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "--swap {} is too small for a swap area, which takes at least {}; use 0 for none",
                    format_size(self.shape.swap),
                    format_size(SWAP_MIN_LEN)
                ),
            ));
        }
        let DiskShape { align, table, bootloader, .. } = self.shape;
        if self.shape.needs_gpt() && table == Some(TableKind::Mbr) {
            let what = "--firmware uefi and both need a GPT; drop --table mbr";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        let gap = bootloader.reserve(payload);
        let guests = self.guest_partitions(grown)?;
        let compute = |kind: TableKind, table: Option<TableKind>| {
            let partitions = [self.loader_partitions(kind), guests.clone()].concat();
            Layout::compute(&LayoutSpec { align, gap, table, partitions })
        };
        // A loader's space depends on the table type, which depends on the partitions.
        let expected = table.unwrap_or_default();
        let layout = compute(expected, table)?;
        self.layout = Some(match layout.table == expected {
            true => layout,
            false => compute(layout.table, Some(layout.table))?,
        });
        Ok(())
    }

    /// The partitions for the images and the extra swap area.
    fn guest_partitions(&self, grown: Option<u32>) -> Result<Vec<PartitionSpec>> {
        let active = self.first_listed().map(|p| p.number);
        let mut specs = Vec::new();
        for p in self.partitions() {
            let image_len = p.image.image.len();
            let wanted = self.shape.root_size.filter(|_| grown == Some(p.number));
            let len = wanted.unwrap_or(image_len);
            if len < image_len {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "--root-size {} is smaller than the image ({}); it can only be larger",
                        format_size(len),
                        format_size(image_len)
                    ),
                ));
            }
            let active = active == Some(p.number);
            specs.push(PartitionSpec { number: p.number, len, kind: p.kind, active });
        }
        specs.extend(self.extra_swap().map(|number| PartitionSpec {
            number,
            len: self.shape.swap,
            kind: PartitionKind::Swap,
            active: false,
        }));
        Ok(specs)
    }

    /// The loader's own partitions. Their numbers follow the guest's, which must not change.
    fn loader_partitions(&self, table: TableKind) -> Vec<PartitionSpec> {
        let most = self.partitions().iter().map(|p| p.number).max().unwrap_or(0);
        let first = self.extra_swap().unwrap_or(most) + 1;
        let DiskShape { bootloader, firmware, .. } = self.shape;
        let wanted = bootloader.partitions(table, firmware).into_iter();
        let spec = |(number, wanted): (u32, WantedPartition)| PartitionSpec {
            number,
            len: wanted.len,
            kind: wanted.kind,
            active: false,
        };
        (first..).zip(wanted).map(spec).collect()
    }

    /// The Linux partition that the user or the config listed first.
    pub(super) fn first_listed(&self) -> Option<&PartitionSource> {
        let linux = self.partitions().iter().filter(|p| !p.kind.is_swap());
        linux.min_by_key(|p| p.listed)
    }

    /// What a loader has of the disk, and the partition table; `None` for a disk that is shown as
    /// its image is.
    ///
    /// # Errors
    /// Those of [`BootArea::new`].
    pub(super) fn boot_area(&self) -> Result<Option<BootArea>> {
        let Some(layout) = &self.layout else { return Ok(None) };
        if let Some(area) = self.area.get() {
            return Ok(Some(area.clone()));
        }
        let DiskShape { bootloader: loader, firmware, .. } = self.shape;
        let area = match whole_disk(&self.source) {
            None => BootArea::new(layout, &self.ids, loader, firmware)?,
            Some(whole) => {
                let Some(tail) = layout.tail() else { return Ok(None) };
                BootArea::in_tail(tail, first_sector(&*whole.image.image)?, loader)?
            }
        };
        Ok(Some(self.area.get_or_init(|| area).clone()))
    }

    /// Builds the disk, with a loader that executes `order`, and with writes going where `choice`
    /// says. The path of a new overlay is added to `created`.
    ///
    /// # Errors
    /// Those of the overlay.
    pub(super) fn build(
        &mut self,
        order: BootOrder<'_>,
        choice: &OverlayChoice,
        created: &mut Vec<CreatedFile>,
    ) -> Result<Disk> {
        let area = self.boot_area()?;
        let regions = match (&self.layout, &self.source.content, &area) {
            (Some(layout), DiskContent::Whole(whole), area) => {
                regions(layout, &whole.image.image, area.as_ref(), order)
            }
            (Some(layout), _, Some(area)) => {
                let mut regions = area.regions(order);
                regions.extend(self.partition_regions(layout, area));
                regions
            }
            (_, DiskContent::Whole(WholeDisk { image, .. }) | DiskContent::Cdrom(image), _) => {
                image_regions(&image.image)
            }
            _ => return Err(Error::new(ErrorKind::Invalid, "a disk without partitions")),
        };
        let table = RegionTable::new(regions)?;
        let overlay = self.overlay(table.len(), choice, created)?;
        let read_only = self.layout.iter().flat_map(|l| &l.partitions);
        let read_only = read_only
            .filter(|placed| {
                self.partitions().iter().any(|p| p.number == placed.number && p.read_only)
            })
            .map(|placed| placed.start..placed.end());
        let mut read_only: Vec<_> = read_only.collect();
        if is_read_only(&self.source) {
            read_only.clear();
            read_only.push(0..table.len());
        }
        let disk = Disk::new(table, overlay).with_read_only(read_only);
        if let Some(area) = area.filter(|_| self.had_overlay) {
            replace_loader(&disk, &area)
                .map_err(|e| Error::io("cannot replace the boot loader in the overlay", e))?;
        }
        Ok(disk)
    }

    fn overlay(
        &mut self,
        len: u64,
        choice: &OverlayChoice,
        created: &mut Vec<CreatedFile>,
    ) -> Result<Option<Box<dyn Overlay>>> {
        if let Some(existing) = self.existing.take() {
            if existing.disk_len() != len {
                let path = self.overlay_path.clone().unwrap_or_default();
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the overlay {} was resized and no longer fits the disk; use another overlay",
                        path.display()
                    ),
                ));
            }
            if let OverlayChoice::Over { scratch: dir, .. } = choice {
                let top = scratch(dir, len)?;
                return Ok(Some(Box::new(LayeredOverlay::new(top, Box::new(existing)))));
            }
            return Ok(Some(Box::new(existing)));
        }
        if is_read_only(&self.source) {
            return self.edits_only(len, choice);
        }
        match (choice, &self.overlay_path) {
            (OverlayChoice::ReadOnly | OverlayChoice::Over { .. }, _) => Ok(None),
            (_, Some(path)) => {
                let marks = images_of(&self.source);
                // The guest's writes are as confidential as its images.
                let files = marks.iter().flat_map(|(_, image)| image.image.files());
                let mode = common_mode(&files.map(|file| file.path).collect::<Vec<_>>());
                let marks = marks.iter().map(|(n, image)| ImageMark::new(*n, image)).collect();
                let metadata =
                    OverlayMetadata::new(self.layout.clone(), self.shape, self.ids, marks);
                let metadata = metadata.encode()?;
                let overlay = Qcow2Overlay::create_with_mode(path, len, &metadata, mode)?;
                created.push(CreatedFile::new(path.clone()));
                Ok(Some(Box::new(overlay)))
            }
            (OverlayChoice::Temporary(dir), None) => {
                let overlay = scratch(dir, len)?;
                Ok(Some(Box::new(overlay)))
            }
            (OverlayChoice::File(_) | OverlayChoice::Dir(_), None) => Ok(None),
        }
    }

    /// The overlay of a disk that the guest cannot write to. It holds our own edits, which are the same at
    /// each mount, so it is always a temporary one.
    fn edits_only(&self, len: u64, choice: &OverlayChoice) -> Result<Option<Box<dyn Overlay>>> {
        let may_be_edited = self.partitions().iter().any(|p| p.kind.may_hold_root());
        let dir = match choice {
            _ if !may_be_edited => return Ok(None),
            OverlayChoice::ReadOnly => return Ok(None),
            OverlayChoice::Temporary(dir) | OverlayChoice::Over { scratch: dir, .. } => dir.clone(),
            OverlayChoice::File(_) | OverlayChoice::Dir(_) => temporary_dir(),
        };
        let overlay = scratch(&dir, len)?;
        Ok(Some(Box::new(overlay)))
    }

    /// The regions from the first of the guest's partitions to the end of the disk.
    fn partition_regions(&self, layout: &Layout, area: &BootArea) -> Vec<Region> {
        let mut out = RegionList::default();
        let mut end = area.end();
        for p in layout.partitions.iter().filter(|p| !p.kind.is_loaders()) {
            out.zeros(end, p.start, RegionKind::Gap);
            let source = self.partitions().iter().find(|s| s.number == p.number);
            let filled = match source {
                _ if p.kind.is_swap() => self.swap_header(p, source, &mut out),
                Some(source) => {
                    let image = &source.image.image;
                    let stop = p.start + image.len().min(p.len);
                    out.image(p.start, stop, RegionKind::Partition(p.number), image);
                    stop
                }
                None => p.start,
            };
            out.zeros(filled, p.end(), RegionKind::Partition(p.number));
            end = p.end();
        }
        let tail = layout.len - area.backup().len() as u64;
        out.zeros(end, tail, RegionKind::Gap);
        out.bytes(tail, RegionKind::Table, "GPT, second copy", area.backup());
        out.finish()
    }

    /// A new swap area, with the size, UUID and label of the image that it replaces.
    fn swap_header(
        &self,
        p: &Placed,
        source: Option<&PartitionSource>,
        out: &mut RegionList,
    ) -> u64 {
        let header = SwapHeader {
            len: p.len,
            uuid: source.map_or(self.ids.swap_uuid, |s| self.swap_uuid(&s.image)),
            label: source.and_then(|s| s.image.label()).unwrap_or_default().to_owned(),
        };
        let stop = (p.start + SWAP_PAGE).min(p.end());
        let page = header.encode();
        let origin = format!("swap area {}", header.uuid);
        let kind = RegionKind::SwapHeader(p.number);
        out.bytes(p.start, kind, &origin, &page[..(stop - p.start) as usize]);
        stop
    }
}

/// Opens an existing overlay and checks that it belongs to this disk.
fn open_overlay(
    path: &Path,
    frozen: bool,
    options: &SourceOptions,
    source: &DiskSource,
) -> Result<(Qcow2Overlay, OverlayMetadata)> {
    let open = if frozen { Qcow2Overlay::open_frozen } else { Qcow2Overlay::open };
    let (overlay, bytes) = open(path)?;
    let mut metadata = OverlayMetadata::decode(&bytes).map_err(|e| {
        let what = format!("the overlay {} cannot be used", path.display());
        Error::with_source(e.kind(), what, e)
    })?;
    metadata.check(path, options, &images_of(source))?;
    if let Some(whole) = whole_disk(source) {
        metadata.layout = whole.layout_over(metadata.layout)?;
    }
    Ok((overlay, metadata))
}

/// The UUIDs of filesystems that differ from those of their images.
fn changed_uuids(
    overlay: &Qcow2Overlay,
    layout: Option<&Layout>,
    source: &DiskSource,
) -> Result<Vec<(u32, String)>> {
    let mut out = Vec::new();
    for p in partitions_of(source).iter().filter(|p| !p.kind.is_swap()) {
        let placed = layout.and_then(|l| l.partitions.iter().find(|l| l.number == p.number));
        let Some(placed) = placed else { continue };
        let found = changed_uuid(overlay, placed, &p.image)
            .map_err(|e| Error::io("cannot read the overlay", e))?;
        out.extend(found.map(|uuid| (p.number, uuid)));
    }
    Ok(out)
}
