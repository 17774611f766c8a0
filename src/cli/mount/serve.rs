//! The process that keeps a mount.

use crate::cli::exit_code::Codes;
use crate::daemon::{Background, Channel, Cleanup, MountReply, MountReport, MountRequest, keep};
use crate::process::close_inherited_files;
use crate::{Error, ErrorKind, Result};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Mount as `request` says, call `ready` once the disks can be used, and stay until the mount ends.
///
/// # Errors
/// Errors from planning, mounting and serving, and from `ready`.
pub(in crate::cli) fn mount(
    request: &MountRequest,
    mountpoint: &Path,
    ready: impl FnOnce(&MountReport) -> Result<()>,
) -> Result<()> {
    keep(request, mountpoint, Cleanup::Sweeper, ready)
}

/// `synthdisk internal mount`: mount as requested by the process at the other end of standard
/// input.
///
/// # Errors
/// Those of [`keep`], if that process could not be informed of them.
pub(in crate::cli) fn internal(mountpoint: &Path) -> Result<()> {
    close_inherited_files();
    let mut channel = Channel::from_stdin()?;
    let request: MountRequest = channel.receive()?.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "this command is started by synthdisk itself")
    })?;
    let mut detached = false;
    let cleanup = match request.background {
        Background::Detach => Cleanup::Sweeper,
        // Started by the process that `run` starts to clean up.
        Background::Stay => Cleanup::Caller,
    };
    let result = keep(&request, mountpoint, cleanup, |report| {
        let reply = MountReply::Ready(Box::new(report.clone()));
        match request.background {
            Background::Detach => {
                detached = true;
                detach(&mut channel, &reply)
            }
            Background::Stay => {
                // The process that cleans up does not take part in that exchange. It is informed
                // first, so that it knows about a mount in use before `run` can tell it to end the
                // mount.
                let mut out = std::io::stdout();
                let said = out.write_all(b"ready\n").and_then(|()| out.flush());
                said.map_err(|e| Error::io("cannot reach the process that cleans up", e))?;
                channel.send(&reply)
            }
        }
    });
    result.or_else(|e| {
        if detached {
            // Only the log is still read.
            tracing::error!("{e}");
        }
        answered(&mut channel, e)
    })
}

/// Report `error` to the process at the other end of `channel`, and end this process.
///
/// # Errors
/// `error`, if nothing listens.
pub(in crate::cli) fn answered(channel: &mut Channel, error: Error) -> Result<()> {
    match channel.send(&MountReply::failed(&error)) {
        Ok(()) => std::process::exit(i32::from(crate::cli::exit_code::of(&error, Codes::Usual))),
        Err(_) => Err(error),
    }
}

/// Send `reply` and become a daemon.
fn detach(channel: &mut Channel, reply: &MountReply) -> Result<()> {
    let failed = |e: nix::Error| Error::io("cannot go to the background", e.into());
    setsid().map_err(failed)?;
    chdir("/").map_err(failed)?;
    channel.send(reply)?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Error::io("cannot open /dev/null", e))?;
    dup2_stdin(&null).map_err(failed)?;
    dup2_stdout(&null).map_err(failed)?;
    dup2_stderr(&null).map_err(failed)
}
