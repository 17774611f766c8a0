//! A remote image, as the process that reads it sees it.

use super::chunk::{CHUNK, MOST_AT_ONCE, count, range};
use super::deadline::{Deadline, READ_TIME};
use super::wire::{Reply, Request};
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Errors are logged no more often than this.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A remote image. Offsets and lengths in bytes. Dropping it ends its fetcher.
pub struct RemoteFile {
    name: String,
    len: u64,
    version: Option<String>,
    note: Option<String>,
    /// The cache's file with the chunks that were fetched, each at its place.
    data: Option<File>,
    /// Whether that file may be mapped.
    mappable: bool,
    /// A bit for each chunk: it is in `data`, and was checked.
    here: Vec<AtomicU64>,
    sockets: Mutex<Sockets>,
    returned: Condvar,
    logged: Mutex<Option<Instant>>,
    /// Held open: the fetcher ends when it is closed.
    _control: UnixStream,
}

/// Sockets to the fetcher.
struct Sockets {
    free: Vec<UnixStream>,
    /// All that work, those in use included.
    working: usize,
}

/// What a [`RemoteFile`] is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) version: Option<String>,
    pub(super) note: Option<String>,
    pub(super) data: Option<File>,
    pub(super) sockets: Vec<UnixStream>,
    pub(super) control: UnixStream,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl RemoteFile {
    pub(super) fn new(parts: Parts) -> Self {
        let words = count(parts.len).div_ceil(64);
        let working = parts.sockets.len();
        Self {
            name: parts.name,
            len: parts.len,
            version: parts.version,
            note: parts.note,
            mappable: parts.data.as_ref().is_some_and(is_mappable),
            data: parts.data,
            here: (0..words).map(|_| AtomicU64::new(0)).collect(),
            sockets: Mutex::new(Sockets { free: parts.sockets, working }),
            returned: Condvar::new(),
            logged: Mutex::default(),
            _control: parts.control,
        }
    }

    /// Its URL, without secrets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What distinguishes its content from a later one at the same URL, if its server says.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What the user should know about where its bytes come from.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The file that has the bytes of a range at the same offsets, if all of them were fetched and
    /// checked.
    pub fn file_with(&self, offset: u64, len: u64) -> Option<&File> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len)?;
        let all = len > 0 && (offset / CHUNK..end.div_ceil(CHUNK)).all(|n| self.is_here(n));
        self.data.as_ref().filter(|_| all)
    }

    /// The file whose parts [`RemoteFile::file_with`] returns, if it can be mapped.
    pub fn mappable(&self) -> Option<&File> {
        self.data.as_ref().filter(|_| self.mappable)
    }

    /// Fill `buf` from `offset`. May take up to 20 seconds.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end; why the bytes could not be fetched.
    pub fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let deadline = Deadline::within(READ_TIME);
        while !buf.is_empty() {
            let number = offset / CHUNK;
            let (start, len) = range(number, 1, self.len);
            let n = (start + len - offset).min(buf.len() as u64) as usize;
            if self.is_here(number) {
                let data = self.data.as_ref().ok_or(io::ErrorKind::InvalidData)?;
                data.read_exact_at(&mut buf[..n], offset)?;
            } else {
                let wanted = (end.div_ceil(CHUNK) - number).min(MOST_AT_ONCE.into()) as u32;
                match self.request(number, wanted, &deadline)? {
                    Reply::Stored(got) if got > 0 && got <= wanted && self.data.is_some() => {
                        (number..number + u64::from(got)).for_each(|n| self.mark(n));
                        continue;
                    }
                    Reply::Bytes(bytes) if bytes.len() as u64 == len => {
                        let at = (offset - start) as usize;
                        buf[..n].copy_from_slice(&bytes[at..at + n]);
                    }
                    Reply::Failed(failure) => {
                        return Err(self.failed(io::Error::other(failure.to_string())));
                    }
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            buf = &mut buf[n..];
            offset += n as u64;
        }
        Ok(())
    }

    fn is_here(&self, number: u64) -> bool {
        let word = self.here.get((number / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (number % 64) & 1 != 0)
    }

    fn mark(&self, number: u64) {
        if let Some(word) = self.here.get((number / 64) as usize) {
            word.fetch_or(1 << (number % 64), Ordering::Release);
        }
    }

    /// Ask the fetcher for chunk `first` and perhaps those after it, `count` in all.
    fn request(&self, first: u64, count: u32, deadline: &Deadline) -> io::Result<Reply> {
        let mut socket = self.take_socket(deadline)?;
        let left = deadline.left().unwrap_or_default().as_millis();
        let request = Request { first, count, millis: u32::try_from(left).unwrap_or(u32::MAX) };
        let reply = request.send(&mut socket).and_then(|()| Reply::receive(&mut socket));
        let mut sockets = self.sockets.lock();
        match reply {
            Ok(_) => sockets.free.push(socket),
            Err(_) => sockets.working -= 1,
        }
        self.returned.notify_one();
        drop(sockets);
        reply.map_err(|_| self.failed(ended()))
    }

    fn take_socket(&self, deadline: &Deadline) -> io::Result<UnixStream> {
        let mut sockets = self.sockets.lock();
        loop {
            if let Some(socket) = sockets.free.pop() {
                return Ok(socket);
            }
            if sockets.working == 0 {
                drop(sockets);
                self.returned.notify_all();
                return Err(self.failed(ended()));
            }
            let Some(left) = deadline.left() else { return Err(io::ErrorKind::TimedOut.into()) };
            self.returned.wait_for(&mut sockets, left);
        }
    }

    /// Log `e`, unless an error was logged just now.
    fn failed(&self, e: io::Error) -> io::Error {
        let mut logged = self.logged.lock();
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::error!("{} cannot be read: {e}", self.name);
        }
        e
    }
}

/// Whether `file` can be mapped. In a filesystem in memory, a page of a hole takes space when it is read
/// through a mapping, and fails when there is none.
fn is_mappable(file: &File) -> bool {
    // TMPFS_MAGIC, see statfs(2).
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type != 0x0102_1994)
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the process that fetches it has ended")
}
