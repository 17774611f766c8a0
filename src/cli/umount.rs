//! `synthdisk umount`.

use crate::fuse::{Status, find_mount, unmount};
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the daemon may take to flush the last writes.
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

/// Unmount, and wait until the daemon has ended, so that an overlay can be used again at once.
pub(super) fn run(args: &UmountArgs) -> Result<()> {
    let target = absolute(&args.mountpoint)?;
    let entry = find_mount(&target).filter(|m| m.fs_type == "fuse.synthdisk").ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("{} is not a synthdisk mount", args.mountpoint.display()),
        )
    })?;
    let daemon = daemon_of(&target);
    unmount(&entry, args.lazy)?;
    let Some(daemon) = daemon.filter(|_| !args.lazy) else { return Ok(()) };
    let started = Instant::now();
    while daemon.lives() {
        if started.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("unmounted, but process {} is still writing to the overlay", daemon.pid),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The mount point's absolute path, found without the mount itself, whose daemon may have died.
fn absolute(path: &Path) -> Result<PathBuf> {
    let failed = |e| Error::io(format!("cannot find {}", path.display()), e);
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let joined = parent.canonicalize().map_err(failed)?.join(name);
            // A symlink to the mount point is followed; a dead mount cannot be, and need not.
            Ok(joined.canonicalize().unwrap_or(joined))
        }
        _ => path.canonicalize().map_err(failed),
    }
}

/// A process, told apart from a later one with the same number by its start time.
struct Daemon {
    pid: u32,
    started: String,
}

impl Daemon {
    fn lives(&self) -> bool {
        start_time(self.pid).is_some_and(|started| started == self.started)
    }
}

/// The process that serves the mount, when it answers and can be believed: that of another user may
/// name any process.
fn daemon_of(target: &Path) -> Option<Daemon> {
    let status = Status::read(target).ok()??;
    Some(Daemon { pid: status.pid, started: start_time(status.pid)? })
}

/// Field 22 of /proc/PID/stat (proc(5)); `None` for a process that has ended. The name in field 2 may
/// hold any character and ends at the last parenthesis.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let first_thread_ended = fields.next()? == "Z";
    // Files are closed and locks released when the last thread ends, which need not be the first.
    if first_thread_ended && std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count() <= 1 {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}
