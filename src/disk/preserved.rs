//! The blocks that a snapshot preserves while its disk is written: copy before write.
//!
//! Images never change, so only blocks that the overlay holds are saved, and only when they are
//! about to be overwritten. A block that was never written, or is written for the first time after
//! the snapshot was taken, costs no copy: the snapshot reads the base in its place.
//!
//! Readers and writers share no lock. A unit (a block or a cluster of the overlay) is marked once it
//! is saved, a mark is never taken back, and a writer changes a unit only after it is marked. So:
//!
//! * A reader that reads a unit from the live overlay and finds it unmarked *afterwards* has read
//!   the old content; if it finds the unit marked, it reads again, from the saved blocks.
//! * A thread that saves a unit reads it without a lock, too. If the unit is still unmarked once the
//!   lock is held, the old content was read; otherwise another thread has saved the unit, and what
//!   was read is discarded.
//!
//! The lock therefore covers only writes to the side file, and a thread that holds it waits for no
//! other: reading the boot gap can lead back to this disk through the guest's files.

use super::atomic_bitmap::AtomicBitmap;
use super::extents::one_extent;
use super::overlay::{Overlay, Run};
use super::region::RegionTable;
use super::scratch::Scratch;
use crate::bytes::{Extent, ReadAt};
use crate::image::MappedSlice;
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

/// Bytes that are saved in one step at most.
const STEP: u64 = 1 << 20;
/// Units are no smaller than this, the block of the side file. Bytes.
const UNIT_MIN: u64 = 4096;

/// The overlay's old content, as far as it was overwritten. Offsets and lengths in bytes.
#[derive(Debug)]
pub(super) struct PreservedBlocks {
    /// Units whose old content is here: written ones in the file, zeroed ones as such, and the
    /// base's bytes where it holds nothing.
    side: Scratch,
    marks: AtomicBitmap,
    unit: u64,
    len: u64,
    /// Held while something is added to `side`.
    saving: Mutex<()>,
    /// A unit could not be saved, so the snapshot is incomplete and every read of it fails.
    broken: AtomicBool,
    /// The regions after the boot gap, which never change.
    rest: Arc<RegionTable>,
    /// All of them, once the gap is planned for that moment.
    table: OnceLock<Arc<RegionTable>>,
}

/// A piece of old content: what it is, where, and its bytes if it is [`Run::Data`].
struct Piece {
    run: Run,
    start: u64,
    end: u64,
    bytes: Vec<u8>,
}

/// Why a snapshot that could not be kept gives no bytes.
fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl PreservedBlocks {
    /// Nothing saved yet. `side` must be new and as long as the disk; `cow_granularity` is the overlay's.
    pub(super) fn new(side: Scratch, cow_granularity: u64, table: Arc<RegionTable>) -> Self {
        let (unit, len) = (cow_granularity.max(UNIT_MIN), table.len());
        Self {
            side,
            marks: AtomicBitmap::new(unit, len),
            unit,
            len,
            saving: Mutex::new(()),
            broken: AtomicBool::new(false),
            rest: table,
            table: OnceLock::new(),
        }
    }

    /// Take the regions that hold for this moment; once.
    pub(super) fn set_table(&self, table: Arc<RegionTable>) {
        let _ = self.table.set(table);
    }

    fn table(&self) -> &RegionTable {
        self.table.get().unwrap_or(&self.rest)
    }

    /// Bytes of storage that it takes up.
    pub(super) fn allocated(&self) -> u64 {
        self.side.allocated()
    }

    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) { Err(broken()) } else { Ok(()) }
    }

    /// To be called before a write to `[offset, offset + len)` of `overlay`. Never fails: if the
    /// old content cannot be saved, it is the snapshot that ends.
    pub(super) fn protect(&self, overlay: &dyn Overlay, offset: u64, len: u64) {
        if len == 0 || self.check().is_err() {
            return;
        }
        let end = (offset + len).next_multiple_of(self.unit).min(self.len);
        let mut at = offset - offset % self.unit;
        while at < end {
            at = self.marks.first(false, at, end);
            if at < end {
                match self.save(overlay, at, self.marks.first(true, at, end)) {
                    Ok(next) => at = next,
                    Err(e) => {
                        self.give_up(&e);
                        break;
                    }
                }
            }
        }
        // The marks before the write; see `PreservedBlocks::read_at` for the other half.
        fence(Ordering::SeqCst);
    }

    /// Save the units from `at` on, up to `end` at most; returns how far it came.
    fn save(&self, overlay: &dyn Overlay, at: u64, end: u64) -> io::Result<u64> {
        let (next, pieces) = match self.collect(overlay, at, end) {
            Ok(found) => found,
            // A unit that another thread has saved meanwhile may be changing.
            Err(_) if self.marks.first(true, at, end) < end => return Ok(at),
            Err(e) => return Err(e),
        };
        let _saving = self.saving.lock();
        self.check()?;
        let mut from = at;
        while from < next {
            from = self.marks.first(false, from, next);
            let to = self.marks.first(true, from, next);
            for piece in &pieces {
                let (start, stop) = (piece.start.max(from), piece.end.min(to));
                if start < stop {
                    self.keep(piece, start, stop)?;
                }
            }
            self.marks.add(from, to);
            from = to;
        }
        Ok(next)
    }

    fn keep(&self, piece: &Piece, start: u64, stop: u64) -> io::Result<()> {
        let table = self.table();
        match piece.run {
            Run::Base => Ok(()),
            Run::Zero => self.side.zero(table, start, stop - start),
            Run::Data => {
                let at = |n: u64| (n - piece.start) as usize;
                self.side.write_at(table, &piece.bytes[at(start)..at(stop)], start)
            }
        }
    }

    /// The content from `at` on, a unit at least, and where it ends.
    fn collect(&self, overlay: &dyn Overlay, at: u64, end: u64) -> io::Result<(u64, Vec<Piece>)> {
        let (run, n) = overlay.run_at(at, end - at)?;
        let most = if run == Run::Data { n.min(STEP) } else { n };
        let next = (at + (most - most % self.unit).max(self.unit)).min(end);
        let mut pieces = Vec::new();
        let mut start = at;
        while start < next {
            let (run, n) = overlay.run_at(start, next - start)?;
            let end = (start + n.max(1)).min(next);
            let mut bytes = Vec::new();
            if run == Run::Data {
                bytes.resize((end - start) as usize, 0);
                overlay.read_at(self.table(), &mut bytes, start)?;
            }
            pieces.push(Piece { run, start, end, bytes });
            start = end;
        }
        Ok((next, pieces))
    }

    /// End the snapshot; its space is given back when this returns, whoever has ended it first.
    pub(super) fn give_up(&self, why: &io::Error) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            tracing::warn!("a snapshot of the disk ends early, because it cannot be kept: {why}");
        }
        let _saving = self.saving.lock();
        self.side.clear();
    }

    /// Fill `buf` from `offset`, as it was.
    pub(super) fn read_at(
        &self,
        overlay: Option<&dyn Overlay>,
        mut buf: &mut [u8],
        mut offset: u64,
    ) -> io::Result<()> {
        let table = self.table();
        let end = offset + buf.len() as u64;
        while offset < end {
            let saved = self.marks.has(offset);
            let stop = self.marks.first(!saved, offset, end);
            let part = &mut buf[..(stop - offset) as usize];
            let true_to = if saved {
                self.side.read_at(table, part, offset).map_err(|e| self.explain(e))?;
                stop
            } else {
                let read = live_read(overlay, table, part, offset);
                // The bytes before the marks; see `PreservedBlocks::protect`.
                fence(Ordering::SeqCst);
                let true_to = self.marks.first(true, offset, stop);
                if true_to > offset {
                    read?;
                }
                true_to
            };
            buf = &mut buf[(true_to - offset) as usize..];
            offset = true_to;
        }
        self.check()
    }

    /// The range as mapped memory, when an image shows all of it and it was never written.
    pub(super) fn map(
        &self,
        overlay: Option<&dyn Overlay>,
        offset: u64,
        len: usize,
    ) -> io::Result<Option<MappedSlice>> {
        let n = len as u64;
        let in_base = match overlay {
            _ if len == 0 => true,
            Some(overlay) => overlay.run_at(offset, n)? == (Run::Base, n),
            None => true,
        };
        fence(Ordering::SeqCst);
        let unmarked = self.marks.first(true, offset, offset + n) == offset + n;
        self.check()?;
        Ok(if in_base && unmarked { self.table().map(offset, len) } else { None })
    }

    /// Whether data was stored at `at` (within the disk), and up to where that is known in one look.
    pub(super) fn extent_at(&self, overlay: Option<&dyn Overlay>, at: u64) -> io::Result<Extent> {
        let extent = loop {
            if self.marks.has(at) {
                let found = one_extent(Some(&self.side), self.table(), at, self.len)?;
                let end = self.marks.first(false, at, found.end);
                break Extent { data: found.data, end };
            }
            let found = one_extent(overlay, self.table(), at, self.len);
            fence(Ordering::SeqCst);
            if !self.marks.has(at) {
                let found = found?;
                let end = self.marks.first(true, at, found.end);
                break Extent { data: found.data, end };
            }
        };
        self.check()?;
        Ok(extent)
    }

    /// Errors of a side file that was given up are those of a broken snapshot.
    fn explain(&self, e: io::Error) -> io::Error {
        self.check().err().unwrap_or(e)
    }
}

fn live_read(
    overlay: Option<&dyn Overlay>,
    table: &RegionTable,
    buf: &mut [u8],
    offset: u64,
) -> io::Result<()> {
    match overlay {
        Some(overlay) => overlay.read_at(table, buf, offset),
        None => table.read_at(buf, offset),
    }
}

/// Apply `change` to a range of `overlay` after its old content was saved, if a snapshot needs it.
/// A snapshot for which there is no room ends; the write succeeds all the same.
pub(super) fn preserving(
    saved: Option<&PreservedBlocks>,
    overlay: &dyn Overlay,
    (offset, len): (u64, u64),
    change: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    let Some(saved) = saved else { return change() };
    saved.protect(overlay, offset, len);
    match change() {
        Err(e) if is_full(&e) => {
            saved.give_up(&e);
            change()
        }
        result => result,
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
