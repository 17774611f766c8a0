//! Arguments that several subcommands share.

use crate::guest::select::EntrySelector;
use crate::layout::{parse_disk_id, parse_size};
use crate::plan::{Bootloader, SourceOptions};
use clap::Args;
use std::path::PathBuf;
use uuid::Uuid;

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|e| e.to_string())
}

fn disk_id(text: &str) -> Result<u32, String> {
    parse_disk_id(text).map_err(|e| e.to_string())
}

/// The image and how to make a disk of it.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Image of the guest's root partition: a file or a block device, opened read-only
    pub(super) image: PathBuf,

    #[command(flatten)]
    pub(super) layout: LayoutArgs,
}

/// Options about the disk. Sizes read 512M, 20G, 1048576 or 63s (sectors).
#[derive(Debug, Args)]
#[command(next_help_heading = "Disk")]
pub(super) struct LayoutArgs {
    /// Size of the swap partition, 0 for none [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    swap: Option<u64>,

    /// Partitions start at multiples of this [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    align: Option<u64>,

    /// Size of the root partition, when larger than the image; zeros follow it
    #[arg(long, value_name = "SIZE", value_parser = size)]
    root_size: Option<u64>,

    /// What starts the kernel [default: direct]
    #[arg(long, value_enum)]
    bootloader: Option<Bootloader>,

    /// Disk signature of the partition table, in hex, in place of the one derived from the image
    #[arg(long, value_name = "HEX", value_parser = disk_id)]
    disk_id: Option<u32>,

    /// UUID of the swap area, in place of the one derived from the image
    #[arg(long, value_name = "UUID")]
    swap_uuid: Option<Uuid>,

    /// Take the image although somebody else seems to use it
    #[arg(long)]
    force: bool,

    /// Boot this kernel of the host, not the guest's
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    kernel: Option<PathBuf>,

    /// Initrd for --kernel; several are loaded as one
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    initrd: Vec<PathBuf>,

    /// Entry of the guest's boot menu: its number from 0, or its title
    #[arg(long, value_name = "N|TITLE", help_heading = "Boot")]
    entry: Option<String>,

    /// Add to the kernel's command line
    #[arg(long, value_name = "WORDS", help_heading = "Boot", allow_hyphen_values = true)]
    append: Option<String>,

    /// Replace the kernel's command line
    #[arg(long, value_name = "WORDS", help_heading = "Boot", allow_hyphen_values = true)]
    cmdline: Option<String>,
}

impl SourceArgs {
    pub(super) fn into_options(self) -> SourceOptions {
        let l = self.layout;
        SourceOptions {
            image: self.image,
            swap: l.swap,
            align: l.align,
            root_size: l.root_size,
            bootloader: l.bootloader,
            disk_id: l.disk_id,
            swap_uuid: l.swap_uuid,
            kernel: l.kernel,
            initrds: l.initrd,
            append: l.append,
            cmdline: l.cmdline,
            entry: l.entry.as_deref().map(EntrySelector::parse),
            force: l.force,
        }
    }
}
