//! Arguments of `mount`.

use crate::cli::args::SourceArgs;
use crate::cli::identity::IdentityArgs;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub(in crate::cli) struct MountArgs {
    /// Images of the guest's partitions (files or block devices, opened read-only), then the
    /// directory to mount on
    #[arg(value_name = "IMAGE... MOUNTPOINT", required = true)]
    pub(in crate::cli) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(in crate::cli) source: SourceArgs,

    #[command(flatten)]
    pub(in crate::cli) identity: IdentityArgs,

    /// Keep writes in this qcow2 file, created on first use; without it they are gone at unmount
    #[arg(long, value_name = "FILE", conflicts_with = "read_only")]
    pub(in crate::cli) overlay: Option<PathBuf>,

    /// As --overlay, with a file for each disk in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["overlay", "read_only"])]
    pub(in crate::cli) overlay_dir: Option<PathBuf>,

    /// Refuse all writes
    #[arg(long)]
    pub(in crate::cli) read_only: bool,

    /// Mount options: allow_other, ro, uid=N, gid=N, umask=N, default_permissions, and any of the
    /// long options as name=value
    #[arg(short, long, value_name = "OPTIONS")]
    pub(in crate::cli) options: Vec<OsString>,

    /// Stay in the foreground
    #[arg(short, long)]
    pub(in crate::cli) foreground: bool,

    /// Append messages about errors while serving to this file
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) log: Option<PathBuf>,

    /// Print what was changed in the guest's command line, and why
    #[arg(short, long)]
    pub(in crate::cli) verbose: bool,
}
