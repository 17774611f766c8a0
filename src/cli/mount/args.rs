//! Arguments of `mount`.

use crate::cli::args::SourceArgs;
use crate::cli::identity::IdentityArgs;
use crate::layout::parse_size;
use crate::sandbox::Mode;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub(in crate::cli) struct MountArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only), then the
    /// mount point
    #[arg(value_name = "IMAGE... MOUNTPOINT", required = true)]
    pub(in crate::cli) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(in crate::cli) source: SourceArgs,

    #[command(flatten)]
    pub(in crate::cli) identity: IdentityArgs,

    /// Keep writes in this qcow2 file, created on first use [default: discard them at unmount]
    #[arg(long, value_name = "FILE", conflicts_with = "read_only", help_heading = "Overlay")]
    pub(in crate::cli) overlay: Option<PathBuf>,

    /// Keep writes in this directory, one qcow2 file per disk
    #[arg(long, value_name = "DIR", conflicts_with_all = ["overlay", "read_only"])]
    #[arg(help_heading = "Overlay")]
    pub(in crate::cli) overlay_dir: Option<PathBuf>,

    /// Let the overlay of each disk occupy at most this much storage (512M, 20G); further writes
    /// fail with ENOSPC
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "read_only")]
    #[arg(help_heading = "Overlay")]
    pub(in crate::cli) overlay_limit: Option<u64>,

    /// Refuse all writes
    #[arg(long, help_heading = "Overlay")]
    pub(in crate::cli) read_only: bool,

    /// Mount options: allow_other, ro, uid=USER, gid=GROUP, umask=N, and any of the
    /// long options as name=value
    #[arg(short, long, value_name = "OPTIONS", help_heading = "Mount")]
    pub(in crate::cli) options: Vec<OsString>,

    /// How the process that serves the disks is confined
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Mount")]
    pub(in crate::cli) sandbox: Mode,

    /// Stay in the foreground
    #[arg(short, long, help_heading = "Mount")]
    pub(in crate::cli) foreground: bool,

    /// Append messages about errors while serving to this file, which only its owner can read
    #[arg(long, value_name = "FILE", help_heading = "Mount")]
    pub(in crate::cli) log: Option<PathBuf>,

    /// Print what was changed in the guest's command line, and why
    #[arg(short, long, help_heading = "Mount")]
    pub(in crate::cli) verbose: bool,
}
