//! Planning who a clone is: which partition is its root, what UUID that gets, what is edited in it.

use super::adapting::{Adaptation, devices};
use super::build::PlannedDisk;
use super::disks::Prepared;
use super::gap::PartitionReader;
use super::options::SourceOptions;
use super::roots::{CmdlineRules, PartitionNames};
use crate::bytes::ReadAt;
use crate::fs::GuestFs;
use crate::fs::open::open_fs;
use crate::identity::{Clone as CloneOf, RootUuid, UuidChange, propose_with_identity};
use crate::layout::PartitionKind;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use uuid::Uuid;

/// Look into a root filesystem.
fn open(reader: impl ReadAt + 'static) -> Result<Box<dyn GuestFs>> {
    open_fs(reader).map_err(|e| {
        let what = format!("options like --hostname edit the guest's root filesystem: {e}");
        Error::new(e.kind(), what)
    })
}

/// The root filesystem, as an index into the partitions of `rules`: the one that `cmdline` names, or
/// the config does, or the first that looks like one.
pub(super) fn root_of(
    rules: &CmdlineRules,
    cmdline: Option<&str>,
    disks: &[PlannedDisk],
) -> Result<usize> {
    let named = cmdline.and_then(|words| rules.root_index(words));
    let named = named.or_else(|| rules.root_index(rules.root_hint.as_deref()?));
    let looks_like_one = |p: &PartitionNames| {
        let fs = reader_of(disks, p).and_then(|(_, reader)| open_fs(reader).ok());
        fs.is_some_and(|fs| fs.stat("/etc").is_ok() && fs.stat("/boot/etc").is_err())
    };
    let mut linux = rules.partitions.iter().enumerate();
    let mut found =
        || linux.find(|(_, p)| p.kind == PartitionKind::Linux && looks_like_one(p)).map(|(i, _)| i);
    named.or_else(&mut found).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "options like --hostname edit the guest's root filesystem, and none of its partitions \
             is one that can be read (ext2, ext3, ext4, XFS or Btrfs, not a whole disk)",
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

/// Give the partition number `root` among those of `rules` the UUID that is wished for; from here on
/// `rules` know it by that.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a filesystem that is not ext2/3/4.
pub(super) fn rename_root(
    rules: &mut CmdlineRules,
    root: usize,
    wish: RootUuid,
    prepared: &[Prepared],
) -> Result<Option<UuidChange>> {
    let Some(names) = rules.partitions.get_mut(root) else { return Ok(None) };
    let source = source_of(prepared, names);
    if !source.is_some_and(|s| matches!(s.content, crate::fs::probe::Content::Ext { .. })) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "--root-uuid can change an ext2, ext3 or ext4 filesystem only",
        ));
    }
    let current = names.uuid.clone().unwrap_or_default();
    let new = match wish {
        RootUuid::Given(uuid) => uuid.hyphenated().to_string(),
        // It has one of its own already.
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

/// The image that a partition was made from.
fn source_of<'a>(
    prepared: &'a [Prepared],
    p: &PartitionNames,
) -> Option<&'a super::source::SourceImage> {
    let disk = prepared.iter().find(|d| d.source.letters == p.disk)?;
    Some(&disk.partitions().iter().find(|s| s.number == p.number)?.image)
}

/// The edits that make the guest a clone, those of its adaptation among them.
///
/// # Errors
/// Whatever stands in the way: that the clone is not what was asked for is no detail.
pub(super) fn clone_edits(
    (disks, prepared): (&[PlannedDisk], &[Prepared]),
    rules: &CmdlineRules,
    cmdline: Option<&str>,
    uuid: Option<&UuidChange>,
    options: &SourceOptions,
) -> Result<Option<Adaptation>> {
    let root = &rules.partitions[root_of(rules, cmdline, disks)?];
    if root.read_only {
        return Err(Error::new(
            ErrorKind::Invalid,
            "options like --hostname edit the root filesystem, which the config makes read-only",
        ));
    }
    let Some((disk, reader)) = reader_of(disks, root) else {
        return Err(Error::new(ErrorKind::NotFound, "the root filesystem is on none of the disks"));
    };
    let fs = open(reader)?;
    let written_to = prepared.iter().any(|d| d.source.letters == root.disk && d.has_overlay());
    let image = source_of(prepared, root).filter(|_| written_to);
    let pristine = image.map(|s| open(Arc::clone(&s.image))).transpose()?;
    let clone = CloneOf { identity: &options.identity, pristine: pristine.as_deref(), uuid };
    let devices = devices(rules, root, disks);
    let edits = propose_with_identity(&*fs, &devices, &options.adapt, clone)?;
    let uuid = uuid.filter(|change| change.pending).map(|change| change.new.clone());
    let file = disk.partition_file(root.number);
    Ok((uuid.is_some() || !edits.is_empty()).then_some(Adaptation { file, edits, uuid }))
}
