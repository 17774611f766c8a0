//! Arguments of `finalize`.

use crate::cli::args::SourceArgs;
use crate::cli::identity::IdentityArgs;
use crate::finalize::{OutputFormat, Reflink, shares_blocks};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `finalize`.
#[derive(Debug, Args)]
pub(in crate::cli) struct FinalizeArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only), or the
    /// directory of a mount
    #[arg(value_name = "IMAGE... | MOUNTPOINT")]
    pub(super) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) source: SourceArgs,

    #[command(flatten)]
    pub(super) identity: IdentityArgs,

    /// Look through this overlay, which is only read
    #[arg(long, value_name = "FILE", conflicts_with = "overlay_dir")]
    pub(super) overlay: Option<PathBuf>,

    /// As --overlay, with a file for each disk in this directory
    #[arg(long, value_name = "DIR")]
    pub(super) overlay_dir: Option<PathBuf>,

    /// Write what differs from --backing when one looks through this overlay: a qcow2 file that
    /// boots over --backing without synthdisk
    #[arg(long, value_name = "FILE", requires = "backing")]
    #[arg(conflicts_with_all = ["overlay", "overlay_dir", "partition", "compress", "options"])]
    pub(super) delta: Option<PathBuf>,

    /// The golden image under --delta: a disk that `finalize` wrote from the same images, raw or
    /// qcow2, which must not change any more
    #[arg(long, value_name = "FILE", requires = "delta")]
    pub(super) backing: Option<PathBuf>,

    #[command(flatten)]
    pub(super) result: ResultArgs,
}

/// What is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
pub(super) struct ResultArgs {
    /// Write this file or block device; further disks of the guest go beside it (web1.raw,
    /// web1-b.raw). In a directory, each under the name that it has in a mount
    #[arg(short, long, value_name = "FILE|DIR/")]
    pub(super) output: PathBuf,

    /// File format [default: what the output's name ends with (.qcow2, .vhd, .vhdx, .vmdk), else raw]
    #[arg(long, value_enum, conflicts_with = "delta")]
    pub(super) format: Option<OutputFormat>,

    /// Compress (qcow2, vmdk)
    #[arg(long)]
    pub(super) compress: bool,

    /// Options of the format, as `qemu-img convert -o` takes them
    #[arg(short = 'O', value_name = "KEY=VALUE")]
    pub(super) options: Vec<String>,

    /// Write only this partition, which is an image for Xen again
    #[arg(long, value_name = "N")]
    pub(super) partition: Option<u32>,

    /// Write only this disk: xvdb, or its name in a mount
    #[arg(long, value_name = "DISK")]
    pub(super) disk: Option<String>,

    /// Share blocks with images and overlay (XFS, Btrfs and others), raw only
    #[arg(long, value_enum, default_value_t, value_name = "auto|always|never")]
    #[arg(hide_possible_values = true)]
    pub(super) reflink: Reflink,

    /// Read back and compare
    #[arg(long)]
    pub(super) verify: bool,

    /// Tell the SHA-256 of what was written
    #[arg(long)]
    pub(super) checksum: bool,

    /// Tell nothing but errors and results
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl ResultArgs {
    /// The format that was named, or that the output's name stands for.
    pub(super) fn format(&self) -> OutputFormat {
        self.format.unwrap_or_else(|| OutputFormat::of_name(&self.output))
    }

    /// Whether each byte of data that goes to `dir` takes room there.
    pub(super) fn takes_all(&self, dir: Option<&Path>) -> bool {
        let shares = self.format() == OutputFormat::Raw
            && self.reflink != Reflink::Never
            && dir.is_some_and(shares_blocks);
        !self.compress && !shares
    }
}
