//! What the process that reads an image and the fetcher say to each other.
//!
//! A first socket carries typed messages and descriptors, until the fetcher is ready. Further sockets
//! carry requests for chunks: one at a time on each.

use super::chunk::CHUNK;
use super::credentials::Login;
use super::origin::{Failure, Identity};
use super::url::RemoteUrl;
use crate::sandbox::Mode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Longest message in bytes.
const MOST: u32 = 2 << 20;
/// Longest reason of a failure in bytes.
const MOST_REASON: u32 = 4 << 10;

/// What a descriptor is for: a socket for requests, the cache's data and checksums; and the end of the
/// list.
pub(super) const SOCKET: u8 = b'w';
pub(super) const DATA: u8 = b'd';
pub(super) const SUMS: u8 = b's';
/// A recording to be written, and checksums to be compared.
pub(super) const RECORDING: u8 = b'r';
pub(super) const MANIFEST: u8 = b'm';
pub(super) const GO: u8 = b'g';

/// The fetcher's task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// Both must be of the same program.
    pub(super) version: String,
    pub(super) url: RemoteUrl,
    pub(super) login: Option<Login>,
    pub(super) sandbox: Mode,
    /// How long the server may take to answer, in milliseconds.
    pub(super) patience: u32,
}

/// What the fetcher found at the URL.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Found {
    Image(Identity),
    /// The server did not answer.
    Unreachable(String),
    Failed(String),
}

/// How to go on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Go {
    pub(super) identity: Identity,
    /// How much more the cache may store, in bytes.
    pub(super) room: u64,
    /// What stands for the image in recordings.
    pub(super) id: String,
    /// Chunks that will be needed, in this order.
    pub(super) prefetch: Vec<u64>,
}

/// Send `message` after its length.
///
/// # Errors
/// Errors of the socket.
pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= MOST);
    let len = len.ok_or(io::ErrorKind::InvalidInput)?;
    to.write_all(&[&len.to_le_bytes()[..], &bytes].concat())
}

/// Receive a message.
///
/// # Errors
/// Errors of the socket; `InvalidData` for anything else than the expected message.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let len = number(from)?;
    Ok(serde_json::from_slice(&bytes(from, len, MOST)?)?)
}

/// A request for chunks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Request {
    /// Number of the first chunk that is needed.
    pub(super) first: u64,
    /// How many are needed, that one included.
    pub(super) count: u32,
    /// How long it may take, in milliseconds.
    pub(super) millis: u32,
}

/// The reply to a [`Request`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reply {
    /// This many of the chunks, from the first on, are in the cache's file and were checked.
    Stored(u32),
    /// The first chunk, which is not in the cache.
    Bytes(Vec<u8>),
    /// It could not be fetched.
    Failed(Failure),
}

impl Request {
    /// # Errors
    /// Errors of the socket.
    pub(super) fn send(self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.millis.to_le_bytes());
        to.write_all(&bytes)
    }

    /// The next request; `None` if the other end is closed.
    ///
    /// # Errors
    /// Errors of the socket.
    pub(super) fn receive(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; 16];
        match from.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let first = u64::from(word(4)) << 32 | u64::from(word(0));
        Ok(Some(Self { first, count: word(8), millis: word(12) }))
    }
}

impl Reply {
    /// # Errors
    /// Errors of the socket.
    pub(super) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, number, rest): (u8, u32, &[u8]) = match self {
            Self::Stored(count) => (0, *count, &[]),
            Self::Bytes(bytes) => (1, bytes.len() as u32, bytes), // at most a chunk
            Self::Failed(failure) => {
                let (kind, what) = match failure {
                    Failure::Passing(what) => (2, what),
                    Failure::Lasting(what) => (3, what),
                    Failure::Changed(what) => (4, what),
                };
                let what = &what.as_bytes()[..what.len().min(MOST_REASON as usize)];
                (kind, what.len() as u32, what)
            }
        };
        let head = [&[kind][..], &number.to_le_bytes()].concat();
        to.write_all(&head)?;
        to.write_all(rest)
    }

    /// # Errors
    /// Errors of the socket; `InvalidData` for what is no reply.
    pub(super) fn receive(from: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0];
        from.read_exact(&mut kind)?;
        let number = number(from)?;
        if kind[0] == 0 {
            return Ok(Self::Stored(number));
        }
        if kind[0] == 1 {
            return bytes(from, number, CHUNK as u32).map(Self::Bytes);
        }
        let what = String::from_utf8_lossy(&bytes(from, number, MOST_REASON)?).into_owned();
        Ok(Self::Failed(match kind[0] {
            2 => Failure::Passing(what),
            3 => Failure::Lasting(what),
            4 => Failure::Changed(what),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }))
    }
}

fn number(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn bytes(from: &mut impl Read, len: u32, most: u32) -> io::Result<Vec<u8>> {
    if len > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let request = Request { first: 1 << 40 | 7, count: 3, millis: 20_000 };
        let mut bytes = Vec::new();
        request.send(&mut bytes).unwrap();
        assert_eq!(Request::receive(&mut &bytes[..]).unwrap(), Some(request));
        assert_eq!(Request::receive(&mut &[][..]).unwrap(), None);
        for reply in [
            Reply::Stored(4),
            Reply::Bytes(vec![7; 1000]),
            Reply::Failed(Failure::Passing("a".into())),
            Reply::Failed(Failure::Lasting("b".into())),
            Reply::Failed(Failure::Changed("c".into())),
        ] {
            let mut bytes = Vec::new();
            reply.send(&mut bytes).unwrap();
            assert_eq!(Reply::receive(&mut &bytes[..]).unwrap(), reply);
        }
        // Lengths are checked before anything is allocated.
        assert!(Reply::receive(&mut &[1, 255, 255, 255, 255][..]).is_err());
        assert!(Reply::receive(&mut &[9, 0, 0, 0, 0][..]).is_err());
        assert!(receive::<Go>(&mut &[255, 255, 255, 255, 0][..]).is_err());
    }
}
