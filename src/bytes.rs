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

/// A range of other bytes: a partition of a disk, or a header within a file.
#[derive(Clone, Debug)]
pub struct Window<R> {
    whole: R,
    start: u64,
    len: u64,
}

impl<R: ReadAt> Window<R> {
    /// `len` bytes of `whole` from `start`. If `whole` ends earlier, reads past its end fail with
    /// `UnexpectedEof`.
    pub fn new(whole: R, start: u64, len: u64) -> Self {
        Self { whole, start, len }
    }
}

impl<R: ReadAt> ReadAt for Window<R> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        match (end, self.start.checked_add(offset)) {
            (Some(end), Some(at)) if end <= self.len => self.whole.read_at(buf, at),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_two_ends() {
        let bytes: Vec<u8> = (0..10).collect();
        let window = Window::new(&bytes, 3, 4);
        let read = |offset, len| {
            let mut buf = vec![99; len];
            window.read_at(&mut buf, offset).map(|()| buf).map_err(|e| e.kind())
        };
        assert_eq!(read(0, 4), Ok(vec![3, 4, 5, 6]));
        assert_eq!(read(4, 0), Ok(vec![]));
        for (offset, len) in [(0, 5), (4, 1), (u64::MAX, 1), (u64::MAX - 3, 2)] {
            assert_eq!(read(offset, len), Err(io::ErrorKind::UnexpectedEof), "{offset} {len}");
        }
        // Past the end of the underlying bytes.
        let cut = Window::new(&bytes, 8, 4);
        assert!(cut.read_at(&mut [0; 2], 0).is_ok() && cut.read_at(&mut [0; 3], 0).is_err());
        let wrapped = Window::new(&bytes, u64::MAX, 4);
        assert!(wrapped.read_at(&mut [0; 1], 1).is_err());
    }
}
