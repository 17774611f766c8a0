//! `synthdisk umount`.

use crate::fuse::{STATUS_FILE, Status};
use crate::process::{Unmount, find_mount, unmount};
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the daemon may take to bring the last writes to storage.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `umount`.
#[derive(Debug, Args)]
pub(super) struct UmountArgs {
    /// Directory that shows the mount
    mountpoint: PathBuf,

    /// Take the mount away at once and let programs that use it finish
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
    unmount(&entry, if args.lazy { Unmount::Lazy } else { Unmount::WhenUnused })?;
    let Some(daemon) = daemon.filter(|_| !args.lazy) else { return Ok(()) };
    let started = Instant::now();
    while daemon.lives() {
        if started.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("unmounted, but process {} still writes to the overlay", daemon.pid),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The mount point's absolute path, without asking the mount itself, whose daemon may be dead.
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

fn daemon_of(target: &Path) -> Option<Daemon> {
    let status = std::fs::read(target.join(STATUS_FILE)).ok()?;
    let status: Status = serde_json::from_slice(&status).ok()?;
    Some(Daemon { pid: status.pid, started: start_time(status.pid)? })
}

/// Field 22 of /proc/PID/stat (proc(5)), of a process that has not ended. The name in field 2 may
/// hold anything but ends at the last parenthesis.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let first_thread_ended = fields.next()? == "Z";
    // Files are closed, and locks let go, when the last thread has ended, and that need not be the
    // first one.
    if first_thread_ended && std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count() <= 1 {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}
