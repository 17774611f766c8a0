//! Starting the process that examines a guest.

use super::answer::answer_questions;
use crate::{Error, Result};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

/// Starts what answers questions, at the other end of the returned socket.
pub type Start = fn() -> Result<UnixStream>;

/// How this program does it.
static START: OnceLock<Start> = OnceLock::new();

/// From now on, guests are examined by what `start` starts. Only the first call has an effect.
/// Without one, a thread of this process examines them, as suits a program that uses this library
/// for guests that it trusts.
pub fn examine_with(start: Start) {
    let _ = START.set(start);
}

pub(super) fn start() -> Result<UnixStream> {
    START.get().copied().unwrap_or(start_thread)()
}

/// A thread of this process.
pub(super) fn start_thread() -> Result<UnixStream> {
    let failed = |e| Error::io("cannot examine the guest", e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let examine = move || {
        if let Err(e) = answer_questions(theirs) {
            tracing::debug!("the examination of a guest ended: {e}");
        }
    };
    std::thread::Builder::new().name("examine".into()).spawn(examine).map_err(failed)?;
    Ok(ours)
}
