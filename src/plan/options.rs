//! What a user can say about the disk that is to be made.

use super::seed::CloudInit;
use crate::adapt::Selection;
use crate::guest::select::EntrySelector;
use crate::identity::Identity;
use crate::layout::TableKind;
use crate::loader::LoaderKind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use uuid::Uuid;

/// Options about the disk; `None` means "not said", which an existing overlay may answer.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// Images that become partitions 1, 2, 3, …; empty when `config` is given.
    pub images: Vec<PathBuf>,
    /// The domU config that names the disks.
    pub config: Option<PathBuf>,
    /// Length of the swap partition in bytes; 0 for none.
    pub swap: Option<u64>,
    /// Partitions start at multiples of this many bytes.
    pub align: Option<u64>,
    /// Length of the root partition in bytes, when it is to be larger than the image.
    pub root_size: Option<u64>,
    /// Kind of partition table.
    pub table: Option<TableKind>,
    /// What starts the kernel.
    pub bootloader: Option<LoaderKind>,
    /// MBR disk signature in place of the derived one.
    pub disk_id: Option<u32>,
    /// UUID of the swap area in place of the derived one.
    pub swap_uuid: Option<Uuid>,
    /// A kernel file of this host in place of the guest's.
    pub kernel: Option<PathBuf>,
    /// Initrd files of this host, which the kernel sees as one.
    pub initrds: Vec<PathBuf>,
    /// Boot the guest's own kernel whatever the config says.
    pub guest_kernel: bool,
    /// Parameters added to the kernel's command line.
    pub append: Option<String>,
    /// A command line that replaces the guest's.
    pub cmdline: Option<String>,
    /// Entry of the guest's boot menu, in place of its default.
    pub entry: Option<EntrySelector>,
    /// Which edits make the guest, in the overlay, at home on KVM.
    pub adapt: Selection,
    /// Who the guest is, when it is not to be what its image is.
    pub identity: Identity,
    /// Data for cloud-init, on a disk of their own.
    pub cloud_init: Option<CloudInit>,
    /// Take the image although it seems to be in use.
    pub force: bool,
}

impl SourceOptions {
    /// Length of the swap partition when nothing else is said, in bytes.
    pub const DEFAULT_SWAP: u64 = 512 << 20;
    /// Alignment when nothing else is said, in bytes.
    pub const DEFAULT_ALIGN: u64 = 1 << 20;
}

/// The options that decide where things lie on a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Length in bytes of a swap partition that no image stands for; 0 for none.
    pub(super) swap: u64,
    pub(super) align: u64,
    pub(super) root_size: Option<u64>,
    pub(super) table: Option<TableKind>,
    pub(super) bootloader: LoaderKind,
}
