//! What an overlay is: writes over a base that never changes.

use crate::bytes::ReadAt;
use std::fmt;
use std::fs::File;
use std::io;

/// What lies under an overlay. Offsets and lengths in bytes.
pub trait Base: ReadAt + Sync {
    /// Whether the range is known to hold zeros without reading it.
    fn is_zero(&self, offset: u64, len: u64) -> bool;
}

/// What an overlay holds for a run of bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Run {
    /// Nothing: the base shows through.
    Base,
    /// It was zeroed or discarded.
    Zero,
    /// It was written.
    Data,
}

/// Copy-on-write storage. Every method may be called from many threads at once; concurrent
/// requests for the same sectors take effect in some order, sector by sector.
pub trait Overlay: Send + Sync + fmt::Debug {
    /// What is held at `offset`, and for how many bytes that holds at least (1..=`max`).
    ///
    /// # Errors
    /// That of the storage.
    fn run_at(&self, offset: u64, max: u64) -> io::Result<(Run, u64)>;

    /// Where the bytes of a run of [`Run::Data`] at `offset` are stored: the file, the offset in
    /// it, and for how many bytes that holds (1..=`max`). `None` where they are in no such place.
    /// Holds until the next write.
    ///
    /// # Errors
    /// That of the storage.
    fn place_at(&self, offset: u64, max: u64) -> io::Result<Option<(&File, u64, u64)>>;

    /// Fill `buf` from `offset`, from here or from `base`.
    ///
    /// # Errors
    /// That of the storage or of `base`.
    fn read_at(&self, base: &dyn Base, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Store `buf` at `offset`; `base` completes blocks that are written in part.
    ///
    /// # Errors
    /// That of the storage or of `base`; what was stored before stays.
    fn write_at(&self, base: &dyn Base, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Make `len` bytes at `offset` read as zeros and give back the space they took.
    ///
    /// # Errors
    /// As [`Overlay::write_at`].
    fn zero(&self, base: &dyn Base, offset: u64, len: u64) -> io::Result<()>;

    /// Bring all that was written to stable storage, as far as this overlay survives at all.
    ///
    /// # Errors
    /// That of the storage.
    fn sync(&self) -> io::Result<()>;

    /// Bytes of storage that the overlay takes up.
    fn allocated(&self) -> u64;

    /// The unit of copy-on-write in bytes, a power of two: a partial write of it copies the rest
    /// from the base.
    fn cow_granularity(&self) -> u64;
}

/// Punch a hole into `file`, so that its storage is given back; where the filesystem cannot, the
/// bytes stay, which only costs space.
pub(super) fn punch_hole(file: &std::fs::File, offset: u64, len: u64) {
    use nix::fcntl::{FallocateFlags, fallocate};
    if len > 0 {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _ = fallocate(file, flags, offset as i64, len as i64);
    }
}
