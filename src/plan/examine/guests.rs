//! The examining side's view of a guest: partitions whose bytes the planner provides, each with its
//! filesystem opened at most once.

use super::question::{MAX_SOURCES, SourceId};
use super::wire::{FromParser, MAX_READ, ToParser};
use crate::bytes::ReadAt;
use crate::fs::open::open_fs;
use crate::fs::{Budget, GuestFs};
use crate::{Error, ErrorKind, Result};
use lru::LruCache;
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes that are requested at least. Larger pieces take fewer requests, but a write to any byte of
/// a piece makes a plan stale.
const PIECE: u64 = 32 << 10;
/// Pieces that are requested in addition when reads follow one another, at most.
const AHEAD: u64 = 8;
/// Pieces that are kept: 16 MiB.
const KEPT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Pieces by partition and number.
type Pieces = LruCache<(SourceId, u64), Rc<[u8]>>;

/// How long the planner may take to provide bytes. It gives up earlier.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The connection to the planner, and what was read through it.
struct Link {
    stream: Rc<UnixStream>,
    pieces: RefCell<Pieces>,
    latest: Cell<Latest>,
}

/// The read before this one.
#[derive(Clone, Copy, Default)]
struct Latest {
    source: SourceId,
    /// The byte after it.
    end: u64,
    /// How many pieces it would have read ahead.
    ahead: u64,
}

impl Link {
    fn request(&self, frame: &FromParser) -> io::Result<ToParser> {
        let until = Instant::now() + PATIENCE;
        frame.send(&self.stream, until)?;
        ToParser::receive(&self.stream, until)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn fetch(&self, source: SourceId, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        match self.request(&FromParser::Need { source, offset, len: len as u32 })? {
            ToParser::Bytes(bytes) if bytes.len() as u64 == len => Ok(bytes),
            ToParser::Failed(why) => Err(io::Error::other(why)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Pieces to read ahead with a read of `len` bytes: more and more while reads follow one
    /// another.
    fn ahead(&self, source: SourceId, offset: u64, len: u64) -> u64 {
        let latest = self.latest.get();
        let follows = (latest.source, latest.end) == (source, offset);
        let ahead = if follows { (2 * latest.ahead).clamp(1, AHEAD) } else { 0 };
        self.latest.set(Latest { source, end: offset + len, ahead });
        ahead
    }

    /// Makes sure that the pieces with `len` bytes at `offset` are kept: what is missing is one
    /// request. `len` is at least 1, and all of it is within `source_len`.
    fn load(&self, source: SourceId, offset: u64, len: u64, source_len: u64) -> io::Result<()> {
        let ahead = self.ahead(source, offset, len);
        let mut wanted = offset / PIECE..(offset + len).div_ceil(PIECE);
        {
            let pieces = self.pieces.borrow();
            let is_kept = |number: u64| pieces.contains(&(source, number));
            let Some(first) = wanted.clone().find(|number| !is_kept(*number)) else {
                return Ok(());
            };
            wanted.start = first;
            if !is_kept(wanted.end - 1) {
                wanted.end += ahead;
            }
        }
        let start = wanted.start * PIECE;
        let end = (wanted.end * PIECE).min(source_len);
        let bytes = self.fetch(source, start, end - start)?;
        let mut pieces = self.pieces.borrow_mut();
        for (number, piece) in wanted.zip(bytes.chunks(PIECE as usize)) {
            pieces.put((source, number), piece.into());
        }
        Ok(())
    }

    /// Copies bytes of a piece that is kept, and returns how many.
    fn copy(&self, source: SourceId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut pieces = self.pieces.borrow_mut();
        let piece = pieces.get(&(source, offset / PIECE)).map_or(&[][..], |piece| piece);
        let rest = piece.get((offset % PIECE) as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// A partition, or a file of the host.
#[derive(Clone)]
pub(in crate::plan) struct Remote {
    link: Rc<Link>,
    source: SourceId,
    len: u64,
}

impl ReadAt for Remote {
    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let within = offset % PIECE;
            if within == 0 && buf.len() as u64 >= 2 * PIECE {
                // Not kept: this is a file's content.
                let (now, rest) = buf.split_at_mut(buf.len().min(MAX_READ));
                now.copy_from_slice(&self.link.fetch(self.source, offset, now.len() as u64)?);
                (buf, offset) = (rest, offset + now.len() as u64);
                continue;
            }
            let len = buf.len().min((AHEAD * PIECE - within) as usize);
            self.link.load(self.source, offset, len as u64, self.len)?;
            let (mut now, rest) = buf.split_at_mut(len);
            while !now.is_empty() {
                let n = self.link.copy(self.source, offset, now)?;
                (now, offset) = (&mut now[n..], offset + n as u64);
            }
            buf = rest;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// Room for what [`Guests`] opens.
#[derive(Default)]
pub(super) struct Slot {
    bytes: OnceCell<Remote>,
    fs: OnceCell<Result<Box<dyn GuestFs>>>,
}

/// Room for all sources of a plan.
pub(super) fn slots() -> Vec<Slot> {
    (0..MAX_SOURCES).map(|_| Slot::default()).collect()
}

/// The partitions of a guest, read within one budget.
pub(in crate::plan) struct Guests<'a> {
    link: Rc<Link>,
    slots: &'a [Slot],
    budget: Budget,
    /// The partition that was looked into last.
    latest: Cell<SourceId>,
}

impl<'a> Guests<'a> {
    pub(super) fn new(stream: Rc<UnixStream>, slots: &'a [Slot]) -> Self {
        let pieces = RefCell::new(LruCache::new(KEPT));
        Self {
            link: Rc::new(Link { stream, pieces, latest: Cell::default() }),
            slots,
            budget: Budget::new(),
            latest: Cell::new(0),
        }
    }

    /// What looking into the guest is charged to.
    pub(in crate::plan) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The partition whose filesystem was used last.
    pub(super) fn latest(&self) -> SourceId {
        self.latest.get()
    }

    /// The bytes of a partition.
    ///
    /// # Errors
    /// When the planner does not provide them.
    pub(in crate::plan) fn bytes(&self, source: SourceId) -> Result<&'a Remote> {
        let slot = self.slot(source)?;
        if let Some(bytes) = slot.bytes.get() {
            return Ok(bytes);
        }
        let failed = |e| Error::io("cannot read the guest's partition", e);
        let len = match self.link.request(&FromParser::NeedLen(source)).map_err(failed)? {
            ToParser::Len(len) => len,
            _ => return Err(failed(io::ErrorKind::InvalidData.into())),
        };
        Ok(slot.bytes.get_or_init(|| Remote { link: Rc::clone(&self.link), source, len }))
    }

    /// The filesystem in a partition.
    ///
    /// # Errors
    /// Those of opening it.
    pub(in crate::plan) fn fs(&self, source: SourceId) -> Result<&'a dyn GuestFs> {
        let slot = self.slot(source)?;
        self.latest.set(source);
        let open = || open_fs(self.bytes(source)?.clone(), &self.budget);
        match slot.fs.get_or_init(open) {
            Ok(fs) => Ok(&**fs),
            Err(e) => Err(Error::new(e.kind(), e.to_string())),
        }
    }

    fn slot(&self, source: SourceId) -> Result<&'a Slot> {
        let unknown = || Error::new(ErrorKind::Invalid, "an unknown partition");
        self.slots.get(source as usize).ok_or_else(unknown)
    }
}
