//! Planning the edits that adapt a guest to its new disk.

use super::planned_disk::PlannedDisk;
use super::root_resolver::RootResolver;
use super::types::PartitionNames;
use crate::adapt::{Device, Devices, propose};
use crate::bytes::ReadAt;
use crate::edit::{Edit, apply, check_room, set_uuid};
use crate::fs::open::open_fs;
use crate::fs::probe::{HEAD_LEN, probe};
use crate::process::Inherited;
use crate::{Error, Result};
use std::fs::File;

/// Edits of the guest's root filesystem.
#[derive(Clone, Debug)]
pub struct Adaptation {
    /// Name of the partition's file in a mount.
    pub file: String,
    /// The edits.
    pub edits: Vec<Edit>,
    /// The new UUID for the filesystem.
    pub uuid: Option<String>,
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
        check_room(&self.edits, &partition)?;
        if let Some(uuid) = &self.uuid {
            set_uuid(&partition, uuid)?;
        }
        apply(&self.edits, &partition)
    }
}

/// The edits that the guest on `disks` needs when it boots with `cmdline`. `None` if there are
/// none, or if its root filesystem is not on the disks or is read-only; `notes` then explain it.
///
/// # Errors
/// Errors from reading the root filesystem.
pub(super) fn adaptation(
    disks: &[PlannedDisk],
    resolver: &RootResolver,
    cmdline: &str,
    notes: &mut Vec<String>,
) -> Result<Option<Adaptation>> {
    if resolver.selection.is_none() {
        return Ok(None);
    }
    let Some(root) = resolver.root_of(cmdline) else {
        if let Some(root) = cmdline.split_ascii_whitespace().rfind(|w| w.starts_with("root=")) {
            notes.push(format!(
                "{root} is none of the partitions that can be read here, so the guest's files are \
                 not adapted"
            ));
        }
        return Ok(None);
    };
    let disk = disks.iter().find(|d| !d.cdrom && d.letters == root.disk);
    let Some((disk, reader)) = disk.and_then(|d| Some((d, d.partition(root.number)?))) else {
        return Ok(None);
    };
    let fs = open_fs(reader)?;
    let edits = propose(&*fs, &devices(resolver, root, disks), &resolver.selection)?;
    if edits.is_empty() {
        return Ok(None);
    }
    if root.read_only {
        let paths: Vec<&str> = edits.iter().map(|e| e.path.as_str()).collect();
        notes.push(format!(
            "the config makes the root filesystem read-only, so {} is not adapted",
            paths.join(" and ")
        ));
        return Ok(None);
    }
    Ok(Some(Adaptation { file: disk.partition_file(root.number), edits, uuid: None }))
}

/// The partitions of the guest whose root filesystem is `root`, with their old and new names.
pub(super) fn devices(
    resolver: &RootResolver,
    root: &PartitionNames,
    disks: &[PlannedDisk],
) -> Devices {
    let others = resolver.partitions.iter().filter(|p| !std::ptr::eq(*p, root));
    let list = std::iter::once(root).chain(others).map(|p| device(p, disks)).collect();
    let devices = Devices::new(list, resolver.same_names).with_macs(&resolver.macs);
    if resolver.complete { devices.and_no_others() } else { devices }
}

fn device(p: &PartitionNames, disks: &[PlannedDisk]) -> Device {
    Device {
        disk: p.disk.clone(),
        number: p.number,
        spec: match &p.uuid {
            Some(uuid) => format!("UUID={uuid}"),
            None => format!("PARTUUID={}", p.partuuid),
        },
        partuuid: p.partuuid.clone(),
        label: label_now(p, disks).unwrap_or_else(|| p.label.clone()),
        swap: p.kind.is_swap(),
    }
}

/// The label of the partition as read through the disk: the guest may have changed it from the
/// image's label. `None` if it cannot be read.
fn label_now(p: &PartitionNames, disks: &[PlannedDisk]) -> Option<Option<String>> {
    let disk = disks.iter().find(|d| !d.cdrom && d.letters == p.disk)?;
    let reader = disk.partition(p.number)?;
    let mut head = vec![0; reader.len().min(HEAD_LEN as u64) as usize];
    reader.read_at(&mut head, 0).ok()?;
    Some(probe(&head, reader.len()).label().map(str::to_owned))
}
