//! Starting the process that serves a mount in the background, without losing an error on the way.
//!
//! It is this program started again, not a fork: no thread, lock or buffer of the command is in it.

use crate::daemon::{Channel, MountReply, MountReport, MountRequest};
use crate::process::ourselves;
use crate::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

/// Start the background process, and wait until its disks can be used.
///
/// # Errors
/// That of starting a process, and its own.
pub(super) fn start(request: &MountRequest, mountpoint: &Path) -> Result<MountReport> {
    let failed = |e| Error::io("cannot start the background process", e);
    let (mut channel, theirs) = Channel::pair()?;
    let mut process = ourselves()?
        .args(["internal", "mount", "--"])
        .arg(mountpoint)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // What this command prints must be at its end when the command is.
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    // One that has ended already says why below.
    let sent = channel.send(request);
    match channel.receive()? {
        Some(MountReply::Ready(report)) => Ok(*report),
        Some(MountReply::Failed { kind, message }) => {
            let _ = process.wait();
            Err(Error::new(kind, message))
        }
        None => {
            let status = process.wait().map_err(failed)?;
            sent?;
            let what = format!("the background process ended unexpectedly ({status})");
            Err(Error::new(ErrorKind::Io, what))
        }
    }
}
