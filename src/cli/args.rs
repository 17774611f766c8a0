//! Arguments that several subcommands share.

use crate::adapt::Selection;
use crate::guest::select::EntrySelector;
use crate::identity::Identity;
use crate::layout::{TableKind, parse_disk_id, parse_size};
use crate::loader::LoaderKind;
use crate::plan::{CloudInitFiles, SourceOptions};
use crate::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use uuid::Uuid;

fn size(text: &str) -> std::result::Result<u64, String> {
    parse_size(text).map_err(|e| e.to_string())
}

fn disk_id(text: &str) -> std::result::Result<u32, String> {
    parse_disk_id(text).map_err(|e| e.to_string())
}

/// What a disk is made of and how; the images themselves are positional arguments.
#[derive(Clone, Debug, Args)]
pub(super) struct SourceArgs {
    /// Take the guest from its domU config (xl.cfg) in place of IMAGE
    #[arg(long, value_name = "DOMU.cfg")]
    pub(super) config: Option<PathBuf>,

    #[command(flatten)]
    pub(super) layout: LayoutArgs,
}

fn selection(text: &str) -> std::result::Result<Selection, String> {
    Selection::parse(text).map_err(|e| e.to_string())
}

fn cloud_init(text: &str) -> std::result::Result<CloudInitFiles, String> {
    CloudInitFiles::parse(text).map_err(|e| e.to_string())
}

/// Options about the disk. Sizes read 512M, 20G, 1048576 or 63s (sectors).
#[derive(Clone, Debug, Args)]
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

    /// Kind of partition table [default: mbr, gpt where an mbr cannot do]
    #[arg(long, value_enum)]
    table: Option<TableKind>,

    /// What starts the kernel [default: direct]
    #[arg(long, value_enum)]
    bootloader: Option<LoaderKind>,

    /// Disk signature of the partition table, in hex, in place of the one derived from the image
    #[arg(long, value_name = "HEX", value_parser = disk_id)]
    disk_id: Option<u32>,

    /// UUID of the swap area, in place of the one derived from the image
    #[arg(long, value_name = "UUID")]
    swap_uuid: Option<Uuid>,

    /// Edit the guest, in the overlay, so that it is at home on KVM: auto, none, or names of steps
    /// [default: auto]
    #[arg(long, value_name = "auto|none|STEP,...", value_parser = selection)]
    adapt: Option<Selection>,

    /// Give cloud-init these files (NoCloud), on a small disk of their own
    #[arg(long, value_name = "USER-DATA[,META-DATA[,NETWORK-CONFIG]]", value_parser = cloud_init)]
    cloud_init: Option<CloudInitFiles>,

    /// Take the image although somebody else seems to use it
    #[arg(long)]
    force: bool,

    /// Boot this kernel of the host, not the guest's
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    kernel: Option<PathBuf>,

    /// Initrd for --kernel; several are loaded as one
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    initrd: Vec<PathBuf>,

    /// Boot the guest's own kernel, although the config names one of dom0
    #[arg(long, help_heading = "Boot", conflicts_with = "kernel")]
    guest_kernel: bool,

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
    /// Whether `--force` was given.
    pub(super) fn force(&self) -> bool {
        self.layout.force
    }

    /// The options that these arguments stand for, for a guest made of `images` or of the config.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] unless there is exactly one of the two.
    pub(super) fn into_options(self, images: Vec<PathBuf>) -> Result<SourceOptions> {
        if images.is_empty() == self.config.is_none() {
            return Err(Error::new(
                ErrorKind::Usage,
                "name either the guest's images or, with --config, its domU config",
            ));
        }
        let l = self.layout;
        Ok(SourceOptions {
            images,
            config: self.config,
            swap: l.swap,
            align: l.align,
            root_size: l.root_size,
            table: l.table,
            bootloader: l.bootloader,
            disk_id: l.disk_id,
            swap_uuid: l.swap_uuid,
            kernel: l.kernel,
            initrds: l.initrd,
            guest_kernel: l.guest_kernel,
            append: l.append,
            cmdline: l.cmdline,
            entry: l.entry.as_deref().map(EntrySelector::parse),
            adapt: l.adapt.unwrap_or_default(),
            identity: Identity::default(),
            cloud_init: l.cloud_init,
            force: l.force,
        })
    }

    /// The arguments again, as a command that starts another one passes them on.
    pub(super) fn to_args(&self) -> Vec<OsString> {
        let l = &self.layout;
        let mut out = Vec::new();
        let mut add = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                // One word, so that a value may begin with a dash.
                let mut word = OsString::from(format!("--{name}="));
                word.push(value);
                out.push(word);
            }
        };
        let value_of = |v: &dyn ToString| Some(OsString::from(v.to_string()));
        add("config", self.config.clone().map(Into::into));
        add("swap", l.swap.and_then(|v| value_of(&v)));
        add("align", l.align.and_then(|v| value_of(&v)));
        add("root-size", l.root_size.and_then(|v| value_of(&v)));
        let name = |v: clap::builder::PossibleValue| OsString::from(v.get_name());
        add("table", l.table.and_then(|t| t.to_possible_value()).map(name));
        add("bootloader", l.bootloader.and_then(|b| b.to_possible_value()).map(name));
        add("adapt", l.adapt.as_ref().and_then(|a| value_of(a)));
        add("cloud-init", l.cloud_init.as_ref().and_then(|c| value_of(c)));
        add("disk-id", l.disk_id.map(|id| format!("{id:08x}").into()));
        add("swap-uuid", l.swap_uuid.and_then(|v| value_of(&v)));
        add("kernel", l.kernel.clone().map(Into::into));
        for initrd in &l.initrd {
            add("initrd", Some(initrd.clone().into()));
        }
        add("entry", l.entry.clone().map(Into::into));
        add("append", l.append.clone().map(Into::into));
        add("cmdline", l.cmdline.clone().map(Into::into));
        if l.force {
            out.push("--force".into());
        }
        if l.guest_kernel {
            out.push("--guest-kernel".into());
        }
        out
    }
}
