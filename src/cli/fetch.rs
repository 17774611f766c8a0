//! The process that fetches an image from another machine: the only one that talks to its server.

use crate::process::{close_inherited_files, hold_ending_signals};
use crate::{Error, Result};
use std::os::fd::AsFd;

/// `synthdisk internal fetch`: fetch the image that is named at the other end of standard input.
///
/// # Errors
/// Errors of the socket; when this process cannot give up its rights.
pub(super) fn internal() -> Result<()> {
    close_inherited_files();
    // It ends with the process that reads the image, which may have writes to store after a signal.
    let _ = nix::unistd::setsid();
    hold_ending_signals()?;
    let failed = |e| Error::io("cannot use the standard input", e);
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    crate::remote::fetch(socket.into())
}
