//! The process that serves a mount.

use super::log::start_log;
use crate::daemon::{
    Background, Channel, EditReport, MountReply, MountReport, MountRequest, adapt,
};
use crate::export::{Export, ExportSet};
use crate::fuse::{FuseMount, MountPoint};
use crate::plan::{Plan, SourceOptions};
use crate::process::hold_ending_signals;
use crate::{Error, ErrorKind, Result};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Mount as `request` says, call `ready` once the disks can be used, and serve them until the mount
/// ends.
///
/// # Errors
/// Errors from planning, mounting and serving, and from `ready`.
pub(super) fn mount(
    request: MountRequest,
    mountpoint: &Path,
    ready: impl FnOnce(&MountReport) -> Result<()>,
) -> Result<()> {
    hold_ending_signals()?;
    start_log(request.log.as_deref())?;
    let source = shown_source(&request.source);
    let target = MountPoint::open(mountpoint)?;
    let mut plan = Plan::build(&request.source, &request.overlay)?;
    let mut report = MountReport::of(&plan, target.path().to_path_buf());
    let mut set = ExportSet::of_plan(&plan);
    if let Some(status) = &mut set.status {
        status.read_only = request.options.read_only;
    }
    // Serving needs only the disks.
    plan.boot = None;
    // The guest is adapted before anything can access the disks.
    report.edits = match adapt(&plan, &set) {
        Err(e) if request.must_adapt => return Err(e),
        edits => edits.unwrap_or_else(|e| EditReport::failed(&e)),
    };
    FuseMount { target, source, options: request.options }.serve(set, || {
        plan.keep();
        drop(plan);
        ready(&report)
    })
}

/// `synthdisk internal mount`: mount as requested by the process at the other end of standard
/// input.
///
/// # Errors
/// Those of [`mount`], if that process could not be informed of them.
pub(in crate::cli) fn internal(mountpoint: &Path) -> Result<()> {
    let mut channel = Channel::from_stdin()?;
    let request: MountRequest = channel.receive()?.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "this command is started by synthdisk itself")
    })?;
    let background = request.background;
    let mut detached = false;
    let result = mount(request, mountpoint, |report| {
        let reply = MountReply::Ready(Box::new(report.clone()));
        match background {
            Background::Detach => {
                detached = true;
                detach(&mut channel, &reply)
            }
            Background::Stay => {
                // The keeper does not take part in that exchange. It is informed first, so that it
                // knows about a mount in use before `run` can tell it to end the mount.
                let mut out = std::io::stdout();
                let said = out.write_all(b"ready\n").and_then(|()| out.flush());
                said.map_err(|e| Error::io("cannot reach the process that keeps the mount", e))?;
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
        Ok(()) => std::process::exit(i32::from(crate::cli::exit_code::of(&error))),
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

/// What the host's mount table shows as the source: the config or the first image.
fn shown_source(source: &SourceOptions) -> String {
    let path = source.config.as_ref().or(source.images.first()).cloned().unwrap_or_default();
    path.canonicalize().unwrap_or(path).display().to_string()
}
