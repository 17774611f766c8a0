//! A mount in a private directory, as `run` uses it.

use crate::daemon::{Channel, MountReply, MountReport, MountRequest, SOCKET};
use crate::process::{MountEntry, Stop, Unmount, ourselves, poll_until, private_dir_name, unmount};
use crate::text::printable;
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, Stdio};
use std::time::{Duration, Instant};

/// Mount on a private directory as requested, and unmount immediately.
///
/// # Errors
/// Errors of the mount; [`ErrorKind::Io`] when the last writes could not be flushed to storage.
pub fn once(request: &MountRequest, stop: &Stop) -> Result<MountReport> {
    let mut mount = PrivateMount::start(request, false)?;
    let report = mount.wait_ready(stop, None)?;
    mount.end()?;
    Ok(report)
}

/// The mount, its keeper, and the directory. Dropping it ends the mount.
#[derive(Debug)]
pub(super) struct PrivateMount {
    dir: PathBuf,
    keeper: Child,
    lifeline: Option<ChildStdin>,
    channel: Channel,
    messages: Option<ChildStderr>,
}

impl PrivateMount {
    /// Starts a mount on a new directory. `terminal`: QEMU will use the terminal, so the keeper
    /// must be able to restore it.
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
        // `command` holds a copy of the other end, which would hide the end of the keeper.
        drop(command);
        let sent = channel.send(&request.in_directory(&dir));
        let mount = Self { dir, keeper, lifeline, channel, messages };
        sent.map(|()| mount)
    }

    /// Waits until the mount can be used.
    ///
    /// # Errors
    /// Errors of the mount; an error when `stop` is raised or `limit` has passed.
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
                return Err(Error::new(ErrorKind::Host, what));
            }
        }
    }

    /// Becomes readable when the mount fails or the keeper ends.
    pub(super) fn end_of_keeper(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// The source of the mount's messages while it serves; `None` after end-of-file.
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

    /// Ends the mount and waits until everything is removed.
    ///
    /// # Errors
    /// When the last writes could not be flushed to storage.
    pub(super) fn end(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let Some(mut lifeline) = self.lifeline.take() else { return Ok(()) };
        let _ = lifeline.write_all(b"q"); // fails only if the keeper has already ended
        drop(lifeline);
        while self.messages.is_some() {
            self.pass_messages();
        }
        let status = self.keeper.wait();
        // Only needed if the keeper was killed.
        if let Some(entry) = MountEntry::at(&self.dir) {
            let _ = unmount(&entry, Unmount::Lazy);
        }
        let _ = std::fs::remove_file(self.dir.join(SOCKET));
        let _ = std::fs::remove_dir(&self.dir);
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// The reason why the mount ended, after the keeper has ended.
    fn failure(&mut self) -> Error {
        loop {
            match self.channel.receive() {
                // The mount became ready just as this process gave up on it.
                Ok(Some(MountReply::Ready(_))) => {}
                Ok(Some(MountReply::Failed { kind, message })) => return Error::new(kind, message),
                Ok(None) => return no_word(),
                Err(e) => return e,
            }
        }
    }
}

fn no_word() -> Error {
    Error::new(ErrorKind::Host, "the process that serves the mount ended unexpectedly")
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        let _ = self.take_down();
    }
}
