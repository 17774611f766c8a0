//! What the guest must be told about its new disk.

use super::build::PlannedDisk;
use super::roots::{CmdlineRules, PartitionNames};
use crate::adapt::{Device, Devices, Edit, apply, propose};
use crate::guest::open::open_fs;
use crate::layout::PartitionKind;
use crate::{Error, Result};
use std::path::Path;

/// Edits of the guest's root filesystem.
#[derive(Clone, Debug)]
pub struct Adaptation {
    /// Name of the partition's file in a mount.
    pub file: String,
    /// The edits; there is at least one.
    pub edits: Vec<Edit>,
}

impl Adaptation {
    /// Make the edits in a mount on `dir`.
    ///
    /// # Errors
    /// Those of [`apply`].
    pub fn apply(&self, dir: &Path) -> Result<()> {
        apply(&self.edits, &dir.join(&self.file))
    }
}

/// The edits that the guest on `disks` needs, which boots with `cmdline`. A root filesystem that
/// cannot be looked into or may not be written is left as it is, and `notes` say so.
pub(super) fn adaptation(
    disks: &[PlannedDisk],
    rules: &CmdlineRules,
    cmdline: &str,
    same_names: bool,
    notes: &mut Vec<String>,
) -> Option<Adaptation> {
    let root = rules.root_of(cmdline)?;
    let disk = disks.iter().find(|d| !d.cdrom && d.letters == root.disk)?;
    let reader = disk.partition(root.number)?;
    let others = rules.partitions.iter().filter(|p| !std::ptr::eq(*p, root));
    let devices = std::iter::once(root).chain(others).map(device).collect();
    let proposed = open_fs(reader)
        .and_then(|fs| propose(&*fs, &Devices::new(devices, same_names)))
        .map_err(|e: Error| notes.push(format!("the guest is not adapted to KVM: {e}")));
    let edits = proposed.ok().filter(|edits| !edits.is_empty())?;
    if root.read_only {
        let paths: Vec<&str> = edits.iter().map(|e| e.path.as_str()).collect();
        notes.push(format!(
            "the config makes the root filesystem read-only, so {} stays as it is under Xen",
            paths.join(" and ")
        ));
        return None;
    }
    Some(Adaptation { file: disk.partition_file(root.number), edits })
}

fn device(p: &PartitionNames) -> Device {
    Device {
        disk: p.disk.clone(),
        number: p.number,
        spec: match &p.uuid {
            Some(uuid) => format!("UUID={uuid}"),
            None => format!("PARTUUID={}", p.partuuid),
        },
        swap: p.kind == PartitionKind::Swap,
    }
}
