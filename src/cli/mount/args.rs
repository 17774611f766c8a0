//! Arguments of `mount`.

use crate::cli::args::{OverlayArgs, SourceArgs};
use crate::cli::identity::IdentityArgs;
use crate::sandbox::Mode;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub(in crate::cli) struct MountArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only) or one XVA, then the
    /// mount point
    #[arg(value_name = "IMAGE... MOUNTPOINT", required = true)]
    pub(in crate::cli) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(in crate::cli) source: SourceArgs,

    #[command(flatten)]
    pub(in crate::cli) identity: IdentityArgs,

    #[command(flatten)]
    pub(in crate::cli) overlay: OverlayArgs,

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
