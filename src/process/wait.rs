//! Waiting for several descriptors at once.

use crate::{Error, Result};
use nix::poll::{PollFd, PollTimeout, poll};
use std::time::{Duration, Instant};

/// Wait until one of `fds` is ready or `deadline` has passed, and return which ones are ready.
///
/// # Errors
/// Errors of poll(2).
pub fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<Vec<bool>> {
    loop {
        let timeout = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
            // Rounded up, so that the deadline has passed if no descriptor is ready.
            Some(left) => {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(fds, timeout) {
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(Error::io("cannot wait for a process", e.into())),
            Ok(_) => return Ok(fds.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
        }
    }
}
