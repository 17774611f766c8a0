//! The overlay trait: writes on top of a base that never changes.

use crate::bytes::ReadAt;
use std::fmt;
use std::fs::File;
use std::io;

/// What an overlay is based on. Offsets and lengths in bytes.
pub trait Base: ReadAt + Sync {
    /// Whether the range is known to hold zeros without reading it.
    fn is_zero(&self, offset: u64, len: u64) -> bool;
}

/// What an overlay stores for a run of bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Run {
    /// Nothing: the base is visible.
    Base,
    /// Zeros: it was zeroed or discarded.
    Zero,
    /// Data: it was written.
    Data,
}

/// Copy-on-write storage. All methods may be called from many threads at once; concurrent requests
/// for the same sectors take effect in some order, decided separately for each sector.
pub trait Overlay: Send + Sync + fmt::Debug {
    /// What is stored at `offset`, and the number of bytes (1..=`max`) for which that is known to
    /// hold.
    ///
    /// # Errors
    /// Errors of the storage.
    fn run_at(&self, offset: u64, max: u64) -> io::Result<(Run, u64)>;

    /// Where the bytes of a [`Run::Data`] run at `offset` are stored: the file, the offset in it,
    /// and the number of bytes (1..=`max`) for which that holds. `None` if the bytes are not stored
    /// contiguously in a file. Valid until the next write.
    ///
    /// # Errors
    /// Errors of the storage.
    fn place_at(&self, offset: u64, max: u64) -> io::Result<Option<(&File, u64, u64)>>;

    /// Fill `buf` from `offset`, from the overlay or from `base`.
    ///
    /// # Errors
    /// Errors of the storage or of `base`.
    fn read_at(&self, base: &dyn Base, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Store `buf` at `offset`; the rest of a partially written block comes from `base`.
    ///
    /// # Errors
    /// Errors of the storage or of `base`; what was already stored stays.
    fn write_at(&self, base: &dyn Base, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Make `len` bytes at `offset` read as zeros and free their space.
    ///
    /// # Errors
    /// As [`Overlay::write_at`].
    fn zero(&self, base: &dyn Base, offset: u64, len: u64) -> io::Result<()>;

    /// Flush all writes to stable storage, if the overlay outlives the process at all.
    ///
    /// # Errors
    /// Errors of the storage.
    fn sync(&self) -> io::Result<()>;

    /// Flush all writes, and store what is only valid as long as nothing is written any more. The
    /// caller writes nothing after this.
    ///
    /// # Errors
    /// Errors of the storage.
    fn close(&self) -> io::Result<()> {
        self.sync()
    }

    /// From now on, let the overlay occupy at most `limit` bytes of storage: a write for which it
    /// would have to grow further fails with `StorageFull`.
    fn set_limit(&self, limit: u64);

    /// The limit in bytes, if there is one.
    fn limit(&self) -> Option<u64>;

    /// Bytes of storage that the overlay uses.
    fn allocated(&self) -> u64;

    /// The unit of copy-on-write in bytes, a power of two: a partial write to a unit copies the
    /// rest from the base.
    fn cow_granularity(&self) -> u64;
}
