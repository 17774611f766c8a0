//! One disk at a time: its shape, its layout, its regions and its overlay.

use super::build::OverlayChoice;
use super::gap::{TableBytes, empty_gap};
use super::guest::{DiskContent, DiskSource, PartitionSource};
use super::options::{Bootloader, Shape, SourceOptions};
use super::present::other_uuid;
use super::remembered::{ImageMark, Remembered};
use super::roots::PartitionNames;
use super::source::SourceImage;
use crate::bytes::ReadAt;
use crate::disk::{
    Disk, LayeredOverlay, Overlay, Qcow2Overlay, Region, RegionKind, RegionTable, Scratch, Source,
};
use crate::fs::probe::Content;
use crate::image::{Image, common_mode};
use crate::layout::{
    GPT_LEN, Ids, Layout, LayoutSpec, PartitionKind, PartitionSpec, Placed, SECTOR, SWAP_MIN_LEN,
    SWAP_PAGE, SwapHeader, TableKind, format_size,
};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// A disk whose identifiers and shape are settled, by the user or by its overlay.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) source: &'a DiskSource,
    pub(super) ids: Ids,
    pub(super) shape: Shape,
    /// The layout, once it is known.
    pub(super) layout: Option<Layout>,
    /// The overlay's file, where writes are kept.
    pub(super) overlay_path: Option<PathBuf>,
    existing: Option<Qcow2Overlay>,
    had_overlay: bool,
    /// UUIDs that filesystems have now, by partition, where they are not the images' any more.
    other_uuids: Vec<(u32, String)>,
}

impl<'a> Prepared<'a> {
    /// Settle identifiers and shape of `source`. `first` is the disk that the firmware boots.
    ///
    /// # Errors
    /// Those of an overlay that exists: damaged, in use, or made for something else.
    pub(super) fn new(
        source: &'a DiskSource,
        options: &SourceOptions,
        bootloader: Bootloader,
        first: bool,
        overlay_path: Option<PathBuf>,
        choice: &OverlayChoice,
    ) -> Result<Self> {
        let frozen = matches!(choice, OverlayChoice::Over { .. });
        let existing = match &overlay_path {
            Some(path) if path.symlink_metadata().is_ok() => {
                Some(open_overlay(path, frozen, options, source)?)
            }
            _ => None,
        };
        Ok(match existing {
            Some((overlay, remembered)) => Self {
                other_uuids: other_uuids(&overlay, remembered.layout.as_ref(), source)?,
                source,
                ids: remembered.ids(),
                shape: remembered.shape,
                layout: remembered.layout,
                overlay_path,
                existing: Some(overlay),
                had_overlay: true,
            },
            None => Self {
                other_uuids: Vec::new(),
                source,
                ids: new_ids(source, options, first),
                shape: new_shape(source, options, bootloader, first),
                layout: None,
                overlay_path,
                existing: None,
                had_overlay: false,
            },
        })
    }

    /// Whether there was an overlay before.
    pub(super) fn has_overlay(&self) -> bool {
        self.had_overlay
    }

    /// The partitions that images stand for.
    pub(super) fn partitions(&self) -> &'a [PartitionSource] {
        match &self.source.content {
            DiskContent::Partitions(partitions) => partitions,
            DiskContent::Whole { .. } | DiskContent::Cdrom(_) => &[],
        }
    }

    /// Kind of table: as laid out, else as it will most likely be.
    fn table(&self) -> TableKind {
        self.layout.as_ref().map_or(self.shape.table.unwrap_or_default(), |l| l.table)
    }

    /// Number of the swap partition that no image stands for, if there is one.
    fn extra_swap(&self) -> Option<u32> {
        let most = self.partitions().iter().map(|p| p.number).max().unwrap_or(0);
        (self.shape.swap > 0).then_some(most + 1)
    }

    /// What command lines may call the partitions.
    pub(super) fn names(&self) -> Vec<PartitionNames> {
        let name = |number, kind, uuid, label: Option<&str>, read_only| PartitionNames {
            disk: self.source.letters.clone(),
            number,
            kind,
            uuid,
            former: Vec::new(),
            label: label.map(str::to_owned),
            partuuid: self.ids.partuuid(self.table(), number),
            read_only,
        };
        let images = self.partitions().iter().map(|p| {
            let uuid = match kind_of(p) {
                PartitionKind::Swap => Some(self.swap_uuid(&p.image).to_string()),
                PartitionKind::Linux => p.image.uuid_text(),
            };
            let names = name(p.number, kind_of(p), uuid, p.image.label(), p.read_only);
            match self.other_uuids.iter().find(|(number, _)| *number == p.number) {
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

    /// UUID of the swap area that stands for `image`: its own where it has one.
    fn swap_uuid(&self, image: &SourceImage) -> Uuid {
        image.content.uuid().map_or(self.ids.swap_uuid, Uuid::from_bytes)
    }

    /// Decide where things lie, unless the overlay did. `gap` is what the loader needs, in bytes;
    /// `grown` the number of the partition that `--root-size` is about.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for sizes that cannot be; those of [`Layout::compute`].
    pub(super) fn lay_out(&mut self, gap: u64, grown: Option<u32>) -> Result<()> {
        if self.layout.is_some() || self.partitions().is_empty() {
            return Ok(());
        }
        if (1..SWAP_MIN_LEN).contains(&self.shape.swap) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "--swap is too small for a swap area, which takes at least 40K; use 0 for none",
            ));
        }
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
            specs.push(PartitionSpec { number: p.number, len, kind: kind_of(p), active });
        }
        specs.extend(self.extra_swap().map(|number| PartitionSpec {
            number,
            len: self.shape.swap,
            kind: PartitionKind::Swap,
            active: false,
        }));
        let Shape { align, table, .. } = self.shape;
        self.layout = Some(Layout::compute(&LayoutSpec { align, gap, table, partitions: specs })?);
        Ok(())
    }

    /// The Linux partition that the user or the config named first.
    pub(super) fn first_listed(&self) -> Option<&'a PartitionSource> {
        let linux = self.partitions().iter().filter(|p| kind_of(p) == PartitionKind::Linux);
        linux.min_by_key(|p| p.listed)
    }

    /// The table's bytes.
    ///
    /// # Errors
    /// Those of encoding; `None` for a disk that is one image.
    pub(super) fn table_bytes(&self) -> Result<Option<TableBytes>> {
        let loader = self.shape.bootloader == Bootloader::Direct;
        self.layout.as_ref().map(|l| TableBytes::new(l, &self.ids, loader)).transpose()
    }

    /// Put the disk together, with `gap` in front of its partitions (an empty one when `None`) and
    /// its writes going where `choice` says. A new overlay's path is added to `created`.
    ///
    /// # Errors
    /// Those of the overlay.
    pub(super) fn build(
        &mut self,
        gap: Option<Vec<Region>>,
        choice: &OverlayChoice,
        created: &mut Vec<CreatedFile>,
    ) -> Result<Disk> {
        let regions = match (&self.layout, &self.source.content, self.table_bytes()?) {
            (Some(layout), _, Some(table)) => {
                let gap = gap.unwrap_or_else(|| empty_gap(&table, layout.gap()));
                let mut regions = gap;
                regions.extend(self.partition_regions(layout, &table));
                regions
            }
            (_, DiskContent::Whole { image, .. } | DiskContent::Cdrom(image), _) => {
                whole_regions(image)
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
        Ok(Disk::new(table, overlay).with_read_only(read_only.collect()))
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
                    format!("the overlay {} was resized; it no longer fits", path.display()),
                ));
            }
            if let OverlayChoice::Over { scratch, .. } = choice {
                let top = Scratch::new(scratch, len).map_err(|e| no_room(scratch, len, e))?;
                return Ok(Some(Box::new(LayeredOverlay::new(top, Box::new(existing)))));
            }
            return Ok(Some(Box::new(existing)));
        }
        if is_read_only(self.source) {
            return Ok(None);
        }
        match (choice, &self.overlay_path) {
            (OverlayChoice::ReadOnly | OverlayChoice::Over { .. }, _) => Ok(None),
            (_, Some(path)) => {
                let marks = marks(self.source);
                // What the guest writes is no less secret than what it has.
                let images = marks.iter().map(|(_, image)| image.image.path().to_path_buf());
                let mode = common_mode(&images.collect::<Vec<_>>());
                let marks = marks.iter().map(|(n, image)| ImageMark::new(*n, image)).collect();
                let remembered = Remembered::new(self.layout.clone(), self.shape, self.ids, marks);
                let metadata = remembered.encode()?;
                let overlay = Qcow2Overlay::create_with_mode(path, len, &metadata, mode)?;
                created.push(CreatedFile(Some(path.clone())));
                Ok(Some(Box::new(overlay)))
            }
            (OverlayChoice::Temporary(dir), None) => {
                let overlay = Scratch::new(dir, len).map_err(|e| no_room(dir, len, e))?;
                Ok(Some(Box::new(overlay)))
            }
            (OverlayChoice::File(_) | OverlayChoice::Dir(_), None) => Ok(None),
        }
    }

    /// The regions from the first partition to the end of the disk.
    fn partition_regions(&self, layout: &Layout, table: &TableBytes) -> Vec<Region> {
        let mut out = Out(Vec::new());
        let mut end = layout.gap();
        for p in &layout.partitions {
            out.push(end, p.start, RegionKind::Gap, "zeros", Source::Zeros);
            let source = self.partitions().iter().find(|s| s.number == p.number);
            let filled = match (p.kind, source) {
                (PartitionKind::Linux, Some(source)) => {
                    let image = &source.image.image;
                    let stop = p.start + image.len().min(p.len);
                    out.image(p.start, stop, RegionKind::Partition(p.number), image);
                    stop
                }
                (PartitionKind::Linux, None) => p.start,
                (PartitionKind::Swap, source) => self.swap_header(p, source, &mut out),
            };
            out.push(filled, p.end(), RegionKind::Partition(p.number), "zeros", Source::Zeros);
            end = p.end();
        }
        let tail = layout.len - table.backup.len() as u64;
        out.push(end, tail, RegionKind::Gap, "zeros", Source::Zeros);
        if !table.backup.is_empty() {
            debug_assert_eq!(table.backup.len() as u64, GPT_LEN);
            let bytes = Source::Bytes(table.backup.as_slice().into());
            out.push(tail, layout.len, RegionKind::Table, "GPT, second copy", bytes);
        }
        out.0
    }

    /// A swap area afresh, with size, UUID and label of the image that it stands for.
    fn swap_header(&self, p: &Placed, source: Option<&PartitionSource>, out: &mut Out) -> u64 {
        let header = SwapHeader {
            len: p.len,
            uuid: source.map_or(self.ids.swap_uuid, |s| self.swap_uuid(&s.image)),
            label: source.and_then(|s| s.image.label()).unwrap_or_default().to_owned(),
        };
        let stop = (p.start + SWAP_PAGE).min(p.end());
        let page = header.encode();
        let bytes = Source::Bytes(Arc::from(&page[..(stop - p.start) as usize]));
        let origin = format!("swap area {}", header.uuid);
        out.push(p.start, stop, RegionKind::SwapHeader(p.number), &origin, bytes);
        stop
    }
}

/// Collects regions, leaving out empty ones.
struct Out(Vec<Region>);

impl Out {
    fn push(&mut self, start: u64, stop: u64, kind: RegionKind, origin: &str, source: Source) {
        if stop > start {
            let (len, origin) = (stop - start, origin.to_owned());
            self.0.push(Region { start, len, kind, origin, source });
        }
    }

    fn image(&mut self, start: u64, stop: u64, kind: RegionKind, image: &Arc<dyn Image>) {
        let origin = image.path().display().to_string();
        let source = Source::Image { image: Arc::clone(image), offset: 0 };
        self.push(start, stop, kind, &origin, source);
    }
}

/// Removes a file on drop, unless it was told to let it be.
#[derive(Debug)]
pub(super) struct CreatedFile(Option<PathBuf>);

impl CreatedFile {
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CreatedFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn kind_of(p: &PartitionSource) -> PartitionKind {
    if p.image.is_swap() { PartitionKind::Swap } else { PartitionKind::Linux }
}

/// Whether the guest may write to no part of the disk.
pub(super) fn is_read_only(source: &DiskSource) -> bool {
    match &source.content {
        DiskContent::Partitions(partitions) => partitions.iter().all(|p| p.read_only),
        DiskContent::Whole { read_only, .. } => *read_only,
        DiskContent::Cdrom(_) => true,
    }
}

/// The images of a disk with their numbers; 0 stands for the whole disk.
pub(super) fn marks(source: &DiskSource) -> Vec<(u32, &SourceImage)> {
    match &source.content {
        DiskContent::Partitions(parts) => parts.iter().map(|p| (p.number, &p.image)).collect(),
        DiskContent::Whole { image, .. } | DiskContent::Cdrom(image) => vec![(0, image)],
    }
}

fn new_ids(source: &DiskSource, options: &SourceOptions, first: bool) -> Ids {
    let mut seed: Vec<u8> = marks(source).iter().flat_map(|(_, image)| image.seed()).collect();
    if !first {
        // A copy of another disk's images must not make a disk with the same identifiers.
        seed.extend(source.letters.as_bytes());
    }
    let mut ids = Ids::derive(&seed);
    if first {
        ids.disk_id = options.disk_id.unwrap_or(ids.disk_id);
        ids.swap_uuid = options.swap_uuid.unwrap_or(ids.swap_uuid);
    }
    ids
}

/// Length of the swap partition when nothing else is said, in bytes.
const DEFAULT_SWAP: u64 = 512 << 20;
/// Alignment when nothing else is said, in bytes.
const DEFAULT_ALIGN: u64 = 1 << 20;

fn new_shape(
    source: &DiskSource,
    options: &SourceOptions,
    bootloader: Bootloader,
    first: bool,
) -> Shape {
    // A config says what swap the guest has; a bare image says nothing.
    let has_swap = options.config.is_some()
        || marks(source).iter().any(|(_, i)| matches!(i.content, Content::Swap { .. }));
    let default_swap = if has_swap { 0 } else { DEFAULT_SWAP };
    Shape {
        swap: if first { options.swap.unwrap_or(default_swap) } else { 0 },
        align: options.align.unwrap_or(DEFAULT_ALIGN),
        root_size: options.root_size.filter(|_| first),
        table: options.table,
        bootloader: if first { bootloader } else { Bootloader::None },
    }
}

/// Open an overlay that exists, and make sure that it belongs to this disk.
fn open_overlay(
    path: &Path,
    frozen: bool,
    options: &SourceOptions,
    source: &DiskSource,
) -> Result<(Qcow2Overlay, Remembered)> {
    let open = if frozen { Qcow2Overlay::open_frozen } else { Qcow2Overlay::open };
    let (overlay, metadata) = open(path)?;
    let remembered = Remembered::decode(&metadata).map_err(|e| {
        let what = format!("the overlay {} cannot be used", path.display());
        Error::with_source(e.kind(), what, e)
    })?;
    remembered.check(path, options, &marks(source))?;
    Ok((overlay, remembered))
}

/// The UUIDs of filesystems that are not those of their images any more.
fn other_uuids(
    overlay: &Qcow2Overlay,
    layout: Option<&Layout>,
    source: &DiskSource,
) -> Result<Vec<(u32, String)>> {
    let DiskContent::Partitions(partitions) = &source.content else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for p in partitions.iter().filter(|p| kind_of(p) == PartitionKind::Linux) {
        let placed = layout.and_then(|l| l.partitions.iter().find(|l| l.number == p.number));
        let Some(placed) = placed else { continue };
        let found = other_uuid(overlay, placed, &p.image)
            .map_err(|e| Error::io("cannot read the overlay", e))?;
        out.extend(found.map(|uuid| (p.number, uuid)));
    }
    Ok(out)
}

/// A disk that is one image, padded to whole sectors.
fn whole_regions(image: &SourceImage) -> Vec<Region> {
    let len = image.image.len();
    let mut out = Out(Vec::new());
    out.image(0, len, RegionKind::Image, &image.image);
    out.push(len, len.next_multiple_of(SECTOR), RegionKind::Gap, "zeros", Source::Zeros);
    out.0
}

fn no_room(dir: &Path, len: u64, e: std::io::Error) -> Error {
    let hint = if e.kind() == std::io::ErrorKind::FileTooLarge {
        format!(" ({} is more than its filesystem's largest file)", format_size(len))
    } else {
        String::new()
    };
    let what = format!(
        "cannot make a temporary overlay in {}{hint}; set TMPDIR to another directory, or use \
         --overlay or --read-only",
        dir.display()
    );
    Error::io(what, e)
}
