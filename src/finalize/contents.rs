//! The bytes to write out: a range of a disk, or a file of a live mount.

use crate::Result;
use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Disk, Stored};
use crate::image::{Image, extent_of};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes to write out. Offsets and lengths in bytes.
pub trait Contents: Extents + Sync {
    /// The file whose blocks hold the bytes at `offset`, and the end of the range for which that is
    /// known; holes of that file are holes here.
    ///
    /// # Errors
    /// Errors of the lookup.
    fn reflink_source_at(&self, offset: u64) -> io::Result<(ReflinkSource<'_>, u64)>;
}

/// Data and hole extents for a sequential reader. Each extent is looked up only once, because one
/// lookup may have to go through all the pieces of a long extent.
#[derive(Debug)]
pub(super) struct Runs<F> {
    look: F,
    known: Extent,
}

impl<F: Fn(u64) -> Result<Extent>> Runs<F> {
    /// The extents that `look` returns for an offset.
    pub(super) fn new(look: F) -> Self {
        Self { look, known: Extent { data: false, end: 0 } }
    }

    /// The extent at `offset`, which must not be less than in the previous call.
    ///
    /// # Errors
    /// Errors of the lookup.
    pub(super) fn at(&mut self, offset: u64) -> Result<Extent> {
        if offset >= self.known.end {
            self.known = (self.look)(offset)?;
        }
        Ok(self.known)
    }
}

/// A file that may share its blocks with a copy.
#[derive(Debug)]
pub enum ReflinkSource<'a> {
    /// None: the bytes are zeros.
    Zeros,
    /// None: the bytes must be copied.
    None,
    /// A file of an overlay, starting at this offset.
    File(&'a File, u64),
    /// The file of an image, starting at this offset.
    Image(Arc<dyn Image>, u64),
}

/// A range of a disk that is no longer written to.
#[derive(Debug)]
pub struct DiskRange {
    disk: Arc<Disk>,
    start: u64,
    len: u64,
}

impl DiskRange {
    /// All of `disk`.
    pub fn whole(disk: Arc<Disk>) -> Self {
        Self { start: 0, len: disk.len(), disk }
    }

    /// `len` bytes of `disk` from `start`, which must lie on it.
    pub fn part(disk: Arc<Disk>, start: u64, len: u64) -> Self {
        Self { disk, start, len }
    }

    fn end(&self, end: u64) -> u64 {
        (end - self.start).min(self.len)
    }
}

impl ReadAt for DiskRange {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.read_at(buf, self.start + offset)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Extents for DiskRange {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        let found = self.disk.extent_at(self.start + offset)?;
        Ok(Extent { data: found.data, end: self.end(found.end) })
    }
}

impl Contents for DiskRange {
    fn reflink_source_at(&self, offset: u64) -> io::Result<(ReflinkSource<'_>, u64)> {
        let (stored, end) = self.disk.stored_at(self.start + offset)?;
        let source = match stored {
            Stored::Zeros => ReflinkSource::Zeros,
            Stored::Generated => ReflinkSource::None,
            Stored::Overlay(file, at) => ReflinkSource::File(file, at),
            Stored::Image(image, at) => ReflinkSource::Image(image, at),
        };
        Ok((source, self.end(end)))
    }
}

/// A file with holes, such as one in a live mount.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    len: u64,
}

impl OpenFile {
    /// The bytes of `file`, with its current length.
    ///
    /// # Errors
    /// Errors of getting its length.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self { len: file.metadata()?.len(), file })
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for OpenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Extents for OpenFile {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        let found = extent_of(&self.file, self.len, offset)?;
        Ok(Extent { data: found.data, end: found.end.clamp(offset + 1, self.len) })
    }
}

impl Contents for OpenFile {
    fn reflink_source_at(&self, _offset: u64) -> io::Result<(ReflinkSource<'_>, u64)> {
        // The mount's file itself cannot be shared, because its filesystem has no blocks.
        Ok((ReflinkSource::None, self.len))
    }
}
