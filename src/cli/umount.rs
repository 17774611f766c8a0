//! `synthdisk umount`.

use crate::fuse::{FS_TYPE, LiveMount};
use crate::process::{MountEntry, OtherProcess, Unmount, unmount};
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for the daemon to flush the last writes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `umount`.
#[derive(Debug, Args)]
pub(super) struct UmountArgs {
    /// Mount point
    mountpoint: PathBuf,

    /// Detach the mount now and end it when nothing uses it any more
    #[arg(short = 'z', long)]
    lazy: bool,
}

/// Unmount, and wait until the daemon has ended, so that the overlay can be reused immediately.
pub(super) fn run(args: &UmountArgs) -> Result<()> {
    let target = absolute(&args.mountpoint)?;
    let entry = MountEntry::at(&target).filter(|m| m.fs_type == FS_TYPE).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("{} is not a synthdisk mount", args.mountpoint.display()),
        )
    })?;
    let server = server_of(&target, &entry);
    unmount(&entry, if args.lazy { Unmount::Lazy } else { Unmount::WhenUnused })?;
    let Some((pid, process)) = server.filter(|_| !args.lazy) else { return Ok(()) };
    if process.ended_by(Instant::now() + PATIENCE)? {
        return Ok(());
    }
    let what = format!("unmounted, but process {pid} is still writing to the overlay");
    Err(Error::new(ErrorKind::Busy, what))
}

/// The mount point's absolute path, determined without accessing the mount, whose daemon may have
/// died.
fn absolute(path: &Path) -> Result<PathBuf> {
    let failed = |e| Error::io(format!("cannot find {}", path.display()), e);
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let joined = parent.canonicalize().map_err(failed)?.join(name);
            // A symlink to the mount point is followed; a dead mount cannot be resolved, and does
            // not need to be.
            Ok(joined.canonicalize().unwrap_or(joined))
        }
        _ => path.canonicalize().map_err(failed),
    }
}

/// The process that serves the mount, if it answers and can be trusted: a process of another user
/// could name any process.
fn server_of(target: &Path, entry: &MountEntry) -> Option<(u32, OtherProcess)> {
    let pid = LiveMount::at(target).ok()??.status.pid;
    Some((pid, OtherProcess::of_user(pid, entry.user()?)?))
}
