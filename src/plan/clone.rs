//! Planning a clone: which partition is its root, its new UUID, and which files are edited.

use super::adapting::{Adaptation, devices};
use super::disk_builder::DiskBuilder;
use super::options::SourceOptions;
use super::planned_disk::{PartitionReader, PlannedDisk};
use super::root_resolver::RootResolver;
use super::source::SourceImage;
use super::types::PartitionNames;
use crate::bytes::ReadAt;
use crate::fs::GuestFs;
use crate::fs::open::open_fs;
use crate::fs::probe::ImageContent;
use crate::identity::{Clone as CloneOf, RootUuid, UuidChange, propose_with_identity};
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use uuid::Uuid;

/// Opens a root filesystem that will be edited.
fn open(reader: impl ReadAt + 'static) -> Result<Box<dyn GuestFs>> {
    open_fs(reader).map_err(|e| {
        let what =
            format!("cannot edit the guest's root filesystem, as --hostname and the like do: {e}");
        Error::new(e.kind(), what)
    })
}

/// The root filesystem, as an index into the partitions of `resolver`: the one named by `cmdline`,
/// or by the config, or the first that looks like one.
pub(super) fn root_of(
    resolver: &RootResolver,
    cmdline: Option<&str>,
    disks: &[PlannedDisk],
) -> Result<usize> {
    let named = cmdline.and_then(|words| resolver.root_index(words));
    let named = named.or_else(|| resolver.root_index(resolver.root_hint.as_deref()?));
    let looks_like_one = |p: &PartitionNames| {
        let fs = reader_of(disks, p).and_then(|(_, reader)| open_fs(reader).ok());
        fs.is_some_and(|fs| fs.stat("/etc").is_ok() && fs.stat("/boot/etc").is_err())
    };
    let mut linux = resolver.partitions.iter().enumerate();
    let mut found =
        || linux.find(|(_, p)| p.kind.may_hold_root() && looks_like_one(p)).map(|(i, _)| i);
    named.or_else(&mut found).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "--hostname and the like edit the guest's root filesystem, and none of its partitions \
             can be read as one (ext2, ext3, ext4, XFS or Btrfs, not a whole disk)",
        )
    })
}

fn reader_of<'a>(
    disks: &'a [PlannedDisk],
    p: &PartitionNames,
) -> Option<(&'a PlannedDisk, PartitionReader)> {
    let disk = disks.iter().find(|d| !d.cdrom && d.letters == p.disk)?;
    Some((disk, disk.partition(p.number)?))
}

/// Gives partition `root` of `resolver` the requested UUID; from now on `resolver` uses the new
/// UUID.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a filesystem that is not ext2/3/4.
pub(super) fn rename_root(
    resolver: &mut RootResolver,
    root: usize,
    wish: RootUuid,
    builders: &[DiskBuilder],
) -> Result<Option<UuidChange>> {
    let Some(names) = resolver.partitions.get_mut(root) else { return Ok(None) };
    let source = source_of(builders, names);
    if !source.is_some_and(|s| matches!(s.content, ImageContent::Ext { .. })) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "--root-uuid can change an ext2, ext3 or ext4 filesystem only",
        ));
    }
    let current = names.uuid.clone().unwrap_or_default();
    let new = match wish {
        RootUuid::Given(uuid) => uuid.hyphenated().to_string(),
        // The clone already has its own UUID.
        RootUuid::New if !names.former.is_empty() => current.clone(),
        RootUuid::New => Uuid::new_v4().hyphenated().to_string(),
    };
    let pending = new != current;
    if pending && !current.is_empty() {
        names.former.push(current);
    }
    names.former.retain(|former| *former != new);
    names.uuid = Some(new.clone());
    Ok(Some(UuidChange { new, former: names.former.clone(), pending }))
}

/// The image of a partition.
fn source_of<'a>(builders: &'a [DiskBuilder], p: &PartitionNames) -> Option<&'a SourceImage> {
    let disk = builders.iter().find(|d| d.source.letters == p.disk)?;
    Some(&disk.partitions().iter().find(|s| s.number == p.number)?.image)
}

/// The edits that make the guest a clone, including those of its adaptation.
///
/// # Errors
/// Anything that prevents an edit: a clone must be exactly what was requested.
pub(super) fn clone_edits(
    (disks, builders): (&[PlannedDisk], &[DiskBuilder]),
    resolver: &RootResolver,
    cmdline: Option<&str>,
    uuid: Option<&UuidChange>,
    options: &SourceOptions,
) -> Result<Option<Adaptation>> {
    let root = &resolver.partitions[root_of(resolver, cmdline, disks)?];
    if root.read_only {
        return Err(Error::new(
            ErrorKind::Invalid,
            "--hostname and the like edit the root filesystem, which the config makes read-only",
        ));
    }
    let Some((disk, reader)) = reader_of(disks, root) else {
        return Err(Error::new(ErrorKind::NotFound, "the root filesystem is on none of the disks"));
    };
    let fs = open(reader)?;
    let written_to = builders.iter().any(|d| d.source.letters == root.disk && d.has_overlay());
    let image = source_of(builders, root).filter(|_| written_to);
    let pristine = image.map(|s| open(Arc::clone(&s.image))).transpose()?;
    let clone = CloneOf { identity: &options.identity, pristine: pristine.as_deref(), uuid };
    let devices = devices(resolver, root, disks);
    let edits = propose_with_identity(&*fs, &devices, &options.adapt, clone)?;
    let uuid = uuid.filter(|change| change.pending).map(|change| change.new.clone());
    let file = disk.partition_file(root.number);
    Ok((uuid.is_some() || !edits.is_empty()).then_some(Adaptation { file, edits, uuid }))
}
