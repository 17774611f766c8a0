//! Arguments of `finalize`.

use crate::cli::args::SourceArgs;
use crate::cli::identity::IdentityArgs;
use crate::finalize::{OutputFormat, Reflink, Wanted, shares_blocks};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `finalize`.
#[derive(Debug, Args)]
pub(in crate::cli) struct FinalizeArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only) or one XVA, or the
    /// directory of a mount
    #[arg(value_name = "IMAGE... | MOUNTPOINT")]
    pub(super) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) source: SourceArgs,

    #[command(flatten)]
    pub(super) identity: IdentityArgs,

    /// Include the writes in this overlay, which is only read
    #[arg(long, value_name = "FILE", conflicts_with = "overlay_dir", help_heading = "Overlay")]
    pub(super) overlay: Option<PathBuf>,

    /// Include the writes in this directory of overlays, one file per disk
    #[arg(long, value_name = "DIR", help_heading = "Overlay")]
    pub(super) overlay_dir: Option<PathBuf>,

    /// Include the writes in this overlay, and write only what differs from --backing: a qcow2 file
    /// that boots over --backing without synthdisk
    #[arg(long, value_name = "FILE", requires = "backing", help_heading = "Overlay")]
    #[arg(conflicts_with_all = ["overlay", "overlay_dir", "partition", "compress", "options"])]
    pub(super) delta: Option<PathBuf>,

    /// The golden image below --delta: a raw or qcow2 disk that `finalize` wrote from the same
    /// images; it must never change again
    #[arg(long, value_name = "FILE", requires = "delta", help_heading = "Overlay")]
    pub(super) backing: Option<PathBuf>,

    #[command(flatten)]
    pub(super) result: ResultArgs,
}

/// The result of `finalize`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
pub(super) struct ResultArgs {
    /// Write to this file or block device; further disks of the guest go to files next to it
    /// (web1.raw, web1-b.raw). In a directory, each disk gets the name that it has in a mount
    #[arg(short, long, value_name = "FILE|DIR/")]
    pub(super) output: PathBuf,

    /// File format [default: by the output's extension (.qcow2, .vhd, .vhdx, .vmdk), else raw]
    #[arg(long, value_enum, conflicts_with = "delta")]
    pub(super) format: Option<OutputFormat>,

    /// Compress the data (qcow2, vmdk)
    #[arg(long)]
    pub(super) compress: bool,

    /// Write the checksums of each result's chunks to a file beside it (FILE.manifest), for --manifest
    #[arg(long)]
    pub(super) write_manifest: bool,

    /// Option of the format, as for `qemu-img convert -o`; may be repeated
    #[arg(short = 'O', value_name = "KEY=VALUE")]
    pub(super) options: Vec<String>,

    /// Write only this partition, as a partition image for Xen
    #[arg(long, value_name = "N")]
    pub(super) partition: Option<u32>,

    /// Write only this disk, named as in the guest (xvdb) or as in a mount
    #[arg(long, value_name = "DISK")]
    pub(super) disk: Option<String>,

    /// Share blocks with images and overlay if the filesystem can (XFS, Btrfs); raw only
    #[arg(long, value_enum, default_value_t, value_name = "auto|always|never")]
    #[arg(hide_possible_values = true)]
    pub(super) reflink: Reflink,

    /// Read the result back and compare it
    #[arg(long)]
    pub(super) verify: bool,

    /// Print the SHA-256 of what was written
    #[arg(long)]
    pub(super) checksum: bool,

    /// Print only errors and results
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Print the results as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl ResultArgs {
    /// The given format, or the one for the output's extension.
    pub(super) fn format(&self) -> OutputFormat {
        self.format.unwrap_or_else(|| OutputFormat::of_name(&self.output))
    }

    /// What is written, and where to.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            output: &self.output,
            format: self.format(),
            disk: self.disk.as_deref(),
            partition: self.partition,
        }
    }

    /// Whether data written to `dir` takes up its full size there.
    pub(super) fn takes_all(&self, dir: Option<&Path>) -> bool {
        let shares = self.format() == OutputFormat::Raw
            && self.reflink != Reflink::Never
            && dir.is_some_and(shares_blocks);
        !self.compress && !shares
    }
}
