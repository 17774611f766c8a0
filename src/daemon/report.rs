//! What a mount is: its disks, what boots, what was edited, and the machine that it needs.

use crate::Error;
use crate::bytes::ReadAt;
use crate::edit::Edit;
use crate::export::StatusDisk;
use crate::fs::boot_code::BootCode;
use crate::layout::{PartitionKind, TableKind};
use crate::plan::{Hardware, Plan, PlannedDisk};
use crate::qemu::FirmwareKind;
use crate::sandbox::Confined;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A mount whose disks can be used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountReport {
    /// The guest's name.
    pub name: String,
    /// Directory of the mount, or path of the socket of an NBD server, absolute.
    pub mountpoint: PathBuf,
    /// The URI of the first disk, if it is served by NBD.
    pub uri: Option<String>,
    /// The disks; the firmware boots from the first.
    pub disks: Vec<ReportedDisk>,
    /// What boots.
    pub boot: BootReport,
    /// What the user should know.
    pub notes: Vec<String>,
    /// What was edited in the guest.
    pub edits: EditReport,
    /// The buses and cards that the guest has drivers for.
    pub hardware: Hardware,
    /// The firmware of a machine for the guest.
    pub firmware: FirmwareKind,
    /// How the serving process is confined.
    pub sandbox: Confined,
}

/// A disk of a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportedDisk {
    /// Its file and what the guest sees of it.
    pub disk: StatusDisk,
    /// Its length in bytes.
    pub len: u64,
    /// Its partition table, if it is known.
    pub table: Option<TableKind>,
    /// Its MBR signature, if its table is known.
    pub disk_id: Option<u32>,
    /// Its partitions, if its table is known.
    pub partitions: Vec<PartitionReport>,
    /// The file in which its writes are kept, absolute.
    pub overlay: Option<PathBuf>,
}

/// A partition of a table that is known.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Its number, from 1.
    pub number: u32,
    /// Its length in bytes.
    pub len: u64,
    /// What it holds.
    pub kind: PartitionKind,
}

/// What boots from the first disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum BootReport {
    /// A kernel that synthdisk's loader starts.
    Kernel {
        /// Title of the boot entry, or where the kernel is from.
        title: String,
        /// The kernel: where it is, and its version.
        kernel: String,
        /// The initrds, in order.
        initrds: Vec<String>,
        /// The command line as the kernel gets it.
        cmdline: String,
        /// What the user must know: the guest may not boot everywhere.
        warnings: Vec<String>,
        /// What was changed in the guest's command line, and why.
        changes: Vec<String>,
    },
    /// Boot code of the image.
    OwnLoader {
        /// What shows that there is some.
        evidence: String,
    },
    /// Nothing: there is no boot loader.
    Nothing,
}

/// What was edited in a guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EditReport {
    /// The UUID that the root filesystem got.
    pub root_uuid: Option<String>,
    /// Paths that were edited, each with what was done; not more than [`EditReport::MOST`].
    pub paths: Vec<(String, String)>,
    /// Edited paths that are not listed.
    pub more: usize,
    /// Edits that could not be made, one sentence each.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Why the guest could not be adapted.
    pub failure: Option<String>,
}

impl EditReport {
    /// Paths that are listed, at most: a directory that is copied in may have thousands.
    pub const MOST: usize = 100;

    /// Whether nothing was edited.
    pub fn is_empty(&self) -> bool {
        self.root_uuid.is_none() && self.paths.is_empty()
    }

    /// The edits that a mount of `plan` makes.
    pub fn planned(plan: &Plan) -> Self {
        let adaptation = match &plan.adaptation {
            Ok(Some(adaptation)) => adaptation,
            Ok(None) => return Self::default(),
            Err(e) => return Self::failed(e),
        };
        Self { root_uuid: adaptation.uuid.clone(), ..Self::made(adaptation.edits.iter()) }
    }

    /// These edits were made.
    pub fn made<'a>(edits: impl ExactSizeIterator<Item = &'a Edit>) -> Self {
        let more = edits.len().saturating_sub(Self::MOST);
        let listed = edits.take(Self::MOST);
        let paths = listed.map(|e| (e.path.clone(), e.why.clone())).collect();
        Self { paths, more, ..Self::default() }
    }

    /// Nothing was edited because of `e`.
    pub fn failed(e: &Error) -> Self {
        Self { failure: Some(e.to_string()), ..Self::default() }
    }
}

impl MountReport {
    /// The report of a mount of `plan`, before it is mounted and edited.
    pub fn of(plan: &Plan) -> Self {
        let boot = match &plan.boot {
            Some(boot) => BootReport::Kernel {
                title: boot.title.clone(),
                kernel: boot.kernel.clone(),
                initrds: boot.initrds.clone(),
                cmdline: boot.cmdline.clone(),
                warnings: boot.warnings.clone(),
                changes: boot.notes.clone(),
            },
            None => match &plan.own_loader {
                Some(BootCode::Present(evidence) | BootCode::Unknown(evidence)) => {
                    BootReport::OwnLoader { evidence: evidence.clone() }
                }
                Some(BootCode::Absent(_)) | None => BootReport::Nothing,
            },
        };
        Self {
            name: plan.name.clone(),
            mountpoint: PathBuf::new(),
            uri: None,
            disks: plan.disks.iter().map(ReportedDisk::of).collect(),
            boot,
            notes: plan.notes.clone(),
            edits: EditReport::default(),
            hardware: plan.boot.as_ref().map(|boot| boot.hardware).unwrap_or_default(),
            firmware: plan.firmware,
            sandbox: Confined::default(),
        }
    }

    /// The disks as the mount's status lists them.
    pub fn status_disks(&self) -> Vec<StatusDisk> {
        self.disks.iter().map(|d| d.disk.clone()).collect()
    }
}

impl ReportedDisk {
    fn of(planned: &PlannedDisk) -> Self {
        let layout = planned.layout.as_ref().filter(|_| planned.ids.is_some());
        let partitions = layout.iter().flat_map(|l| &l.partitions);
        Self {
            disk: StatusDisk::of(planned),
            len: planned.disk.len(),
            table: layout.map(|l| l.table),
            disk_id: planned.ids.map(|ids| ids.disk_id),
            partitions: partitions
                .map(|p| PartitionReport { number: p.number, len: p.len, kind: p.kind })
                .collect(),
            overlay: planned.overlay.clone(),
        }
    }
}
