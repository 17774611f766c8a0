//! Starts the process that serves a mount in the background, and passes on its errors.
//!
//! It is a new instance of this program, not a fork: it inherits no thread, lock or buffer.

use crate::daemon::{Channel, MountReply, MountReport, MountRequest};
use crate::process::ourselves;
use crate::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

/// Start the background process, and wait until its disks can be used.
///
/// # Errors
/// Fails if the process cannot be started, or with the error that it reports.
pub(in crate::cli) fn start(request: &MountRequest, mountpoint: &Path) -> Result<MountReport> {
    let failed = |e| Error::io("cannot start the background process", e);
    let (mut channel, theirs) = Channel::pair()?;
    let mut process = ourselves()?
        .args(["internal", "mount", "--"])
        .arg(mountpoint)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // Not inherited: whoever reads this command's output must see its end when the command
        // ends.
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    // If the process has already ended, the reply below says why.
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
