//! Reading bytes at an offset: the one trait through which images, disks, partitions and files
//! inside a guest are read, and what some of them can do beyond that.

use std::io;
use std::sync::Arc;

/// A fixed number of bytes that can be read at any offset. Offsets and lengths in bytes.
pub trait ReadAt {
    /// Fill `buf` from `offset`; never a short read.
    ///
    /// # Errors
    /// Those of the storage; `UnexpectedEof` when the range passes the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// How many bytes there are; does not change while they are open.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes that several threads read.
pub type SharedBytes = dyn ReadAt + Send + Sync;

/// A run of bytes that are either stored or a hole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Whether bytes are stored here; a hole reads as zeros.
    pub data: bool,
    /// First byte after the run.
    pub end: u64,
}

/// Bytes whose holes are known.
pub trait Extents: ReadAt {
    /// The run of data or hole that contains `offset`, as far as one lookup shows it: the next run
    /// may be of the same kind.
    ///
    /// # Errors
    /// Those of the storage.
    fn extent_at(&self, offset: u64) -> io::Result<Extent>;
}

// Not for slices: `len` would then be ambiguous on references to them.
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
    /// `len` bytes of `whole` from `start`. Where `whole` ends before that, reads fail with
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
        // Past the end of what it is a window of.
        let cut = Window::new(&bytes, 8, 4);
        assert!(cut.read_at(&mut [0; 2], 0).is_ok() && cut.read_at(&mut [0; 3], 0).is_err());
        let wrapped = Window::new(&bytes, u64::MAX, 4);
        assert!(wrapped.read_at(&mut [0; 1], 1).is_err());
    }
}
