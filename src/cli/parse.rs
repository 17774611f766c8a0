//! The process that examines guests: the only one that parses their filesystems, boot menus and
//! initrds.

use crate::plan::examine::answer_questions;
use crate::sandbox::{Limits, Mode, Profile, confine};
use crate::{Error, Result};
use std::os::fd::AsFd;

/// Address space in bytes. A decompressor's window takes up to 160 MiB, and what is kept of a guest
/// some hundred at most.
const MEMORY: u64 = 1 << 30;
/// CPU time in seconds.
const CPU: u64 = 60;

/// `synthdisk internal parse`: answer questions about a guest at the other end of standard input,
/// with no other rights.
///
/// # Errors
/// Errors of the socket; when this process cannot give up its rights.
pub(super) fn internal() -> Result<()> {
    let limits = Limits { memory: Some(MEMORY), cpu: Some(CPU), file_len: Some(0) };
    // What the kernel does not offer is missing; the status of the mount says so.
    confine(Profile::Parse(limits), Mode::Auto)?;
    let failed = |e| Error::io("cannot examine the guest", e);
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    answer_questions(socket.into()).map_err(failed)
}
