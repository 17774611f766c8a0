//! What a user can say about the disk that is to be made.

use super::seed::CloudInit;
use crate::adapt::Selection;
use crate::guest::select::EntrySelector;
use crate::identity::Identity;
use crate::image::{self, Foreign, InUse};
use crate::layout::{TableKind, parse_disk_id, parse_size};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::path::PathBuf;
use uuid::Uuid;

/// What starts the guest's kernel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Bootloader {
    /// synthdisk's own loader in the MBR; kernel and initrd lie in the boot gap.
    #[default]
    Direct,
    /// None: the gap stays empty, and something else must boot the disk.
    None,
}

/// Options about the guest's disks. `None` means "not given", which an existing overlay may answer.
///
/// This is the one description of these options: clap derives parsing, help, manual pages and
/// completions from it, mount(8)'s `-o` takes the same names, and serde carries the values to the
/// process that serves the mount. Sizes read `512M`, `20G`, `1048576` or `63s` (sectors).
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[command(next_help_heading = "Disk")]
pub struct SourceOptions {
    /// Images that become partitions 1, 2, 3, …; empty when `config` is given.
    #[arg(skip)]
    pub images: Vec<PathBuf>,

    /// The domU config that names the disks.
    #[arg(skip)]
    pub config: Option<PathBuf>,

    /// Size of the swap partition, 0 for none [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub swap: Option<u64>,

    /// Start partitions at multiples of this size [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub align: Option<u64>,

    /// Size of the root partition if larger than the image; zeros follow the image
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub root_size: Option<u64>,

    /// Partition table type [default: mbr, or gpt where mbr cannot describe the disk]
    #[arg(long, value_enum)]
    pub table: Option<TableKind>,

    /// Disk signature of the partition table, in hex [default: derived from the image]
    #[arg(long, value_name = "HEX", value_parser = parse_disk_id)]
    pub disk_id: Option<u32>,

    /// UUID of the swap area [default: derived from the image]
    #[arg(long, value_name = "UUID")]
    pub swap_uuid: Option<Uuid>,

    /// Attach a NoCloud disk with these files for cloud-init
    #[arg(long, value_name = "USER-DATA[,META-DATA[,NETWORK-CONFIG]]")]
    #[arg(value_parser = CloudInit::parse)]
    pub cloud_init: Option<CloudInit>,

    /// Format of the images (raw, qcow2) [default: what the config or a file's name says]; with raw,
    /// an image is shown as it is even if it begins like another format
    #[arg(long, value_name = "FORMAT", value_parser = image::Format::parse)]
    pub image_format: Option<image::Format>,

    /// Use the image even if it appears to be in use
    #[arg(long)]
    pub force: bool,

    /// Boot loader [default: direct]
    #[arg(long, value_enum, help_heading = "Boot")]
    pub bootloader: Option<Bootloader>,

    /// Boot this kernel file of the host instead of the guest's kernel
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    pub kernel: Option<PathBuf>,

    /// Initrd for --kernel; may be repeated, the kernel sees all as one
    #[arg(long = "initrd", value_name = "FILE", help_heading = "Boot")]
    pub initrds: Vec<PathBuf>,

    /// Boot the guest's own kernel even if the config names a kernel of dom0
    #[arg(long, help_heading = "Boot", conflicts_with = "kernel")]
    pub guest_kernel: bool,

    /// Boot this entry of the guest's boot menu: a number from 0, or a title
    #[arg(long, value_name = "N|TITLE", help_heading = "Boot")]
    #[arg(value_parser = parse_entry)]
    pub entry: Option<EntrySelector>,

    /// Append parameters to the kernel's command line
    #[arg(long, value_name = "WORDS", help_heading = "Boot", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Replace the kernel's command line
    #[arg(long, value_name = "WORDS", help_heading = "Boot", allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// Edits, made in the overlay, that let the guest run well on KVM: all, none, or steps by name
    #[arg(long, value_name = "auto|none|STEP,...", help_heading = "Guest edits")]
    #[arg(value_parser = Selection::parse, default_value_t)]
    pub adapt: Selection,

    /// What makes the guest a machine of its own.
    #[arg(skip)]
    pub identity: Identity,
}

fn parse_entry(text: &str) -> Result<EntrySelector, Infallible> {
    Ok(EntrySelector::parse(text))
}

impl SourceOptions {
    /// Length of the swap partition when nothing else is said, in bytes.
    pub const DEFAULT_SWAP: u64 = 512 << 20;
    /// Alignment when nothing else is said, in bytes.
    pub const DEFAULT_ALIGN: u64 = 1 << 20;

    /// How to open an image whose format the config says is `configured`.
    pub(super) fn open_options(&self, configured: Option<image::Format>) -> image::OpenOptions {
        let in_use = if self.force { InUse::Open } else { InUse::Refuse };
        // A user who says that an image is raw knows what it begins with; a config may be wrong.
        let foreign = if self.image_format.is_some() { Foreign::Serve } else { Foreign::Refuse };
        image::OpenOptions { format: self.image_format.or(configured), in_use, foreign }
    }
}

/// The options that decide where things lie on a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Length in bytes of a swap partition that no image stands for; 0 for none.
    pub(super) swap: u64,
    pub(super) align: u64,
    pub(super) root_size: Option<u64>,
    pub(super) table: Option<TableKind>,
    pub(super) bootloader: Bootloader,
}
