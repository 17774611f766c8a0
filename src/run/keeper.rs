//! The keeper: holds a private mount for a `synthdisk run`, and cleans up when that process ends.
//!
//! It is a separate process, because a `run` that is killed can't clean up, and the mount's daemon
//! can't remove the directory that it is mounted on. Its standard input is the lifeline, a pipe
//! held by `run`, which writes to it only to announce a normal end. Its standard output is the
//! channel between `run` and the mount, which the keeper passes on.

use super::terminal::Terminal;
use crate::daemon::SOCKET;
use crate::process::{
    self, MountEntry, Unmount, bound_to_us, hold_ending_signals, make_private_dir, ourselves,
    poll_until, unmount,
};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

/// Create `dir`, mount on it with `synthdisk internal mount DIR` as requested over standard output,
/// and remove both at end-of-file on standard input. With `terminal`, also restore the terminal if
/// `run` did not end normally.
///
/// # Errors
/// When the mount could not be made or failed at its end. `run` has already been told why.
pub fn keep(dir: &Path, terminal: bool) -> Result<()> {
    let terminal = if terminal { Terminal::controlling() } else { None };
    // A signal from a terminal or a service manager is for `run`, whose end closes the lifeline.
    let _ = nix::unistd::setsid(); // fails only for a process group leader, which is in no danger
    hold_ending_signals()?;

    make_private_dir(dir)?;
    let result = serve(dir);
    // If the mount's daemon was killed, the mount still exists, but is dead.
    if let Some(entry) = MountEntry::at(dir) {
        let _ = unmount(&entry, Unmount::Lazy);
    }
    let _ = std::fs::remove_file(dir.join(SOCKET)); // there is none, or its keeper was killed
    let removed = std::fs::remove_dir(dir);
    let orderly = result?;
    if !orderly {
        if let Some(terminal) = terminal {
            terminal.restore();
        }
    }
    removed.map_err(|e| Error::io(format!("cannot remove {}", dir.display()), e))
}

/// Serve the mount; returns true if `run` announced its end.
fn serve(dir: &Path) -> Result<bool> {
    let channel = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| Error::io("cannot pass on the channel", e))?;
    let ourselves = ourselves()?;
    let mut mount = bound_to_us(ourselves.get_program(), Signal::SIGTERM)?
        .args(["internal", "mount", "--"])
        .arg(dir)
        .stdin(Stdio::from(channel))
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("cannot start the process that serves the mount", e))?;
    let mut ready = false;
    let output = mount.stdout.take();
    let orderly = output.map_or(Ok(false), |mut output| wait(&mut output, &mut ready));
    end(&mut mount, ready)?;
    orderly
}

/// Wait until the lifeline or the mount ends; returns true if `run` announced its end. `ready`
/// becomes true once the mount can be used.
fn wait(mount: &mut ChildStdout, ready: &mut bool) -> Result<bool> {
    let failed = |e| Error::io("cannot wait for the mount", e);
    let mut lifeline = std::io::stdin().lock();
    let mut announced = false;
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [
            PollFd::new(lifeline.as_fd(), PollFlags::POLLIN),
            PollFd::new(mount.as_fd(), PollFlags::POLLIN),
        ];
        let can_read = poll_until(&mut fds, None)?;
        // The mount first: it reported that it is ready before `run` could end.
        if can_read[1] {
            match mount.read(&mut buffer).map_err(failed)? {
                0 => return Ok(announced),
                _ => *ready = true,
            }
        }
        if can_read[0] {
            match lifeline.read(&mut buffer).map_err(failed)? {
                0 => return Ok(announced),
                _ => announced = true,
            }
        }
    }
}

/// How long a mount that is not ready yet may take to give up: an image may be on a server that
/// does not respond.
const PATIENCE: Duration = Duration::from_secs(5);

/// End the mount. One that was ready stores its last writes, however long that takes.
fn end(mount: &mut Child, ready: bool) -> Result<()> {
    let failed = |e| Error::io("cannot wait for the mount", e);
    let status = if ready {
        process::send(mount, Signal::SIGTERM);
        mount.wait().map_err(failed)?
    } else {
        match process::end(mount, PATIENCE) {
            Some(status) => status,
            None => mount.wait().map_err(failed)?,
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Io, format!("the mount ended with {status}")))
}
