//! Processes that are not children of this one.

use super::wait::poll_until;
use crate::Result;
use nix::poll::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

/// A running process, identified by a descriptor, so reuse of its process ID does not matter.
#[derive(Debug)]
pub struct OtherProcess(OwnedFd);

impl OtherProcess {
    /// The process `pid`, if it runs as the user `uid`.
    pub fn of_user(pid: u32, uid: u32) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = Self(pidfd_open(number, PidfdFlags::empty()).ok()?);
        // Read after the descriptor was opened: if the process still runs afterwards, this entry
        // belongs to it.
        let owner = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        (owner == uid && process.lives()).then_some(process)
    }

    fn lives(&self) -> bool {
        self.ended_by(Instant::now()).is_ok_and(|ended| !ended)
    }

    /// Wait until the process has ended with all its threads, and so has closed its files, or until
    /// `deadline`. Returns whether it has ended.
    ///
    /// # Errors
    /// Errors of poll(2).
    pub fn ended_by(&self, deadline: Instant) -> Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll_until(&mut fds, Some(deadline))?.contains(&true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn the_end_of_a_process_is_seen() {
        let me = nix::unistd::geteuid().as_raw();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = OtherProcess::of_user(child.id(), me).unwrap();
        assert!(!process.ended_by(Instant::now()).unwrap());
        assert!(OtherProcess::of_user(child.id(), me + 1).is_none(), "another user's");
        child.kill().unwrap();
        assert!(process.ended_by(Instant::now() + Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert!(OtherProcess::of_user(child.id(), me).is_none());
    }
}
