//! A mount in a private directory, from the side of `run`.

use crate::export::Status;
use crate::fuse::ServedMount;
use crate::process::{MountEntry, Stop, Unmount, ourselves, poll_until, private_dir_name, unmount};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// Mount with `words`, as `synthdisk mount` takes them without a mount point, and unmount at once.
/// Returns what the mount said.
///
/// # Errors
/// The mount's own; [`ErrorKind::Io`] when the last writes could not be brought to storage.
pub fn once(words: &[OsString], stop: &Stop) -> Result<String> {
    let mut mount = PrivateMount::start(words, false)?;
    let said = mount.wait_ready(stop, None)?;
    mount.end()?;
    Ok(said)
}

/// The mount, its keeper, and the directory. Ended when dropped.
#[derive(Debug)]
pub(super) struct PrivateMount {
    dir: PathBuf,
    keeper: Child,
    lifeline: Option<ChildStdin>,
    output: ChildStdout,
    messages: Option<ChildStderr>,
    text: Vec<u8>,
}

impl PrivateMount {
    /// Starts `synthdisk mount WORDS DIR` on a new directory. `terminal`: QEMU will have the
    /// terminal, so the keeper must be able to give it back.
    pub(super) fn start(words: &[OsString], terminal: bool) -> Result<Self> {
        let dir = private_dir_name("run");
        let mut command = ourselves()?;
        command.args(["internal", "keep"]);
        if terminal {
            command.arg("--terminal");
        }
        command.arg("--dir").arg(&dir).arg("--").args(words);
        let mut keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::io("cannot start the mount's keeper", e))?;
        let lifeline = keeper.stdin.take();
        let messages = keeper.stderr.take();
        let Some(output) = keeper.stdout.take() else {
            return Err(Error::new(ErrorKind::Io, "the mount's keeper has no output"));
        };
        Ok(Self { dir, keeper, lifeline, output, messages, text: Vec::new() })
    }

    /// Where the mount is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until the mount can be used, and gives what it said about itself.
    ///
    /// # Errors
    /// The mount's own, if it fails; else when `stop` is raised or `limit` is over.
    pub(super) fn wait_ready(&mut self, stop: &Stop, limit: Option<Duration>) -> Result<String> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let failed = |e| Error::io("cannot wait for the mount", e);
        let mut buffer = [0; 4096];
        loop {
            let mut fds = vec![
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.output.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(self.messages.as_ref().map(|m| PollFd::new(m.as_fd(), PollFlags::POLLIN)));
            let ready = poll_until(&mut fds, deadline)?;
            if ready[0] {
                return Err(stop.error());
            }
            if ready.get(2) == Some(&true) {
                if let Some(messages) = &mut self.messages {
                    match messages.read(&mut buffer).map_err(failed)? {
                        0 => self.messages = None,
                        n => self.text.extend_from_slice(&buffer[..n]),
                    }
                }
                continue; // what was said comes before what was done
            }
            if ready[1] {
                if self.output.read(&mut buffer).map_err(failed)? > 0 {
                    return Ok(String::from_utf8_lossy(&std::mem::take(&mut self.text)).into());
                }
                return Err(self.failure());
            }
            if !ready.contains(&true) {
                let what = "the mount was not ready in time; is an image on a server that is away?";
                return Err(Error::new(ErrorKind::Io, what));
            }
        }
    }

    /// What the mount says of itself.
    ///
    /// # Errors
    /// That of reading it.
    pub(super) fn status(&self) -> Result<Status> {
        let mount = ServedMount::at(&self.dir)?;
        mount.ok_or_else(|| Error::new(ErrorKind::Io, "the mount has ended"))?.status()
    }

    /// Becomes readable when the keeper ends, which it doesn't before its mount does.
    pub(super) fn end_of_keeper(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Where messages of the mount come from while it serves; `None` after their end.
    pub(super) fn messages(&self) -> Option<BorrowedFd<'_>> {
        self.messages.as_ref().map(AsFd::as_fd)
    }

    /// Passes on messages that are there, to standard error.
    pub(super) fn pass_messages(&mut self) {
        let mut buffer = [0; 4096];
        if let Some(messages) = &mut self.messages {
            match messages.read(&mut buffer) {
                Ok(n) if n > 0 => drop(std::io::stderr().write_all(&buffer[..n])),
                _ => self.messages = None,
            }
        }
    }

    /// Ends the mount and waits until all is gone.
    ///
    /// # Errors
    /// When the last writes could not be brought to storage.
    pub(super) fn end(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let Some(mut lifeline) = self.lifeline.take() else { return Ok(()) };
        let _ = lifeline.write_all(b"q"); // a keeper that has ended needs no word
        drop(lifeline);
        if let Some(mut messages) = self.messages.take() {
            let _ = messages.read_to_end(&mut self.text);
        }
        let status = self.keeper.wait();
        // The keeper was killed, then.
        if let Some(entry) = MountEntry::at(&self.dir) {
            let _ = unmount(&entry, Unmount::Lazy);
        }
        let _ = std::fs::remove_dir(&self.dir);
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// The sentence in which the mount said why it ended.
    fn failure(&mut self) -> Error {
        if let Some(mut messages) = self.messages.take() {
            let _ = messages.read_to_end(&mut self.text);
        }
        let text = String::from_utf8_lossy(&self.text);
        let sentence = text
            .lines()
            .find_map(|l| l.strip_prefix("synthdisk: ").or_else(|| l.strip_prefix("error: ")))
            .unwrap_or("the mount ended without a word");
        Error::new(ErrorKind::Io, sentence)
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        let _ = self.take_down();
    }
}
