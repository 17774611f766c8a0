//! A disk as it was at one moment: the state that a crash at that moment would have left.
//!
//! Taking a snapshot waits for writes in flight and blocks new ones until the boot gap is planned
//! for that moment, which requires reading the guest's filesystem. Then writes continue, and save
//! what they overwrite first (see `preserved`).
//!
//! The gap is planned *through the snapshot*: kernel and initrd are files inside the guest, and
//! regions that read them from the live disk would change along with it. Copying them at that
//! moment would block writes for as long as it takes to copy a hundred megabytes.

use super::extents::joined_extents;
use super::preserved::PreservedBlocks;
use super::scratch::Scratch;
use super::serve::{Chunk, Disk};
use crate::bytes::{Extent, Extents, ReadAt, SharedBytes};
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

/// What a snapshot reads from. Regions of its own boot gap hold it weakly: they must not hold the
/// last reference, because ending the snapshot waits for writers.
#[derive(Debug)]
struct Frozen {
    disk: Arc<Disk>,
    saved: Arc<PreservedBlocks>,
}

impl ReadAt for Frozen {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.disk.clip(offset, buf.len()) < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.saved.read_at(self.disk.overlay(), buf, offset)
    }

    fn len(&self) -> u64 {
        self.disk.len()
    }
}

/// A disk as it was when the snapshot was taken. Dropping it ends the snapshot and frees its space.
/// Offsets and lengths in bytes.
///
/// If the old content can no longer be stored, writes to the disk continue and the snapshot ends:
/// from then on every method returns `EIO`.
#[derive(Debug)]
pub struct Snapshot {
    frozen: Arc<Frozen>,
}

impl Snapshot {
    /// Take a snapshot of `disk` that stores preserved blocks in `side`, a file that is used for
    /// nothing but snapshots of this disk. It contains all writes that were acknowledged before
    /// this call, and none that begin after it returns. A write in between is either contained as
    /// a whole or not at all.
    ///
    /// # Errors
    /// `EBUSY` while the disk has another snapshot; errors of extending `side` and of finding what
    /// boots.
    pub fn take(disk: &Arc<Disk>, side: &File) -> io::Result<Self> {
        let cow_granularity = disk.overlay().map_or(1, |overlay| overlay.cow_granularity());
        let mut writers = disk.hold_writers();
        if writers.is_some() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        // Nothing uses the file any more, because the last snapshot has ended.
        let side = Scratch::on(side.try_clone()?, disk.len())?;
        let saved = Arc::new(PreservedBlocks::new(side, cow_granularity, disk.table()));
        let frozen = Arc::new(Frozen { disk: Arc::clone(disk), saved: Arc::clone(&saved) });
        let through: Weak<Frozen> = Arc::downgrade(&frozen);
        if let Some(table) = disk.plan_frozen(&(through as Weak<SharedBytes>)) {
            saved.set_table(Arc::new(table.map_err(io::Error::other)?));
        }
        *writers = Some(saved);
        Ok(Self { frozen })
    }

    /// Bytes of storage used.
    pub fn allocated(&self) -> u64 {
        self.frozen.saved.allocated()
    }

    /// The bytes at `offset`, at most up to the end of the disk. If they cannot be borrowed in
    /// place, they are read into `scratch`, which grows as needed.
    ///
    /// # Errors
    /// Errors of the image and the overlay; `EIO` when the snapshot could not be kept.
    pub fn read<'a>(
        &self,
        offset: u64,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<Chunk<'a>> {
        let Frozen { disk, saved } = &*self.frozen;
        let len = disk.clip(offset, len);
        if let Some(slice) = saved.map(disk.overlay(), offset, len)? {
            return Ok(Chunk::Mapped(slice));
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let buf = &mut scratch[..len];
        saved.read_at(disk.overlay(), buf, offset)?;
        Ok(Chunk::Buffer(buf))
    }
}

/// `read_at` fails as [`Snapshot::read`] does, and with `UnexpectedEof` past the end of the disk.
impl ReadAt for Snapshot {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.frozen.read_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.frozen.disk.len()
    }
}

/// Adjacent runs of the same kind are merged. Fails as [`Snapshot::read`] does.
impl Extents for Snapshot {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        let Frozen { disk, saved } = &*self.frozen;
        joined_extents(disk.len(), offset, |at| saved.extent_at(disk.overlay(), at))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut writers = self.frozen.disk.hold_writers();
        // No write is in flight, and this was the last reader.
        self.frozen.saved.clear();
        *writers = None;
    }
}
