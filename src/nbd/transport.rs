//! How the bytes of a connection cross: as they are, or encrypted.

use super::socket::Socket;
use super::tls::{TlsConfig, TlsStream};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// A connection to a client.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream>),
}

impl Transport {
    /// Encrypt what follows.
    ///
    /// # Errors
    /// Errors of the library; `InvalidInput` if it is encrypted.
    pub fn encrypt(self, config: &TlsConfig) -> io::Result<Self> {
        match self {
            Self::Plain(socket) => Ok(Self::Tls(Box::new(config.encrypt(socket)?))),
            Self::Tls(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Send all bytes of `parts`. Mapped bytes may be among them only if [`Transport::is_plain`].
    ///
    /// # Errors
    /// Errors of the socket.
    pub fn send(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.send_all(parts),
            Self::Tls(stream) => {
                parts.iter().try_for_each(|part| stream.write_all(part))?;
                stream.flush()
            }
        }
    }

    /// Whether bytes go to the kernel as they are.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Whether bytes can be received that the socket does not have any more.
    pub fn has_buffered(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => {
                let state = stream.conn.process_new_packets();
                // An error comes back from the next read.
                state.map_or(true, |state| state.plaintext_bytes_to_read() > 0)
            }
        }
    }

    /// See [`Socket::set_deadline`].
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        match self {
            Self::Plain(socket) => socket.set_deadline(deadline),
            Self::Tls(stream) => stream.sock.set_deadline(deadline),
        }
    }

    /// Tell the client that nothing follows.
    pub fn finish(&mut self) {
        match self {
            Self::Plain(socket) => socket.finish(),
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush(); // the client may have gone
                stream.sock.finish();
            }
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
            Self::Tls(stream) => match stream.read(buf) {
                // It has ended without saying so. Requests have lengths, so nothing can be cut off
                // unnoticed.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.sock.as_fd(),
        }
    }
}
