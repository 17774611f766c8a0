//! Typed messages between two processes of this program.

use crate::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind as Io, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longest message in bytes. Scripts and keys are read before they are sent, each at most 4 MiB.
const MAX_LEN: u32 = 256 << 20;

/// A message as it is sent: JSON after its length (4 bytes, little endian).
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: String,
    message: T,
}

/// The part of an [`Envelope`] that is read first: another version's message may be anything.
#[derive(Deserialize)]
struct Sender {
    version: String,
}

/// One end of a connection between two processes of this program.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// A connected pair. Programs that are started inherit neither end unless it is given to them.
    ///
    /// # Errors
    /// That of the system call.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) = UnixStream::pair().map_err(|e| Error::io("cannot create a socket", e))?;
        Ok((Self(a), Self(b)))
    }

    /// The end that this process was started with, as its standard input.
    ///
    /// # Errors
    /// That of the system call.
    pub fn from_stdin() -> Result<Self> {
        let fd = std::io::stdin().as_fd().try_clone_to_owned();
        fd.map(|fd| Self(fd.into())).map_err(|e| Error::io("cannot use the standard input", e))
    }

    /// The end that this process was started with as its standard output, when it hands that on.
    ///
    /// # Errors
    /// That of the system call.
    pub fn from_stdout() -> Result<Self> {
        let fd = std::io::stdout().as_fd().try_clone_to_owned();
        fd.map(|fd| Self(fd.into())).map_err(|e| Error::io("cannot use the standard output", e))
    }

    /// Another descriptor of this end.
    ///
    /// # Errors
    /// That of the system call.
    pub(super) fn try_clone(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|e| Error::io("cannot use a socket", e))
    }

    /// Fail when the other end takes longer than `limit` to send what is expected.
    ///
    /// # Errors
    /// That of the system call.
    pub(super) fn limit_waiting(&self, limit: Duration) -> Result<()> {
        let set = self.0.set_read_timeout(Some(limit));
        set.map_err(|e| Error::io("cannot use a socket", e))
    }

    /// Close the connection, also for copies of this end.
    pub(super) fn shut_down(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both); // fails only if it is closed already
    }

    /// Send a message.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a path that is not UTF-8, which JSON cannot hold;
    /// [`ErrorKind::Io`] when the other end is closed.
    pub fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let envelope = Envelope { version: version(), message };
        let mut bytes = vec![0; 4];
        serde_json::to_writer(&mut bytes, &envelope).map_err(|e| {
            let what = "cannot pass the options to the background process";
            Error::with_source(ErrorKind::Invalid, what, e)
        })?;
        let len = u32::try_from(bytes.len() - 4).ok().filter(|len| *len <= MAX_LEN);
        let Some(len) = len else {
            let what = format!("too much data for the background process (limit {MAX_LEN} bytes)");
            return Err(Error::new(ErrorKind::TooLarge, what));
        };
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.0.write_all(&bytes).map_err(|e| Error::io("cannot reach the other process", e))
    }

    /// Send a byte that tells what comes next.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the other end is closed.
    pub(super) fn send_byte(&mut self, byte: u8) -> Result<()> {
        self.0.write_all(&[byte]).map_err(|e| Error::io("cannot reach the other process", e))
    }

    /// Receive a message; `None` when the other end was closed without one.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything but a message of this version of the program.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.receive_at_most(MAX_LEN)
    }

    /// As [`Channel::receive`], for messages of up to `max` bytes.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub(super) fn receive_at_most<T: DeserializeOwned>(&mut self, max: u32) -> Result<Option<T>> {
        let failed = |e| Error::io("cannot receive from the other process", e);
        let mut len = [0; 4];
        match self.0.read_exact(&mut len) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), Io::UnexpectedEof | Io::ConnectionReset) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        }
        let len = u32::from_le_bytes(len);
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
        if len > max {
            return Err(corrupt("the other process sent something else than a message".into()));
        }
        // Not allocated before the bytes are there.
        let mut bytes = Vec::new();
        (&self.0).take(u64::from(len)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 != u64::from(len) {
            return Ok(None);
        }
        let bad = |e| Error::with_source(ErrorKind::Corrupt, "bad message between processes", e);
        let Sender { version: theirs } = serde_json::from_slice(&bytes).map_err(bad)?;
        if theirs != version() {
            return Err(corrupt(format!(
                "version {} of this program started version {theirs}; it was replaced while it \
                 ran, start it again",
                version()
            )));
        }
        let envelope: Envelope<T> = serde_json::from_slice(&bytes).map_err(bad)?;
        Ok(Some(envelope.message))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for UnixStream {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0.into()
    }
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole() {
        let (mut a, mut b) = Channel::pair().unwrap();
        let long = "x".repeat(1 << 20);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                a.send(&"short").unwrap();
                a.send(&long).unwrap();
                drop(a);
            });
            assert_eq!(b.receive::<String>().unwrap().as_deref(), Some("short"));
            assert_eq!(b.receive::<String>().unwrap().as_ref(), Some(&long));
            assert_eq!(b.receive::<String>().unwrap(), None);
        });
    }

    #[test]
    fn anything_else_is_refused() {
        let refused = |bytes: &[u8]| {
            let (a, mut b) = Channel::pair().unwrap();
            (&a.0).write_all(bytes).unwrap();
            drop(a);
            b.receive::<String>().map_err(|e| e.kind())
        };
        assert_eq!(refused(&[0xff; 8]), Err(ErrorKind::Corrupt));
        assert_eq!(refused(b"\x04\0\0\0null"), Err(ErrorKind::Corrupt));
        // Ended in the middle.
        assert_eq!(refused(b"\x04\0\0\0nu"), Ok(None));
        let other = br#"{"version":"0.0.0","message":"hello"}"#;
        let mut framed = (other.len() as u32).to_le_bytes().to_vec();
        framed.extend(other);
        assert_eq!(refused(&framed), Err(ErrorKind::Corrupt));
    }
}
