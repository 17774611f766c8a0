//! Reading bytes at an offset: the trait through which images, disks, partitions and files inside a
//! guest are read, and a trait for those that also report holes.

use std::io;
use std::sync::Arc;

/// A fixed number of bytes, readable at any offset. Offsets and lengths in bytes.
pub trait ReadAt {
    /// Fill `buf` from `offset`; never a short read.
    ///
    /// # Errors
    /// Errors of the storage; `UnexpectedEof` when the range extends past the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The number of bytes, which does not change.
    fn len(&self) -> u64;

    /// Whether the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes that can be read from several threads.
pub type SharedBytes = dyn ReadAt + Send + Sync;

/// A run of bytes that is either stored or a hole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Whether bytes are stored here; a hole reads as zeros.
    pub data: bool,
    /// First byte after the run.
    pub end: u64,
}

/// Bytes whose holes are known.
pub trait Extents: ReadAt {
    /// The extent that contains `offset`, as far as one lookup shows: the next one may be of the
    /// same kind.
    ///
    /// # Errors
    /// Errors of the storage.
    fn extent_at(&self, offset: u64) -> io::Result<Extent>;
}

// Not implemented for slices, because `len` would then be ambiguous on references to them.
impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buf, offset)
    }

    fn len(&self) -> u64 {
        (**self).len()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buf, offset)
    }

    fn len(&self) -> u64 {
        (**self).len()
    }
}
