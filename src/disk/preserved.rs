//! The blocks that a snapshot preserves while its disk is written to: copy before write.
//!
//! Images never change, so only blocks stored in the overlay are saved, and only when they are
//! about to be overwritten. A block that was never written, or is first written after the snapshot
//! was taken, needs no copy: the snapshot reads it from the base.
//!
//! Readers and writers share no lock. A unit (a block or a cluster of the overlay) is marked after
//! it is saved, a mark is never removed, and a writer changes a unit only after it is marked.
//! Therefore:
//!
//! * A reader that reads a unit from the live overlay and finds it unmarked *afterwards* has read
//!   the old content. If the unit is marked, the reader reads it again, from the saved blocks.
//! * A thread that saves a unit also reads it without a lock. If the unit is still unmarked after
//!   the thread acquires the lock, it has read the old content; otherwise another thread has saved
//!   the unit, and the bytes read are discarded.
//!
//! The lock therefore covers only writes to the side file, and a thread that holds it never waits
//! for another: reading the boot gap can lead back to this disk through the guest's files.

use super::atomic_bitmap::AtomicBitmap;
use super::extents::one_extent;
use super::overlay::{Overlay, Run};
use super::quota::is_limit;
use super::region::RegionTable;
use super::scratch::Scratch;
use super::sync::{AtomicBool, Mutex};
use crate::bytes::{Extent, ReadAt};
use crate::image::MappedSlice;
use std::io;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};

/// Maximum number of bytes saved in one step.
const STEP: u64 = 1 << 20;
/// Minimum unit size in bytes: the block size of the side file.
const UNIT_MIN: u64 = 4096;

/// Old content of the overlay that has been overwritten. Offsets and lengths in bytes.
#[derive(Debug)]
pub(super) struct PreservedBlocks {
    /// Units whose old content is saved: written units are stored in the file, zeroed units are
    /// recorded as zeros, and a unit that is not stored here shows the base.
    side: Scratch,
    marks: AtomicBitmap,
    unit: u64,
    len: u64,
    /// Held while units are added to `side`.
    saving: Mutex<()>,
    /// A unit could not be saved, so the snapshot is incomplete and every read of it fails.
    broken: AtomicBool,
    /// The regions after the boot gap, which never change.
    rest: Arc<RegionTable>,
    /// All regions, set once the gap is planned for the moment of the snapshot.
    table: OnceLock<Arc<RegionTable>>,
}

/// A piece of old content: its kind and position, and its bytes if it is [`Run::Data`].
struct Piece {
    run: Run,
    start: u64,
    end: u64,
    bytes: Vec<u8>,
}

/// The error returned by reads of a snapshot that could not be kept.
fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl PreservedBlocks {
    /// Start with nothing saved. `side` must be new and as long as the disk; `cow_granularity` is
    /// that of the overlay.
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

    /// Set the regions as of the moment of the snapshot; only the first call has an effect.
    pub(super) fn set_table(&self, table: Arc<RegionTable>) {
        let _ = self.table.set(table);
    }

    fn table(&self) -> &RegionTable {
        self.table.get().unwrap_or(&self.rest)
    }

    /// Bytes of storage used.
    pub(super) fn allocated(&self) -> u64 {
        self.side.allocated()
    }

    /// Free all space; the snapshot has ended.
    pub(super) fn clear(&self) {
        self.side.clear();
    }

    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) { Err(broken()) } else { Ok(()) }
    }

    /// Must be called before a write to `[offset, offset + len)` of `overlay`. Never fails: if the
    /// old content cannot be saved, the snapshot ends instead.
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
        // Orders the marks before the write; the counterpart is in `PreservedBlocks::read_at`.
        fence(Ordering::SeqCst);
    }

    /// Save the units from `at` up to `end` at most; returns the offset up to which it saved.
    fn save(&self, overlay: &dyn Overlay, at: u64, end: u64) -> io::Result<u64> {
        let (next, pieces) = match self.collect(overlay, at, end) {
            Ok(found) => found,
            // A unit that another thread has saved in the meantime may be changing.
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

    /// The content from `at`, at least one unit, and its end.
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

    /// End the snapshot. Its space is free when this returns, even if another thread ended it
    /// first.
    pub(super) fn give_up(&self, why: &io::Error) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            tracing::warn!("a snapshot of the disk ends early, because it cannot be kept: {why}");
        }
        let _saving = self.saving.lock();
        self.side.clear();
    }

    /// Fill `buf` from `offset` with the bytes as of the snapshot.
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
                // Orders the read before the check of the marks; the counterpart is in
                // `PreservedBlocks::protect`.
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

    /// The range as mapped memory, if it lies in one image and was never written.
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

    /// Whether data was stored at `at` (within the disk), and up to where one lookup shows this.
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

    /// Report errors of a side file that was given up as those of a broken snapshot.
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

/// Apply `change` to a range of `overlay`, after saving its old content if a snapshot needs it. If
/// there is no space to save it, the snapshot ends and the write still succeeds.
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
    // Ending the snapshot would not help against a limit of the overlay itself.
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) && !is_limit(e)
}
