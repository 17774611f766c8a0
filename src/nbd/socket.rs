//! A connected socket, of whatever family.

use nix::poll::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown, sockopt,
};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// What the kernel may hold of replies that the client has not read, in bytes; it grants less to a
/// user without privileges.
const SEND_BUFFER: usize = 1 << 20;

/// A connection's socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// When to give up waiting for the client.
    deadline: Option<Instant>,
}

impl Socket {
    pub fn new(fd: OwnedFd) -> Self {
        // Only a matter of speed.
        let _ = sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER);
        Self { fd, deadline: None }
    }

    /// From now on, fail with `TimedOut` when the client keeps this end waiting after `deadline`.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Send all bytes of `parts`.
    ///
    /// # Errors
    /// Errors of sendmsg(2); `EFAULT` for mapped bytes that do not exist any more.
    pub fn send_all(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let sent = self.send(rest)?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, sent);
        }
        Ok(())
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            self.wait_until_deadline(PollFlags::POLLOUT)?;
            let mut none = SendAncillaryBuffer::default();
            // A client that has gone is an error and not a signal.
            match sendmsg(&self.fd, parts, &mut none, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    fn wait_until_deadline(&self, event: PollFlags) -> io::Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        let mut fds = [PollFd::new(self.fd.as_fd(), event)];
        let ready = crate::process::poll_until(&mut fds, Some(deadline));
        match ready.map_err(io::Error::other)?.contains(&true) {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Tell the client that nothing follows.
    pub fn finish(&self) {
        let _ = shutdown(&self.fd, Shutdown::Write); // it may have gone
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait_until_deadline(PollFlags::POLLIN)?;
            match recv(&self.fd, &mut *buf, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(0),
                received => return Ok(received?.0),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send(&[IoSlice::new(buf)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
