//! How the bytes of a connection cross: as they are, or encrypted.

use super::socket::Socket;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// A connection to a client.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Socket),
}

impl Transport {
    /// Send all bytes of `parts`. Mapped bytes may be among them only if [`Transport::is_plain`].
    ///
    /// # Errors
    /// Errors of the socket.
    pub fn send(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.send_all(parts),
        }
    }

    /// Whether bytes go to the kernel as they are.
    pub fn is_plain(&self) -> bool {
        match self {
            Self::Plain(_) => true,
        }
    }

    /// Whether bytes can be received that the socket does not have any more.
    pub fn has_buffered(&self) -> bool {
        match self {
            Self::Plain(_) => false,
        }
    }

    /// See [`Socket::set_deadline`].
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        match self {
            Self::Plain(socket) => socket.set_deadline(deadline),
        }
    }

    /// Tell the client that nothing follows.
    pub fn finish(&mut self) {
        match self {
            Self::Plain(socket) => socket.finish(),
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
        }
    }
}
