//! Frames between a planner and the process that examines the guest for it.
//!
//! The planner asks one question at a time. Until it has the answer, it answers requests for bytes
//! of the guest's partitions: the examining process has no other access to them. The planner trusts
//! neither the lengths nor the contents of what it receives.

use crate::process::poll_until;
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{self, MsgFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Longest frame in bytes. The largest is an answer with a file that is treated as configuration,
/// or a piece of a kernel.
pub(super) const MAX_FRAME: usize = 16 << 20;
/// Most bytes of a partition that are requested at once.
pub(super) const MAX_READ: usize = 1 << 20;

/// What the planner sends.
#[derive(Debug)]
pub(super) enum ToParser {
    /// A question, in JSON.
    Question(Vec<u8>),
    /// Bytes that were requested.
    Bytes(Vec<u8>),
    /// The length of a partition.
    Len(u64),
    /// A request failed.
    Failed(String),
}

/// What the examining process sends.
#[derive(Debug)]
pub(super) enum FromParser {
    /// Needs `len` bytes at `offset` of a partition.
    Need { source: u32, offset: u64, len: u32 },
    /// Needs the length of a partition.
    NeedLen(u32),
    /// The answer, in JSON: a `Result` of what was asked for.
    Answer(Vec<u8>),
    /// The answer to a question for bytes.
    Bytes(Vec<u8>),
}

/// An error on its way between the processes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireError {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    /// The partition that could not be examined, when looking into it took too much.
    pub(super) exhausted: Option<u32>,
}

impl ToParser {
    pub(super) fn send(&self, stream: &UnixStream, until: Instant) -> io::Result<()> {
        match self {
            Self::Question(json) => send(stream, until, b'q', &[json]),
            Self::Bytes(bytes) => send(stream, until, b'b', &[bytes]),
            Self::Len(len) => send(stream, until, b'l', &[&len.to_le_bytes()]),
            Self::Failed(why) => send(stream, until, b'f', &[why.as_bytes()]),
        }
    }

    /// `None` at the end of the stream.
    pub(super) fn receive(stream: &UnixStream, until: Instant) -> io::Result<Option<Self>> {
        let Some((tag, payload)) = receive(stream, until)? else { return Ok(None) };
        Ok(Some(match tag {
            b'q' => Self::Question(payload),
            b'b' => Self::Bytes(payload),
            b'l' => Self::Len(u64::from_le_bytes(payload.try_into().map_err(|_| bad())?)),
            b'f' => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            _ => return Err(bad()),
        }))
    }
}

impl FromParser {
    pub(super) fn send(&self, stream: &UnixStream, until: Instant) -> io::Result<()> {
        match self {
            Self::Need { source, offset, len } => send(
                stream,
                until,
                b'n',
                &[&source.to_le_bytes(), &offset.to_le_bytes(), &len.to_le_bytes()],
            ),
            Self::NeedLen(source) => send(stream, until, b'l', &[&source.to_le_bytes()]),
            Self::Answer(json) => send(stream, until, b'a', &[json]),
            Self::Bytes(bytes) => send(stream, until, b'b', &[bytes]),
        }
    }

    /// `None` at the end of the stream.
    pub(super) fn receive(stream: &UnixStream, until: Instant) -> io::Result<Option<Self>> {
        let Some((tag, payload)) = receive(stream, until)? else { return Ok(None) };
        Ok(Some(match tag {
            b'n' => {
                let bytes: [u8; 16] = payload.try_into().map_err(|_| bad())?;
                let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
                let offset = u64::from(u32_at(4)) | u64::from(u32_at(8)) << 32;
                Self::Need { source: u32_at(0), offset, len: u32_at(12) }
            }
            b'l' => Self::NeedLen(u32::from_le_bytes(payload.try_into().map_err(|_| bad())?)),
            b'a' => Self::Answer(payload),
            b'b' => Self::Bytes(payload),
            _ => return Err(bad()),
        }))
    }
}

fn bad() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame that has no meaning")
}

/// Waits until `stream` can be read or written; sockets need no option for that, which a confined
/// process could not set.
fn wait(stream: &UnixStream, events: PollFlags, until: Instant) -> io::Result<()> {
    let mut fds = [PollFd::new(stream.as_fd(), events)];
    // The time counts for a stream that is always ready, too.
    if Instant::now() < until && poll_until(&mut fds, Some(until)).map_err(io::Error::other)?[0] {
        return Ok(());
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn send(stream: &UnixStream, until: Instant, tag: u8, parts: &[&[u8]]) -> io::Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if len > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame that is too long"));
    }
    let mut frame = Vec::with_capacity(5 + len);
    frame.push(tag);
    frame.extend((len as u32).to_le_bytes());
    parts.iter().for_each(|part| frame.extend(*part));
    let mut rest = &frame[..];
    while !rest.is_empty() {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match socket::send(stream.as_raw_fd(), rest, flags) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait(stream, PollFlags::POLLOUT, until)?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn receive(stream: &UnixStream, until: Instant) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    if !fill(stream, until, &mut head)? {
        return Ok(None);
    }
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if len > MAX_FRAME {
        return Err(bad());
    }
    // Not allocated before the bytes are there.
    let mut payload = Vec::new();
    while payload.len() < len {
        let start = payload.len();
        payload.resize(len.min(start + MAX_READ), 0);
        if !fill(stream, until, &mut payload[start..])? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((head[0], payload)))
}

/// Fills `buf`; returns `false` if the stream ends before its first byte.
fn fill(stream: &UnixStream, until: Instant, buf: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while done < buf.len() {
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match socket::recv(stream.as_raw_fd(), &mut buf[done..], MsgFlags::MSG_DONTWAIT) {
            Ok(0) if done == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait(stream, PollFlags::POLLIN, until)?,
            Err(Errno::ECONNRESET) if done == 0 => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

/// The JSON of `value`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a path that is not UTF-8.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| {
        Error::with_source(ErrorKind::Invalid, "cannot describe what is to be examined", e)
    })
}

/// What `json` means.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub(super) fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json)
        .map_err(|e| Error::with_source(ErrorKind::Corrupt, "an answer that makes no sense", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (a, b) = UnixStream::pair().unwrap();
        let past = Instant::now();
        assert_eq!(FromParser::receive(&a, past).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // More than fits into the socket, and nobody reads.
        let long = ToParser::Bytes(vec![0; MAX_FRAME]);
        assert_eq!(long.send(&a, past).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(b);
    }

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let (a, b) = UnixStream::pair().unwrap();
        FromParser::Need { source: 7, offset: u64::MAX - 1, len: 9 }.send(&a, soon()).unwrap();
        let Some(FromParser::Need { source: 7, offset, len: 9 }) =
            FromParser::receive(&b, soon()).unwrap()
        else {
            panic!("another frame")
        };
        assert_eq!(offset, u64::MAX - 1);
        ToParser::Len(1 << 40).send(&b, soon()).unwrap();
        assert!(
            matches!(ToParser::receive(&a, soon()).unwrap(), Some(ToParser::Len(len)) if len == 1 << 40)
        );
        drop(a);
        assert!(FromParser::receive(&b, soon()).unwrap().is_none());
    }

    #[test]
    fn frames_without_meaning_are_refused() {
        for bytes in [
            &b"x\x00\x00\x00\x00"[..],
            b"n\x01\x00\x00\x00n",
            b"l\x05\x00\x00\x00lllll",
            b"a\xff\xff\xff\xff",
            b"a\x09\x00\x00\x00null",
            b"a\x09",
        ] {
            let (a, b) = UnixStream::pair().unwrap();
            (&a).write_all(bytes).unwrap();
            drop(a);
            assert!(FromParser::receive(&b, soon()).is_err(), "{bytes:?}");
        }
        assert!(decode::<u8>(b"[[[[").is_err());
        let deep = [b'['; 100_000];
        assert!(decode::<serde_json::Value>(&deep).is_err());
    }
}
