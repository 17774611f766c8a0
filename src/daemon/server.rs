//! The process that serves a mount's disks.
//!
//! It plans the disks and edits the guest with the rights of the user who mounts. Then it gives up
//! all rights, and serves the disks with what it has open.

use super::channel::Channel;
use super::editing::{Partly, adapt};
use super::log::start_log;
use super::report::{EditReport, MountReport};
use super::request::{Background, ExportRequest, MountReply, MountRequest, NbdRequest};
use super::wire::{DEVICE, FINISH, FIRST_PARSER, PARSERS, send_reply};
use crate::export::{Export, ExportSet};
use crate::fuse::FuseExport;
use crate::nbd::{NbdExport, NbdStopper, TlsConfig};
use crate::plan::Plan;
use crate::process::{close_inherited_files, hold_ending_signals};
use crate::remote::fetch_with;
use crate::sandbox::{Confined, ask_keeper_for_parsers, receive_descriptor, use_first_parser};
use crate::{Error, ErrorKind, Result};
use nix::unistd::{chdir, dup2_stderr, dup2_stdout, getppid, setsid};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Serve a mount as requested by the keeper, which is at the other end of standard input.
///
/// # Errors
/// When it was not started by a keeper. Other errors are reported to the keeper, and end this
/// process.
pub fn serve() -> Result<()> {
    close_inherited_files();
    // The keeper decides when this process ends.
    hold_ending_signals()?;
    let mut keeper = Channel::from_stdin()?;
    let request: MountRequest = keeper.receive()?.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "this command is started by synthdisk itself")
    })?;
    let Err(e) = serve_as(request, &mut keeper) else { return Ok(()) };
    // If the keeper has ended, it knows why, or nobody does.
    let _ = send_reply(&mut keeper, &MountReply::failed(&e));
    std::process::exit(1)
}

fn serve_as(request: MountRequest, keeper: &mut Channel) -> Result<()> {
    start_log(request.log.as_deref())?;
    ask_keeper_for_parsers(file_from(keeper, PARSERS)?.into());
    use_first_parser(file_from(keeper, FIRST_PARSER)?.into());
    // A mistake in it is found before anything is made.
    let tls = match &request.export {
        ExportRequest::Nbd(NbdRequest { certificates: Some(dir), .. }) => {
            Some(TlsConfig::load(dir)?)
        }
        _ => None,
    };
    fetch_with(request.sandbox);
    let mut plan = Plan::build(&request.source, &request.overlay)?;
    if let Some(limit) = request.overlay_limit {
        plan.disks.iter().for_each(|planned| planned.disk.set_overlay_limit(limit));
    }
    let mut report = MountReport::of(&plan);
    let mut set = ExportSet::of_plan(&plan);
    if let Some(status) = &mut set.status {
        status.read_only = request.export.is_read_only();
        status.pid = getppid().as_raw().unsigned_abs();
    }
    // Serving needs only the disks.
    plan.boot = None;
    // The guest is adapted before anything can access the disks.
    let partly = if request.must_adapt { Partly::Fails } else { Partly::IsReported };
    // A keeper that ends meanwhile closes its end, and what was made here is removed.
    report.edits = match adapt(&plan, &set, partly, Some(keeper.as_fd())) {
        Err(e) if request.must_adapt => return Err(e),
        edits => edits.unwrap_or_else(|e| EditReport::failed(&e)),
    };
    // The keeper makes the mount.
    keeper.send_byte(DEVICE)?;
    let device = file_from(keeper, DEVICE)?;
    let output = match request.background {
        Background::Stay => None,
        Background::Detach => Some(leave_terminal()?),
    };
    let stopper = match &request.export {
        ExportRequest::Mount(_) => None,
        ExportRequest::Nbd(_) => Some(NbdStopper::of(&device)?),
    };
    let disks = set.clone();
    let ready = |confined: &Confined| {
        plan.keep();
        drop(plan);
        report.sandbox = confined.clone();
        finish_when_told(keeper.try_clone()?, disks, stopper)?;
        if let Some(null) = output {
            let failed = |e: nix::Error| Error::io("cannot go to the background", e.into());
            dup2_stdout(&null).map_err(failed)?;
            dup2_stderr(&null).map_err(failed)?;
        }
        send_reply(keeper, &MountReply::Ready(Box::new(report)))
    };
    let sandbox = request.sandbox;
    match request.export {
        ExportRequest::Mount(options) => FuseExport { device, options, sandbox }.serve(set, ready),
        ExportRequest::Nbd(nbd) => {
            let read_only = nbd.read_only;
            NbdExport { listener: device, read_only, tls, sandbox }.serve(set, ready)
        }
    }
}

/// The open file that the keeper sends for `purpose`.
fn file_from(keeper: &Channel, purpose: u8) -> Result<OwnedFd> {
    match receive_descriptor(keeper).map_err(|e| Error::io("cannot receive an open file", e))? {
        Some((found, Some(file))) if found == purpose => Ok(file),
        _ => Err(Error::new(ErrorKind::Io, "the process that keeps the mount has ended")),
    }
}

/// Leave the session of the terminal, and the working directory; returns what replaces the output.
fn leave_terminal() -> Result<File> {
    let failed = |e: nix::Error| Error::io("cannot go to the background", e.into());
    setsid().map_err(failed)?;
    chdir("/").map_err(failed)?;
    let null = File::options().read(true).write(true).open("/dev/null");
    null.map_err(|e| Error::io("cannot open /dev/null", e))
}

/// End this process when the keeper asks for it, or when the keeper was killed. Programs may still
/// have files of a mount open. Where there is a `stopper`, serving ends by itself.
fn finish_when_told(keeper: Channel, disks: ExportSet, stopper: Option<NbdStopper>) -> Result<()> {
    let wait = move || {
        while let Ok(Some((byte, _))) = receive_descriptor(&keeper) {
            if byte == FINISH {
                break;
            }
        }
        if let Some(stopper) = stopper {
            return stopper.stop();
        }
        let Err(e) = disks.close() else { std::process::exit(0) };
        let e = Error::io("the last writes could not be stored", e);
        tracing::error!("{e}");
        let mut keeper = keeper;
        let _ = send_reply(&mut keeper, &MountReply::failed(&e)); // it may have been killed
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("keeper".into()).spawn(wait);
    thread.map(drop).map_err(|e| Error::io("cannot start a thread", e))
}
