//! A mount in a private directory, from the side of `run`.

use crate::daemon::{Channel, MountReply, MountReport, MountRequest};
use crate::process::{MountEntry, Stop, Unmount, ourselves, poll_until, private_dir_name, unmount};
use crate::text::printable;
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Stdio};
use std::time::{Duration, Instant};

/// Mount as `request` says, on a private directory, and unmount at once.
///
/// # Errors
/// The mount's own; [`ErrorKind::Io`] when the last writes cannot be stored.
pub fn once(request: &MountRequest, stop: &Stop) -> Result<MountReport> {
    let mut mount = PrivateMount::start(request, false)?;
    let report = mount.wait_ready(stop, None)?;
    mount.end()?;
    Ok(report)
}

/// The mount, its keeper, and the directory. Ended when dropped.
#[derive(Debug)]
pub(super) struct PrivateMount {
    dir: PathBuf,
    keeper: Child,
    lifeline: Option<ChildStdin>,
    channel: Channel,
    messages: Option<ChildStderr>,
}

impl PrivateMount {
    /// Starts a mount on a new directory. With `terminal`, QEMU gets the terminal, and the keeper
    /// restores it.
    pub(super) fn start(request: &MountRequest, terminal: bool) -> Result<Self> {
        let dir = private_dir_name("run");
        let mut command = ourselves()?;
        command.args(["internal", "keep"]);
        if terminal {
            command.arg("--terminal");
        }
        command.arg("--dir").arg(&dir);
        let (mut channel, theirs) = Channel::pair()?;
        let mut keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::io("cannot start the mount's keeper", e))?;
        let lifeline = keeper.stdin.take();
        let messages = keeper.stderr.take();
        // Its copy of the channel's other end would hide that the keeper has ended.
        drop(command);
        let sent = channel.send(request);
        let mount = Self { dir, keeper, lifeline, channel, messages };
        sent.map(|()| mount)
    }

    /// Where the mount is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until the mount can be used.
    ///
    /// # Errors
    /// The mount's own if it fails; else when `stop` is raised or `limit` has passed.
    pub(super) fn wait_ready(
        &mut self,
        stop: &Stop,
        limit: Option<Duration>,
    ) -> Result<MountReport> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let mut fds = vec![
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(self.messages.as_ref().map(|m| PollFd::new(m.as_fd(), PollFlags::POLLIN)));
            let ready = poll_until(&mut fds, deadline)?;
            if ready[0] {
                return Err(stop.error());
            }
            if ready.get(2) == Some(&true) {
                self.pass_messages();
                continue; // messages come before the result
            }
            if ready[1] {
                return match self.channel.receive()? {
                    Some(MountReply::Ready(report)) => Ok(*report),
                    Some(MountReply::Failed { kind, message }) => Err(Error::new(kind, message)),
                    None => Err(no_word()),
                };
            }
            if !ready.contains(&true) {
                let what = "the mount was not ready in time; is an image on a server that does not answer?";
                return Err(Error::new(ErrorKind::Io, what));
            }
        }
    }

    /// Becomes readable when the mount fails or the keeper ends.
    pub(super) fn end_of_keeper(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Where messages of the mount come from while it serves; `None` after their end.
    pub(super) fn messages(&self) -> Option<BorrowedFd<'_>> {
        self.messages.as_ref().map(AsFd::as_fd)
    }

    /// Copies available messages to standard error.
    pub(super) fn pass_messages(&mut self) {
        let mut buffer = [0; 4096];
        if let Some(messages) = &mut self.messages {
            match messages.read(&mut buffer) {
                Ok(n) if n > 0 => eprint!("{}", printable(&String::from_utf8_lossy(&buffer[..n]))),
                _ => self.messages = None,
            }
        }
    }

    /// Ends the mount, and waits until it and its directory are gone.
    ///
    /// # Errors
    /// When the last writes cannot be stored.
    pub(super) fn end(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let Some(mut lifeline) = self.lifeline.take() else { return Ok(()) };
        let _ = lifeline.write_all(b"q"); // the keeper may have ended
        drop(lifeline);
        while self.messages.is_some() {
            self.pass_messages();
        }
        let status = self.keeper.wait();
        // The mount is still there if the keeper was killed.
        if let Some(entry) = MountEntry::at(&self.dir) {
            let _ = unmount(&entry, Unmount::Lazy);
        }
        let _ = std::fs::remove_dir(&self.dir);
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// Why the mount ended, when the keeper has.
    fn failure(&mut self) -> Error {
        loop {
            match self.channel.receive() {
                // It became ready while this process gave up.
                Ok(Some(MountReply::Ready(_))) => {}
                Ok(Some(MountReply::Failed { kind, message })) => return Error::new(kind, message),
                Ok(None) => return no_word(),
                Err(e) => return e,
            }
        }
    }
}

fn no_word() -> Error {
    Error::new(ErrorKind::Io, "the process that serves the mount ended unexpectedly")
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        let _ = self.take_down();
    }
}
