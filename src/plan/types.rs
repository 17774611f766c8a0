//! The types that the stages of planning share. No logic.

use super::hardware::Hardware;
use super::source::SourceImage;
use crate::Result;
use crate::fs::boot_code::BootCode;
use crate::guest::select::EntrySelector;
use crate::layout::{PartitionKind, Placed, TableKind};
use crate::loader::{FirmwareSet, LoaderKind, Payload};
use crate::lvm::mapper_name;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use uuid::Uuid;

/// Where writes go.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum OverlayChoice {
    /// Temporary overlays in this directory, deleted at the end.
    Temporary(PathBuf),
    /// This file, created if missing; for a guest with one disk.
    File(PathBuf),
    /// One file per disk in this directory, created if missing.
    Dir(PathBuf),
    /// Nowhere: the disks are read-only.
    ReadOnly,
    /// Temporary overlays in `scratch`, on top of existing persistent ones that are only read.
    Over {
        /// [`OverlayChoice::File`] or [`OverlayChoice::Dir`].
        below: Box<OverlayChoice>,
        /// Directory of the temporary overlays.
        scratch: PathBuf,
    },
}

/// A guest before its disks are laid out.
#[derive(Debug)]
pub(super) struct GuestSpec {
    /// Name used for files that belong to the guest.
    pub(super) name: String,
    /// In the order in which the guest sees them.
    pub(super) disks: Vec<DiskSource>,
    pub(super) boot: BootRequest,
    /// The config's command line, whose `root=` names a partition under Xen.
    pub(super) root_hint: Option<String>,
    /// MAC addresses that the config gives its network cards.
    pub(super) macs: Vec<String>,
    /// Memory that the config gives the guest, in MiB.
    pub(super) memory_mib: Option<u64>,
    /// Whether the first disk is the one listed first, rather than the one with the first letter.
    pub(super) first_listed: bool,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// A disk of the guest.
#[derive(Debug)]
pub(super) struct DiskSource {
    /// `xvda`: the guest's name for it under Xen.
    pub(super) vdev: String,
    /// `a`.
    pub(super) letters: String,
    /// Its position in the user's list.
    pub(super) listed: usize,
    pub(super) content: DiskContent,
}

/// The content of a disk.
#[derive(Debug)]
pub(super) enum DiskContent {
    /// Partitions, in the order of their numbers.
    Partitions(Vec<PartitionSource>),
    /// An image that is a complete disk; its partition table and partitions stay as they are.
    Whole(WholeDisk),
    /// A CD or DVD.
    Cdrom(SourceImage),
}

/// An image that is a complete disk.
#[derive(Debug)]
pub(super) struct WholeDisk {
    pub(super) image: SourceImage,
    pub(super) read_only: bool,
    /// Its partition table, or why the disk is not looked into.
    pub(super) table: Result<OwnTable>,
    /// Whether the image boots by itself.
    pub(super) boot_code: BootCode,
}

/// The partition table that an image has.
#[derive(Debug)]
pub(super) struct OwnTable {
    pub(super) kind: TableKind,
    /// The disk signature in its MBR.
    pub(super) disk_id: u32,
    /// The GUID in its GPT.
    pub(super) disk_guid: Uuid,
    /// In disk order.
    pub(super) places: Vec<Placed>,
    /// In the same order.
    pub(super) partitions: Vec<PartitionSource>,
}

/// A partition of the guest.
#[derive(Clone, Debug)]
pub(super) struct PartitionSource {
    pub(super) number: u32,
    /// Its image, or its part of the image of a whole disk.
    pub(super) image: SourceImage,
    pub(super) kind: PartitionKind,
    /// Its identifier in a partition table that is not generated.
    pub(super) partuuid: Option<String>,
    pub(super) read_only: bool,
    /// Its position in the order in which boot menus are looked for. For images, that of the user's
    /// list: pygrub examines what was listed first.
    pub(super) listed: usize,
}

/// A disk's role in the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DiskRole {
    /// The one that the firmware boots from.
    First,
    Further,
}

/// How to boot the guest.
#[derive(Clone, Debug)]
pub(super) enum BootRequest {
    /// From its own boot configuration.
    Guest(GuestBootRequest),
    /// With files of this host.
    Host {
        kernel: PathBuf,
        initrds: Vec<PathBuf>,
        /// The command line that Xen would pass.
        cmdline: String,
    },
    /// Not started by us.
    Nothing,
}

/// Requests about the guest's own boot configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct GuestBootRequest {
    pub(super) entry: Option<EntrySelector>,
    /// A kernel inside the guest, instead of the entry's.
    pub(super) kernel: Option<String>,
    /// An initrd inside the guest, instead of the entry's.
    pub(super) ramdisk: Option<String>,
    /// Added to the entry's command line before it is adapted.
    pub(super) append: Option<String>,
}

/// The options that determine the layout of a disk. Part of an overlay's metadata.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct DiskShape {
    /// Length in bytes of a swap partition without an image; 0 for none.
    pub(super) swap: u64,
    /// Partitions start at multiples of this many bytes.
    pub(super) align: u64,
    /// Length in bytes of the root partition, if larger than its image.
    pub(super) root_size: Option<u64>,
    pub(super) table: Option<TableKind>,
    pub(super) bootloader: LoaderKind,
    /// The firmware that the disk boots under. Overlays of earlier versions do not store it.
    #[serde(default)]
    pub(super) firmware: FirmwareSet,
}

impl DiskShape {
    /// Whether the disk must have a GPT with an EFI system partition.
    pub(super) fn needs_gpt(&self) -> bool {
        self.firmware.has_uefi() && self.bootloader.limits().is_some()
    }

    /// Whether the disk can boot under `firmware` without another layout.
    pub(super) fn fits(&self, firmware: FirmwareSet) -> bool {
        self.bootloader.limits().is_none() || firmware.same_layout(self.firmware)
    }
}

/// The names that the kernel's command line may use for a partition.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct PartitionNames {
    /// Letters of its disk under Xen: `a`.
    pub(super) disk: String,
    /// The disk's name under Xen, which is its serial number on KVM: `xvda`.
    pub(super) vdev: String,
    /// Its number; a bare filesystem, which has no number under Xen, gets 1.
    pub(super) number: u32,
    pub(super) kind: PartitionKind,
    /// UUID of the filesystem or swap area in it.
    pub(super) uuid: Option<String>,
    /// Its earlier UUIDs, above all the image's, by which the guest may still refer to it.
    pub(super) former: Vec<String>,
    pub(super) label: Option<String>,
    pub(super) partuuid: String,
    /// Whether the guest may not write to it.
    pub(super) read_only: bool,
    /// Set for a logical volume, which has no disk, no number and no PARTUUID.
    pub(super) volume: Option<VolumeName>,
}

/// The names of a logical volume.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct VolumeName {
    pub(super) group: String,
    pub(super) name: String,
    /// UUIDs of group and volume, as in `/dev/disk/by-id/dm-uuid-LVM-…`.
    pub(super) uuid: String,
}

impl VolumeName {
    /// Its name in `/dev/mapper`.
    pub(super) fn mapper(&self) -> String {
        mapper_name(&self.group, &self.name)
    }

    /// The name by which every machine knows it.
    pub(super) fn device(&self) -> String {
        format!("/dev/mapper/{}", self.mapper())
    }

    /// Whether `device` is one of its names.
    pub(super) fn is_called(&self, device: &str) -> bool {
        let Some(name) = device.strip_prefix("/dev/") else { return false };
        let after = |prefix: &str| name.strip_prefix(prefix);
        let mapper = after("mapper/").or_else(|| after("disk/by-id/dm-name-"));
        mapper == Some(self.mapper().as_str())
            || name.split_once('/') == Some((self.group.as_str(), self.name.as_str()))
            || after("disk/by-id/dm-uuid-LVM-") == Some(self.uuid.as_str())
    }
}

/// What boots: the loader's payload and its summary.
#[derive(Clone, Debug)]
pub(super) struct PlannedBoot {
    pub(super) payload: Payload,
    pub(super) summary: BootSummary,
}

/// Whether the kernel has a driver for its disk in time.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum DiskDriver {
    /// Nobody has looked.
    #[default]
    Unchecked,
    /// In the kernel or in an initrd: the evidence.
    Present(String),
    /// It cannot be told: the reason.
    Unknown(String),
    /// It has none: what it lacks.
    Missing(String),
}

/// What will boot, for display.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct BootSummary {
    /// Title of the boot entry, or the origin of the kernel.
    pub title: String,
    /// The kernel: its location and version.
    pub kernel: String,
    /// The kernel's version, as `uname -r` prints it.
    pub kernel_version: Option<String>,
    /// The initrds, in order.
    pub initrds: Vec<String>,
    /// The command line as passed to the kernel.
    pub cmdline: String,
    /// What was changed in the guest's command line, and what else the user should know.
    pub notes: Vec<String>,
    /// Hardware that the guest has drivers for.
    pub hardware: Hardware,
    /// Whether the kernel finds its disk there.
    pub disk_driver: DiskDriver,
    /// Whether the first initrd is ours, with drivers that the guest's lacks.
    pub extra_initrd: bool,
    /// Warnings for the user: the guest may not boot everywhere.
    pub warnings: Vec<String>,
}
