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

/// Bytes that are requested at once. Larger pieces take fewer requests, but a write to any byte of
/// a piece makes a plan stale.
const PIECE: u64 = 32 << 10;
/// Pieces that are requested at once when a file is read from start to end.
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

    fn piece(&self, source: SourceId, number: u64, source_len: u64) -> io::Result<Rc<[u8]>> {
        if let Some(piece) = self.pieces.borrow_mut().get(&(source, number)) {
            return Ok(Rc::clone(piece));
        }
        // Who has read the piece before this one reads a file from start to end.
        let ahead = number > 0 && self.pieces.borrow().contains(&(source, number - 1));
        let most = if ahead { AHEAD } else { 1 } * PIECE;
        let start = number * PIECE;
        let bytes = self.fetch(source, start, most.min(source_len.saturating_sub(start)))?;
        let mut pieces = self.pieces.borrow_mut();
        for (number, piece) in (number..).zip(bytes.chunks(PIECE as usize)) {
            pieces.put((source, number), piece.into());
        }
        let first = pieces.get(&(source, number)).map(Rc::clone);
        first.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
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
            let within = (offset % PIECE) as usize;
            let n = if within == 0 && buf.len() as u64 >= 2 * PIECE {
                // Not kept: this is a file's content.
                let n = buf.len().min(MAX_READ);
                buf[..n].copy_from_slice(&self.link.fetch(self.source, offset, n as u64)?);
                n
            } else {
                let piece = self.link.piece(self.source, offset / PIECE, self.len)?;
                let n = piece.len().saturating_sub(within).min(buf.len());
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buf[..n].copy_from_slice(&piece[within..within + n]);
                n
            };
            buf = &mut buf[n..];
            offset += n as u64;
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
            link: Rc::new(Link { stream, pieces }),
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
