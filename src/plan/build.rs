//! Putting the disk together.

use super::gap::{GuestPlanner, direct_gap, empty_gap, not_planned, wanted_gap};
use super::options::{Bootloader, Shape, SourceOptions};
use super::payload::{BootSummary, CmdlineBase, Payload, from_guest, from_host};
use super::remembered::Remembered;
use super::source::{ImageReader, RootImage};
use crate::boot::loader::STAGE1;
use crate::disk::{Disk, Overlay, Qcow2Overlay, Region, RegionKind, RegionTable, Scratch, Source};
use crate::image::Image;
use crate::layout::{
    Ids, Layout, LayoutSpec, PartitionKind, PartitionSpec, Placed, SECTOR, SWAP_MIN_LEN, SWAP_PAGE,
    SwapHeader, format_size, mbr_sector,
};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where writes go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OverlayChoice {
    /// A temporary overlay in this directory, gone at the end.
    Temporary(PathBuf),
    /// This file, created if need be.
    File(PathBuf),
    /// Nowhere: the disk is read-only.
    ReadOnly,
}

impl OverlayChoice {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Temporary(_) | Self::ReadOnly => None,
        }
    }
}

/// A disk that is ready to be served.
#[derive(Debug)]
pub struct Plan {
    /// The disk.
    pub disk: Arc<Disk>,
    /// Where its partitions lie.
    pub layout: Layout,
    /// Its identifiers.
    pub ids: Ids,
    /// What boots; `None` without a boot loader.
    pub boot: Option<BootSummary>,
    /// The images, absolute.
    pub images: Vec<PathBuf>,
    /// The persistent overlay, absolute.
    pub overlay: Option<PathBuf>,
    /// A new overlay that goes away again unless [`Plan::keep`] is called.
    created: Option<CreatedFile>,
}

/// Removes a file on drop, unless it was told to let it be.
#[derive(Debug)]
struct CreatedFile(Option<PathBuf>);

impl Drop for CreatedFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The partition numbers of a disk that is made of one image.
const ROOT: u32 = 1;
const SWAP: u32 = 2;

impl Plan {
    /// Plan the disk that `options` describe, with its writes going to `overlay`.
    ///
    /// # Errors
    /// A sentence for the user; nothing is left behind.
    pub fn build(options: &SourceOptions, overlay: &OverlayChoice) -> Result<Self> {
        let root = RootImage::open(options)?;
        let existing = match overlay {
            OverlayChoice::File(path) if path.symlink_metadata().is_ok() => {
                Some(open_overlay(path, options, &root)?)
            }
            _ => None,
        };
        let ids = match &existing {
            Some((_, remembered)) => remembered.ids(),
            None => {
                let derived = Ids::derive(&root.seed);
                Ids {
                    disk_id: options.disk_id.unwrap_or(derived.disk_id),
                    swap_uuid: options.swap_uuid.unwrap_or(derived.swap_uuid),
                }
            }
        };
        let shape = existing.as_ref().map_or_else(|| options.shape(), |(_, r)| r.shape);
        let cmdline = CmdlineBase {
            root_uuid: root.uuid_text(),
            root_partuuid: ids.partuuid(ROOT),
            swap_uuid: (shape.swap > 0).then(|| ids.swap_uuid.to_string()),
            append: options.append.clone(),
            replace: options.cmdline.clone(),
        };
        let from_host = match shape.bootloader {
            Bootloader::Direct => from_host(options, &cmdline)?,
            Bootloader::None if options.kernel.is_some() => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "--kernel needs a boot loader; leave out --bootloader none",
                ));
            }
            Bootloader::None => None,
        };
        let layout = match &existing {
            Some((_, remembered)) => remembered.layout.clone(),
            None => new_layout(options, shape, &root, from_host.as_ref(), &cmdline)?,
        };
        let code: &[u8] = match shape.bootloader {
            Bootloader::Direct => STAGE1,
            Bootloader::None => &[],
        };
        let mbr = mbr_sector(&layout, ids.disk_id, code)?;
        let gap_end = layout.gap();
        let gap = match from_host {
            Some(ref payload) => direct_gap(&mbr, &Ok(payload.clone()), gap_end),
            None => empty_gap(&mbr, gap_end),
        };
        let table = RegionTable::new(
            gap.into_iter().chain(partition_regions(&layout, &root, ids)).collect(),
        )?;

        let mut created = None;
        let writes: Option<Box<dyn Overlay>> = match (overlay, existing) {
            (_, Some((overlay, _))) => Some(Box::new(overlay)),
            (OverlayChoice::ReadOnly, None) => None,
            (OverlayChoice::Temporary(dir), None) => Some(Box::new(
                Scratch::new(dir, layout.len)
                    .map_err(|e| cannot_hold_overlay(dir, layout.len, e))?,
            )),
            (OverlayChoice::File(path), None) => {
                let image_len = root.image.len();
                let remembered =
                    Remembered::new(layout.clone(), shape, ids, image_len, root.fingerprint);
                let new = Qcow2Overlay::create(path, layout.len, &remembered.encode()?)?;
                created = Some(CreatedFile(Some(path.clone())));
                Some(Box::new(new))
            }
        };
        let disk = Arc::new(Disk::new(table, writes));
        let mut plan = Self {
            disk,
            layout,
            ids,
            boot: from_host.map(|p| p.summary),
            images: vec![root.image.path().to_path_buf()],
            overlay: overlay.path().and_then(|p| p.canonicalize().ok()),
            created,
        };
        if shape.bootloader == Bootloader::Direct && plan.boot.is_none() {
            plan.boot = Some(plan.follow_guest(mbr, options, cmdline)?);
        }
        Ok(plan)
    }

    /// Have the gap follow what the guest has installed; returns what boots now.
    fn follow_guest(
        &self,
        mbr: [u8; SECTOR as usize],
        options: &SourceOptions,
        cmdline: CmdlineBase,
    ) -> Result<BootSummary> {
        let root = self.layout.partitions.iter().find(|p| p.number == ROOT).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the overlay's layout has no root partition")
        })?;
        let latest = not_planned();
        let planner = GuestPlanner {
            disk: Arc::downgrade(&self.disk),
            partition: (root.start, root.len),
            mbr,
            gap_end: self.layout.gap(),
            entry: options.entry.clone(),
            cmdline,
            latest: Arc::clone(&latest),
        };
        self.disk.set_planner(Box::new(planner), self.layout.gap());
        self.disk.plan_gap();
        let mut latest = latest.lock();
        std::mem::replace(&mut *latest, Ok(BootSummary::default()))
    }

    /// The mount has succeeded: a new overlay stays.
    pub fn keep(&mut self) {
        if let Some(mut created) = self.created.take() {
            created.0 = None;
        }
    }
}

/// Open an overlay that exists, and make sure that it belongs to this image.
fn open_overlay(
    path: &Path,
    options: &SourceOptions,
    root: &RootImage,
) -> Result<(Qcow2Overlay, Remembered)> {
    let (overlay, metadata) = Qcow2Overlay::open(path)?;
    let remembered = Remembered::decode(&metadata).map_err(|e| {
        let what = format!("the overlay {} cannot be used", path.display());
        Error::with_source(e.kind(), what, e)
    })?;
    remembered.check(path, options, root.image.len(), root.fingerprint)?;
    if remembered.layout.len != overlay.disk_len() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the overlay {} was resized; its layout no longer fits", path.display()),
        ));
    }
    Ok((overlay, remembered))
}

/// The layout of a disk that has no overlay yet.
fn new_layout(
    options: &SourceOptions,
    shape: Shape,
    root: &RootImage,
    from_host: Option<&Payload>,
    cmdline: &CmdlineBase,
) -> Result<Layout> {
    let image_len = root.image.len();
    let root_len = shape.root_size.unwrap_or(image_len);
    if root_len < image_len {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "--root-size {} is smaller than the image ({}); it can only be larger",
                format_size(root_len),
                format_size(image_len)
            ),
        ));
    }
    if (1..SWAP_MIN_LEN).contains(&shape.swap) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "--swap is too small for a swap area, which takes at least 40K; use 0 for none",
        ));
    }
    let gap = match (shape.bootloader, from_host) {
        (Bootloader::None, _) => SECTOR,
        (Bootloader::Direct, Some(payload)) => wanted_gap(payload),
        (Bootloader::Direct, None) => {
            let reader = ImageReader(Arc::clone(&root.image));
            wanted_gap(&from_guest(reader, options.entry.as_ref(), cmdline)?)
        }
    };
    let mut partitions = vec![PartitionSpec {
        number: ROOT,
        len: root_len,
        kind: PartitionKind::Linux,
        active: true,
    }];
    if shape.swap > 0 {
        partitions.push(PartitionSpec {
            number: SWAP,
            len: shape.swap,
            kind: PartitionKind::Swap,
            active: false,
        });
    }
    Layout::compute(&LayoutSpec { align: shape.align, gap, partitions })
}

/// The regions from the first partition to the end of the disk.
fn partition_regions(layout: &Layout, root: &RootImage, ids: Ids) -> Vec<Region> {
    let mut regions = Vec::new();
    let mut end = layout.gap();
    let mut push = |start, stop, kind, origin: String, source| {
        if stop > start {
            regions.push(Region { start, len: stop - start, kind, origin, source });
        }
    };
    for p in &layout.partitions {
        push(end, p.start, RegionKind::Gap, "zeros".into(), Source::Zeros);
        let filled = match p.kind {
            PartitionKind::Linux => {
                let image = Arc::clone(&root.image);
                let stop = p.start + image.len().min(p.len);
                let origin = image.path().display().to_string();
                let source = Source::Image { image, offset: 0 };
                push(p.start, stop, RegionKind::Partition(p.number), origin, source);
                stop
            }
            PartitionKind::Swap => swap_header(p, ids, &mut push),
        };
        push(filled, p.end(), RegionKind::Partition(p.number), "zeros".into(), Source::Zeros);
        end = p.end();
    }
    push(end, layout.len, RegionKind::Gap, "zeros".into(), Source::Zeros);
    regions
}

fn swap_header(
    p: &Placed,
    ids: Ids,
    push: &mut impl FnMut(u64, u64, RegionKind, String, Source),
) -> u64 {
    let header = SwapHeader { len: p.len, uuid: ids.swap_uuid, label: String::new() };
    let stop = p.start + SWAP_PAGE;
    let origin = format!("swap area {}", ids.swap_uuid);
    let source = Source::Bytes(Arc::from(header.encode().as_slice()));
    push(p.start, stop, RegionKind::SwapHeader(p.number), origin, source);
    stop
}

fn cannot_hold_overlay(dir: &Path, len: u64, e: std::io::Error) -> Error {
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
