//! The disks as they would be mounted, and the contents of their partitions.

use crate::bytes::ReadAt;
use crate::disk::Source;
use crate::fs::probe::{ExtKind, HEAD_LEN, ImageContent, probe, uuid_text};
use crate::fs::usage::{Usage, usage};
use crate::fs::xfs::log_is_dirty;
use crate::image::ImageFile;
use crate::layout::TableKind;
use crate::plan::{Plan, PlannedDisk, PlannedVolume, RootPlace};
use crate::qemu::FirmwareKind;
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A disk.
#[derive(Debug, Serialize)]
pub struct DiskReport {
    /// Name of its file in a mount.
    pub file: String,
    /// The guest's name for it under Xen.
    pub vdev: String,
    /// Length in bytes.
    pub size: u64,
    /// `mbr`, `gpt`, or `as it is` for an image that is a whole disk already.
    pub table: &'static str,
    /// `bios` or `uefi`, under which this disk boots; `None` when another one does.
    pub firmware: Option<&'static str>,
    /// Its partitions, or the contents of the whole disk.
    pub partitions: Vec<PartitionReport>,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct PartitionReport {
    /// Its number; 0 for the whole disk when an image is shown as a disk unchanged.
    pub number: u32,
    /// Where it starts on the disk, in bytes.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// What it contains.
    #[serde(flatten)]
    pub content: ContentReport,
    /// The image that it shows; `None` for a generated one.
    pub image: Option<PathBuf>,
    /// The files of that image with their formats, those of its backing images included.
    pub image_files: Vec<ImageFile>,
}

/// A logical volume.
#[derive(Debug, Serialize)]
pub struct VolumeReport {
    /// Name of its file in a mount.
    pub file: String,
    /// Name of its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Whether writes to its file are refused.
    pub read_only: bool,
    /// What it contains.
    #[serde(flatten)]
    pub content: ContentReport,
}

/// What a partition or a volume contains.
#[derive(Debug, Serialize)]
pub struct ContentReport {
    /// In one word: `ext4`, `xfs`, `swap`.
    #[serde(rename = "type")]
    pub kind: String,
    /// UUID of the filesystem or swap area.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Size of the filesystem, and how much of it is in use.
    pub usage: Option<Usage>,
    /// State of its journal; `None` when it has none or the state is unknown.
    pub journal: Option<Journal>,
}

/// State of a journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Journal {
    /// Nothing has to be replayed.
    Clean,
    /// It must be replayed: the guest was not shut down cleanly.
    Dirty,
    /// The kernel has found errors in the filesystem.
    Errors,
}

/// The disks of `plan`.
pub(super) fn disks(plan: &Plan) -> Vec<DiskReport> {
    let firmware = match plan.firmware {
        FirmwareKind::Bios => "bios",
        FirmwareKind::Uefi => "uefi",
    };
    let boots = |i: usize, disk: &PlannedDisk| (i == 0 && !disk.cdrom).then_some(firmware);
    plan.disks.iter().enumerate().map(|(i, disk)| report(disk, boots(i, disk))).collect()
}

/// The logical volumes of `plan`.
pub(super) fn volumes(plan: &Plan) -> Vec<VolumeReport> {
    let report = |volume: &PlannedVolume| {
        let bytes = volume.bytes(&plan.disks)?;
        let size = bytes.len();
        Some(VolumeReport {
            file: volume.file.clone(),
            group: volume.group.clone(),
            name: volume.name.clone(),
            size,
            read_only: volume.read_only,
            content: content(size, |head| bytes.read_at(head, 0), Some(&bytes)),
        })
    };
    plan.volumes.iter().filter_map(report).collect()
}

/// The root filesystem, wherever it is.
pub(super) fn root_content<'a>(
    disks: &'a [DiskReport],
    volumes: &'a [VolumeReport],
    root: Option<RootPlace>,
) -> Option<&'a ContentReport> {
    match root? {
        RootPlace::Partition { disk, number } => {
            let mut partitions = disks.get(disk)?.partitions.iter();
            partitions.find(|p| p.number == number).map(|p| &p.content)
        }
        RootPlace::Volume(index) => volumes.get(index).map(|v| &v.content),
    }
}

/// What is in `size` bytes: `read` reads the first of them, and `bytes` all of them where that is
/// possible.
fn content(
    size: u64,
    read: impl FnOnce(&mut [u8]) -> io::Result<()>,
    bytes: Option<&dyn ReadAt>,
) -> ContentReport {
    let mut head = vec![0; size.min(HEAD_LEN as u64) as usize];
    let found = match read(&mut head) {
        Ok(()) => probe(&head, size),
        Err(_) => ImageContent::Unknown,
    };
    ContentReport {
        kind: found.short_name().into(),
        uuid: found.uuid().map(|uuid| uuid_text(&uuid)),
        label: found.label().map(str::to_owned),
        usage: usage(&head),
        journal: journal(&found, &head, bytes),
    }
}

fn report(disk: &PlannedDisk, firmware: Option<&'static str>) -> DiskReport {
    let regions = disk.disk.table();
    let image = |start: u64| {
        let region = regions.regions().iter().find(|r| r.start == start)?;
        match &region.source {
            Source::Image { image, .. } => Some(Arc::clone(image)),
            _ => None,
        }
    };
    let partitions = match &disk.layout {
        Some(layout) => layout.partitions.iter().map(|p| (p.number, p.start, p.len)).collect(),
        None => vec![(0, 0, disk.disk.len())],
    };
    let partition = |(number, start, size): (u32, u64, u64)| {
        let reader = disk.partition(number);
        let image = image(start);
        PartitionReport {
            number,
            start,
            size,
            content: content(
                size,
                |head| disk.disk.read_at(head, start),
                reader.as_ref().map(|r| r as &dyn ReadAt),
            ),
            image: image.as_ref().map(|image| image.path().to_path_buf()),
            image_files: image.map(|image| image.files()).unwrap_or_default(),
        }
    };
    DiskReport {
        file: disk.file.clone(),
        vdev: disk.vdev.clone(),
        size: disk.disk.len(),
        table: match disk.layout.as_ref().map(|l| l.table) {
            Some(TableKind::Mbr) => "mbr",
            Some(TableKind::Gpt) => "gpt",
            None => "as it is",
        },
        firmware,
        partitions: partitions.into_iter().map(partition).collect(),
    }
}

/// The kind of the filesystem in `bytes`, in one word, and the state of its journal; `None` as in
/// [`ContentReport::journal`].
pub fn journal_of(bytes: &dyn ReadAt) -> (String, Option<Journal>) {
    let found = content(bytes.len(), |head| bytes.read_at(head, 0), Some(bytes));
    (found.kind, found.journal)
}

fn state(is_dirty: bool) -> Option<Journal> {
    Some(if is_dirty { Journal::Dirty } else { Journal::Clean })
}

/// Whether a Btrfs has a tree of fsynced files, which the next mount replays: `log_root` in its
/// superblock (`struct btrfs_super_block`).
fn has_log_tree(head: &[u8]) -> Option<bool> {
    head.get(0x1_0060..0x1_0068).map(|root| root.iter().any(|b| *b != 0))
}

/// Whether an ext filesystem is marked as having errors: `s_state` in its superblock.
fn has_errors(head: &[u8]) -> bool {
    head.get(1024 + 0x3a).is_some_and(|state| state & 0x2 != 0)
}

/// The state of the journal of the filesystem in `reader` that begins with `head`.
fn journal(content: &ImageContent, head: &[u8], reader: Option<&dyn ReadAt>) -> Option<Journal> {
    match content {
        ImageContent::Xfs { .. } => state(log_is_dirty(reader?)?),
        ImageContent::Btrfs { .. } => state(has_log_tree(head)?),
        ImageContent::Ext { .. } if has_errors(head) => Some(Journal::Errors),
        ImageContent::Ext { kind: ExtKind::Ext2, .. } => None,
        ImageContent::Ext { needs_recovery: true, .. } => Some(Journal::Dirty),
        ImageContent::Ext { .. } => Some(Journal::Clean),
        _ => None,
    }
}
