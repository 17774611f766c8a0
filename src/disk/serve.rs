//! The disk that exports serve: regions, an overlay on top of them, and a boot gap that follows
//! changes to the guest's kernel.

use super::extents::{joined_extents, one_extent};
use super::overlay::{Overlay, Run};
use super::preserved::{PreservedBlocks, preserving};
use super::read_set::ReadSet;
use super::region::{Region, RegionTable, Source};
use super::replanning::{BootPlanner, Replanning};
use super::sync::{RwLock, RwLockWriteGuard};
use crate::Result;
use crate::bytes::{Extent, Extents, ReadAt, SharedBytes};
use crate::image::{Image, MappedSlice};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Bytes of the disk, in the form that an export can forward most cheaply.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// Mapped memory of an image.
    Mapped(MappedSlice),
    /// The caller's buffer, filled with the bytes.
    Buffer(&'a [u8]),
}

/// Where a run of bytes of the disk is stored.
#[derive(Debug)]
pub enum Stored<'a> {
    /// Not stored: zeros.
    Zeros,
    /// In a file of the overlay, starting at this offset.
    Overlay(&'a File, u64),
    /// In an image, starting at this offset; parts of it may be holes.
    Image(Arc<dyn Image>, u64),
    /// In memory, or in pieces that can only be found by reading.
    Generated,
}

/// A whole disk. Offsets and lengths in bytes. It may be shared between threads.
pub struct Disk {
    table: RwLock<Arc<RegionTable>>,
    overlay: Option<Box<dyn Overlay>>,
    len: u64,
    /// Ranges that refuse writes: partitions that are read-only for the guest.
    read_only: Vec<Range<u64>>,
    /// Whether these ranges accept writes, because the guest is being edited.
    unlocked: AtomicBool,
    replanning: OnceLock<Replanning>,
    /// The blocks preserved for a snapshot, if there is one. Every write holds this lock shared
    /// until it completes, so holding it exclusively means no write is in flight.
    saved: RwLock<Option<Arc<PreservedBlocks>>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("len", &self.len).field("overlay", &self.overlay).finish()
    }
}

/// While it exists, no range of a disk is read-only. See [`Disk::unlock`].
#[derive(Debug)]
pub struct Unlocked<'a>(&'a Disk);

impl Drop for Unlocked<'_> {
    fn drop(&mut self) {
        self.0.unlocked.store(false, Ordering::SeqCst);
    }
}

impl Disk {
    /// A disk of the regions in `table` with `overlay` on top; read-only without an overlay.
    pub fn new(table: RegionTable, overlay: Option<Box<dyn Overlay>>) -> Self {
        let len = table.len();
        Self {
            table: RwLock::new(Arc::new(table)),
            overlay,
            len,
            read_only: Vec::new(),
            unlocked: AtomicBool::new(false),
            replanning: OnceLock::new(),
            saved: RwLock::new(None),
        }
    }

    /// The same disk, with writes to `ranges` (in bytes) refused.
    pub fn with_read_only(mut self, ranges: Vec<Range<u64>>) -> Self {
        self.read_only = ranges;
        self
    }

    /// Lets all ranges be written while the result exists: for our own edits, before the guest or anybody
    /// else sees the disk.
    pub fn unlock(&self) -> Unlocked<'_> {
        self.unlocked.store(true, Ordering::SeqCst);
        Unlocked(self)
    }

    /// Whether a write to any of these bytes is refused.
    fn refuses(&self, bytes: Range<u64>) -> bool {
        let meets = |r: &Range<u64>| bytes.start < r.end && r.start < bytes.end;
        self.read_only.iter().any(meets) && !self.unlocked.load(Ordering::Relaxed)
    }

    /// Make `planner` plan the boot gap again whenever it is read after a write to something that
    /// it was planned from: `reads`, for what the disk shows now. Plans differ only in the bytes
    /// `planned`. Only the first call has an effect.
    pub fn set_planner(
        &self,
        planner: Box<dyn BootPlanner>,
        planned: Range<u64>,
        reads: Arc<ReadSet>,
    ) {
        let _ = self.replanning.set(Replanning::new(planner, planned, reads, self.len));
    }

    /// Plan the gap now, whether or not anything was written.
    pub fn plan_gap(&self) {
        if let Some(r) = self.replanning.get() {
            r.plan_now(|gap| self.show_gap(gap));
        }
    }

    /// Whether all writes are refused.
    pub fn is_read_only(&self) -> bool {
        let whole = |r: &Range<u64>| *r == (0..self.len);
        let is_locked = || !self.unlocked.load(Ordering::Relaxed);
        self.overlay.is_none() || (self.read_only.iter().any(whole) && is_locked())
    }

    /// The current region table.
    pub fn table(&self) -> Arc<RegionTable> {
        Arc::clone(&self.table.read())
    }

    /// The regions as a reader would see them now: the gap is planned again first if it is stale.
    pub fn current_table(&self) -> Arc<RegionTable> {
        self.refresh_gap(0, self.len);
        self.table()
    }

    /// Bytes of storage that the overlay uses.
    pub fn overlay_allocated(&self) -> u64 {
        self.overlay.as_ref().map_or(0, |o| o.allocated())
    }

    /// From now on, let the overlay occupy at most `limit` bytes of storage.
    pub fn set_overlay_limit(&self, limit: u64) {
        if let Some(overlay) = &self.overlay {
            overlay.set_limit(limit);
        }
    }

    /// The limit of the overlay's storage in bytes, if there is one.
    pub fn overlay_limit(&self) -> Option<u64> {
        self.overlay.as_ref()?.limit()
    }

    /// About how many of the `len` bytes at `offset` are stored rather than holes; never too low.
    /// Does not search for holes.
    pub fn allocated_within(&self, offset: u64, len: u64) -> u64 {
        let base = self.table().allocated_within(offset, len);
        base.saturating_add(self.overlay_allocated()).min(len)
    }

    /// The bytes at `offset`, at most up to the end of the disk. If they cannot be borrowed in
    /// place, they are read into `scratch`, which grows as needed.
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn read<'a>(
        &self,
        offset: u64,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<Chunk<'a>> {
        let len = self.clip(offset, len);
        self.refresh_gap(offset, len as u64);
        let table = self.table();
        let untouched = match &self.overlay {
            None => true,
            Some(overlay) => {
                len > 0 && overlay.run_at(offset, len as u64)? == (Run::Base, len as u64)
            }
        };
        if untouched {
            if let Some(slice) = table.map(offset, len) {
                return Ok(Chunk::Mapped(slice));
            }
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let buf = &mut scratch[..len];
        match &self.overlay {
            Some(overlay) if !untouched => overlay.read_at(&*table, buf, offset)?,
            _ => table.read_at(buf, offset)?,
        }
        Ok(Chunk::Buffer(buf))
    }

    /// Write `buf` at `offset`.
    ///
    /// # Errors
    /// `EROFS` on a read-only disk or partition, `ENOSPC` past its end; errors of the overlay.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let overlay = self.writable(offset, buf.len() as u64)?;
        let saved = self.saved.read();
        self.refresh_around(overlay, offset, buf.len() as u64);
        let table = self.table();
        let write = || overlay.write_at(&*table, buf, offset);
        let result = preserving(saved.as_deref(), overlay, (offset, buf.len() as u64), write);
        self.written(offset, buf.len() as u64);
        result
    }

    /// Make the range read as zeros and free its overlay space (discard, punch hole, write zeroes).
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let overlay = self.writable(offset, len)?;
        let saved = self.saved.read();
        self.refresh_around(overlay, offset, len);
        let table = self.table();
        let zero = || if len > 0 { overlay.zero(&*table, offset, len) } else { Ok(()) };
        let result = preserving(saved.as_deref(), overlay, (offset, len), zero);
        self.written(offset, len);
        result
    }

    /// Bring all acknowledged writes to stable storage.
    ///
    /// # Errors
    /// Errors of the overlay.
    pub fn flush(&self) -> io::Result<()> {
        self.overlay.as_ref().map_or(Ok(()), |o| o.sync())
    }

    /// Bring all acknowledged writes to stable storage, and end the use of the overlay. Nothing is
    /// written after this.
    ///
    /// # Errors
    /// Errors of the overlay.
    pub fn close(&self) -> io::Result<()> {
        self.overlay.as_ref().map_or(Ok(()), |o| o.close())
    }

    /// Where the bytes at `offset`, which must be on the disk, are stored, and the end of the range
    /// for which that is known. Valid until the next write.
    ///
    /// # Errors
    /// Errors of the overlay.
    pub fn stored_at(&self, offset: u64) -> io::Result<(Stored<'_>, u64)> {
        self.refresh_gap(offset, self.len);
        let left = self.len.saturating_sub(offset);
        let (run, n) = match &self.overlay {
            Some(overlay) => overlay.run_at(offset, left)?,
            None => (Run::Base, left),
        };
        Ok(match (run, &self.overlay) {
            (Run::Zero, _) => (Stored::Zeros, offset + n),
            (Run::Data, Some(overlay)) => match overlay.place_at(offset, n)? {
                Some((file, place, n)) => (Stored::Overlay(file, place), offset + n),
                None => (Stored::Generated, offset + n),
            },
            (Run::Base | Run::Data, _) => {
                let table = self.table();
                let Some(region) = table.region_at(offset) else {
                    return Ok((Stored::Zeros, offset + n));
                };
                let stored = match &region.source {
                    Source::Zeros => Stored::Zeros,
                    Source::Bytes(_) | Source::File(_) => Stored::Generated,
                    Source::Image { image, offset: base } => {
                        Stored::Image(Arc::clone(image), base + (offset - region.start))
                    }
                };
                (stored, region.end().min(offset + n))
            }
        })
    }

    /// As [`Extents::extent_at`], without looking further than `end`.
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn extent_within(&self, offset: u64, end: u64) -> io::Result<Extent> {
        self.refresh_gap(offset, end.saturating_sub(offset));
        let table = self.table();
        let overlay = self.overlay();
        let end = end.min(self.len);
        joined_extents(end, offset, |at| one_extent(overlay, &table, at, end))
    }

    pub(super) fn overlay(&self) -> Option<&dyn Overlay> {
        self.overlay.as_deref()
    }

    /// Wait for writes in flight and block new ones; through the guard, the caller sets what is
    /// preserved next.
    pub(super) fn hold_writers(&self) -> RwLockWriteGuard<'_, Option<Arc<PreservedBlocks>>> {
        self.saved.write()
    }

    /// The regions, with the gap planned for what `frozen` shows; `None` when the gap does not
    /// depend on the disk's bytes.
    pub(super) fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Option<Result<RegionTable>> {
        let r = self.replanning.get()?;
        Some(self.with_gap(r.plan_frozen(frozen)))
    }

    pub(super) fn clip(&self, offset: u64, len: usize) -> usize {
        self.len.saturating_sub(offset).min(len as u64) as usize
    }

    fn writable(&self, offset: u64, len: u64) -> io::Result<&dyn Overlay> {
        let overlay =
            self.overlay.as_deref().ok_or_else(|| io::Error::from_raw_os_error(libc::EROFS))?;
        match offset.checked_add(len) {
            Some(end) if self.refuses(offset..end) => {
                Err(io::Error::from_raw_os_error(libc::EROFS))
            }
            Some(end) if end <= self.len => Ok(overlay),
            _ => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    /// Record that the data that the gap was planned from may have changed.
    fn written(&self, offset: u64, len: u64) {
        if let Some(r) = self.replanning.get() {
            r.written(offset, len);
        }
    }

    /// The bytes derived from the guest's files, if there are any: every write to other bytes may
    /// make copies of these stale.
    pub fn planned(&self) -> Option<Range<u64>> {
        self.replanning.get().map(|r| r.planned().clone())
    }

    /// Whether the gap shows only for some seconds what it shows now, even if nothing is written.
    pub fn is_gap_provisional(&self) -> bool {
        self.replanning.get().is_some_and(Replanning::is_provisional)
    }

    /// Plan the gap again if some of `len` bytes at `offset` depend on it, and something that it
    /// was planned from was written.
    fn refresh_gap(&self, offset: u64, len: u64) {
        if let Some(r) = self.replanning.get() {
            let range = offset..offset.saturating_add(len);
            r.refresh(&range, |gap| self.show_gap(gap));
        }
    }

    /// As [`Self::refresh_gap`], before a write: blocks of the overlay that are written in part take
    /// the rest of their bytes from the current gap.
    fn refresh_around(&self, overlay: &dyn Overlay, offset: u64, len: u64) {
        let unit = overlay.cow_granularity().max(1);
        let start = offset - offset % unit;
        let end = offset.saturating_add(len).checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        self.refresh_gap(start, end - start);
    }

    fn show_gap(&self, gap: Vec<Region>) {
        match self.with_gap(gap) {
            Ok(table) => *self.table.write() = Arc::new(table),
            Err(e) => tracing::error!("the boot gap cannot be planned again: {e}"),
        }
    }

    /// The regions with `gap`, which has none or all of the bytes of each of the others.
    fn with_gap(&self, gap: Vec<Region>) -> Result<RegionTable> {
        let old = self.table();
        let start = gap.first().map_or(0, |r| r.start);
        let end = gap.last().map_or(0, Region::end);
        let before = old.regions().iter().filter(|r| r.end() <= start).cloned();
        let after = old.regions().iter().filter(|r| r.start >= end).cloned();
        RegionTable::new(before.chain(gap).chain(after).collect())
    }
}

/// `read_at` fails with the errors of the image and the overlay, and with `UnexpectedEof` past the
/// end.
impl ReadAt for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.clip(offset, buf.len()) < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.refresh_gap(offset, buf.len() as u64);
        let table = self.table();
        match &self.overlay {
            Some(overlay) => overlay.read_at(&*table, buf, offset),
            None => table.read_at(buf, offset),
        }
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// Adjacent runs of the same kind are merged.
impl Extents for Disk {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        self.refresh_gap(offset, self.len);
        let table = self.table();
        let overlay = self.overlay();
        joined_extents(self.len, offset, |at| one_extent(overlay, &table, at, self.len))
    }
}
