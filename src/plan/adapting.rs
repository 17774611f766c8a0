//! Planning the edits that adapt a guest to its new disk.

use super::candidates::Places;
use super::disk_builder::DiskBuilder;
use super::examine::{EditsQuestion, Examiner, Place, RemoteFs, SourceId};
use super::planned_disk::PlannedDisk;
use super::root_resolver::RootResolver;
use super::types::PartitionNames;
use super::unique_names::spec;
use crate::adapt::{Device, Devices};
use crate::bytes::ReadAt;
use crate::edit::{Edit, apply, check_room, fit, set_uuid};
use crate::fs::KernelMount;
use crate::fs::ext4::room::{Room, may_have_inline_files};
use crate::fs::probe::{HEAD_LEN, probe};
use crate::process::Inherited;
use crate::{Error, Result};
use std::fs::File;
use std::sync::Arc;

/// A guest whose disks exist.
pub(super) struct LiveGuest<'a> {
    pub(super) disks: &'a [PlannedDisk],
    pub(super) builders: &'a [DiskBuilder],
    pub(super) examiner: &'a Examiner,
    pub(super) places: &'a Places,
}

impl LiveGuest<'_> {
    /// The file in a mount of partition `index` of `resolver`, and that partition as a source of the
    /// examiner, read through the overlay. `None` if it is on none of the disks.
    ///
    /// # Errors
    /// When the examiner has too many sources.
    fn source(&self, resolver: &RootResolver, index: usize) -> Result<Option<(String, SourceId)>> {
        let Some(p) = resolver.partitions.get(index) else { return Ok(None) };
        if p.volume.is_some() {
            let found = self.places.volumes.at(index);
            return Ok(found.map(|found| (found.file(), found.source)));
        }
        let disk = self.disks.iter().find(|d| !d.cdrom && d.letters == p.disk);
        let Some((disk, reader)) = disk.and_then(|d| Some((d, d.partition(p.number)?))) else {
            return Ok(None);
        };
        // Without an overlay the disk has the same content as the images, which are open already.
        let written = self.builders.iter().any(|b| b.source.letters == p.disk && b.has_overlay());
        let source = match self.places.source(index).filter(|_| !written) {
            Some(source) => source,
            None => {
                let name = format!("partition {} of {}", p.number, disk.vdev);
                self.examiner.add(&name, Arc::new(reader))?
            }
        };
        Ok(Some((disk.partition_file(p.number), source)))
    }

    /// The partitions that may be mounted on the root filesystem, which is partition `root`.
    fn mountable(&self, resolver: &RootResolver, root: usize) -> Result<Vec<Place>> {
        let mut out = Vec::new();
        for (index, p) in resolver.partitions.iter().enumerate() {
            if index != root && p.kind.may_hold_root() {
                out.extend(self.source(resolver, index)?.map(|(_, source)| (index, source)));
            }
        }
        Ok(out)
    }

    /// Partition `index` of `resolver`, which is a root filesystem, and what may be mounted on it; `None`
    /// if it is on none of the disks.
    ///
    /// # Errors
    /// When the examiner has too many sources.
    pub(super) fn places(
        &self,
        resolver: &RootResolver,
        index: usize,
    ) -> Result<Option<(Place, Vec<Place>)>> {
        let Some((_, source)) = self.source(resolver, index)? else { return Ok(None) };
        Ok(Some(((index, source), self.mountable(resolver, index)?)))
    }

    /// The bytes where an ext filesystem in the examiner's `source` has its superblock; `None` if they
    /// cannot be read.
    pub(super) fn superblock(&self, source: SourceId) -> Option<[u8; 1024]> {
        let mut raw = [0; 1024];
        self.examiner.source(source)?.read_at(&mut raw, 1024).ok()?;
        Some(raw)
    }

    /// The filesystem in partition `index` of `resolver`, and its file in a mount; `None` if it is
    /// on none of the disks.
    ///
    /// # Errors
    /// Those of opening the filesystem.
    pub(super) fn filesystem(
        &self,
        resolver: &RootResolver,
        index: usize,
    ) -> Result<Option<(String, RemoteFs)>> {
        let Some((file, source)) = self.source(resolver, index)? else { return Ok(None) };
        Ok(Some((file, RemoteFs::open(self.examiner, source)?)))
    }
}

/// Edits of the guest's root filesystem.
#[derive(Clone, Debug)]
pub struct Adaptation {
    /// Name of the partition's file in a mount.
    pub file: String,
    /// The edits.
    pub edits: Vec<Edit>,
    /// The new UUID for the filesystem.
    pub uuid: Option<String>,
    /// How the kernel mounts the filesystem, if only its driver writes to it.
    pub kernel_mount: Option<KernelMount>,
    /// Whether files may be stored in their inodes, where e2fsprogs cannot change them.
    pub inline_files: bool,
    /// The filesystem, and partitions that may be mounted on it.
    pub(super) places: (Place, Vec<Place>),
}

impl Adaptation {
    /// Makes the edits in `partition`, the served file of that name. External tools get the open
    /// file, not a name.
    ///
    /// # Errors
    /// Those of [`apply`], [`check_room`] and [`set_uuid`]; if there is not enough space, nothing
    /// was changed.
    pub fn apply(&self, partition: &File) -> Result<()> {
        let inherited = Inherited::new(partition)
            .map_err(|e| Error::io("cannot hand the guest's partition to the tools", e))?;
        let partition = inherited.path();
        let mount = self.kernel_mount.as_ref();
        check_room(&self.edits, &partition, mount)?;
        if let Some(uuid) = &self.uuid {
            set_uuid(&partition, uuid, mount)?;
        }
        apply(&self.edits, &partition, mount)
    }
}

/// The edits that the guest on `disks` needs when it boots with `cmdline`. `None` if there are
/// none, or if its root filesystem is not on the disks or is read-only; `notes` then explain it.
///
/// # Errors
/// Errors from reading the root filesystem.
pub(super) fn adaptation(
    guests: &LiveGuest<'_>,
    resolver: &RootResolver,
    cmdline: &str,
    notes: &mut AdaptationNotes,
) -> Result<Option<Adaptation>> {
    if resolver.selection.is_none() {
        return Ok(None);
    }
    let Some(index) = resolver.root_index(cmdline) else {
        if let Some(root) = cmdline.split_ascii_whitespace().rfind(|w| w.starts_with("root=")) {
            notes.general.push(format!(
                "{root} is none of the partitions that can be read here, so the guest's files are \
                 not adapted"
            ));
        }
        return Ok(None);
    };
    adaptation_of(guests, resolver, index, notes)
}

/// As [`adaptation`], for the guest whose root filesystem is partition `index` of `resolver`.
///
/// # Errors
/// Errors from reading the root filesystem.
pub(super) fn adaptation_of(
    guests: &LiveGuest<'_>,
    resolver: &RootResolver,
    index: usize,
    notes: &mut AdaptationNotes,
) -> Result<Option<Adaptation>> {
    let Some(root) = resolver.partitions.get(index) else { return Ok(None) };
    let Some((file, source)) = guests.source(resolver, index)? else { return Ok(None) };
    let (devices, selection) = (devices(resolver, root, guests), resolver.selection.clone());
    let places = ((index, source), guests.mountable(resolver, index)?);
    let question = EditsQuestion {
        root: places.0,
        others: places.1.clone(),
        resolver: resolver.clone(),
        devices,
        selection,
    };
    let (edits, elsewhere, kernel_mount) = guests.examiner.edits(question)?;
    if !elsewhere.is_empty() {
        let list = elsewhere.join(" and ");
        notes.left_out.push(format!("{list} is not on the root filesystem, and is not adapted"));
    }
    let superblock = guests.superblock(source);
    let (edits, left_out) = match kernel_mount {
        // The kernel itself finds out.
        Some(_) => (edits, Vec::new()),
        None => fit(edits, superblock.as_ref().and_then(Room::parse)),
    };
    let inline_files =
        kernel_mount.is_none() && superblock.as_ref().is_some_and(may_have_inline_files);
    notes.left_out.extend(left_out);
    if edits.is_empty() {
        return Ok(None);
    }
    if root.read_only && root.volume.is_some() {
        let paths: Vec<&str> = edits.iter().map(|e| e.path.as_str()).collect();
        notes.left_out.push(format!(
            "{}, so {} is not adapted",
            why_read_only(root),
            paths.join(" and ")
        ));
        return Ok(None);
    }
    Ok(Some(Adaptation { file, edits, uuid: None, kernel_mount, inline_files, places }))
}

/// What the user should know of an adaptation.
#[derive(Debug, Default)]
pub(super) struct AdaptationNotes {
    pub(super) general: Vec<String>,
    /// Edits that the guest needs and that cannot be made.
    pub(super) left_out: Vec<String>,
}

/// Why nothing can be written to the root filesystem.
pub(super) fn why_read_only(root: &PartitionNames) -> &'static str {
    match &root.volume {
        None => "the config makes the root filesystem read-only",
        Some(_) => {
            "the root filesystem is on a logical volume that is read-only, that has a snapshot, or \
             whose disk the config makes read-only"
        }
    }
}

/// The partitions of the guest whose root filesystem is `root`, with their old and new names.
pub(super) fn devices(
    resolver: &RootResolver,
    root: &PartitionNames,
    guests: &LiveGuest<'_>,
) -> Devices {
    let all = resolver.partitions.iter().enumerate();
    // Of a physical volume, a guest uses the logical volumes.
    let all = all.filter(|(_, p)| !p.kind.holds_volumes());
    let (mut list, others): (Vec<_>, Vec<_>) = all.partition(|(_, p)| std::ptr::eq(*p, root));
    list.extend(others);
    let device = |(index, p): (usize, &PartitionNames)| device(index, p, resolver, guests);
    let list = list.into_iter().map(device).collect();
    let devices = Devices::new(list, resolver.same_names).with_macs(&resolver.macs);
    let has_tail =
        guests.disks.iter().any(|d| d.layout.as_ref().is_some_and(|l| l.tail().is_some()));
    let devices = if has_tail { devices.with_tail() } else { devices };
    if resolver.complete { devices.and_no_others() } else { devices }
}

fn device(
    index: usize,
    p: &PartitionNames,
    resolver: &RootResolver,
    guests: &LiveGuest<'_>,
) -> Device {
    Device {
        disk: p.disk.clone(),
        number: p.number,
        spec: spec(&resolver.partitions, p),
        uuid: p.uuid.clone(),
        partuuid: p.partuuid.clone(),
        label: label_now(index, p, guests).unwrap_or_else(|| p.label.clone()),
        swap: p.kind.is_swap(),
    }
}

/// The label of the partition as read through the disk: the guest may have changed it from the
/// image's label. `None` if it cannot be read.
fn label_now(index: usize, p: &PartitionNames, guests: &LiveGuest<'_>) -> Option<Option<String>> {
    if p.volume.is_some() {
        let content = &guests.places.volumes.at(index)?.content;
        return Some(content.label().map(str::to_owned));
    }
    let disk = guests.disks.iter().find(|d| !d.cdrom && d.letters == p.disk)?;
    let reader = disk.partition(p.number)?;
    let mut head = vec![0; reader.len().min(HEAD_LEN as u64) as usize];
    reader.read_at(&mut head, 0).ok()?;
    Some(probe(&head, reader.len()).label().map(str::to_owned))
}
