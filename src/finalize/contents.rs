//! What is to be written out: a range of a disk, or a file of a live mount.

use crate::Result;
use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Disk, Stored};
use crate::image::{Image, extent_of};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that are to be written out. Offsets and lengths in bytes.
pub trait Contents: Extents + Sync {
    /// The file whose blocks hold the bytes at `offset`, and up to where that is known; holes of
    /// that file are holes here.
    ///
    /// # Errors
    /// Those of looking.
    fn reflink_source_at(&self, offset: u64) -> io::Result<(ReflinkSource<'_>, u64)>;
}

/// The runs of data and holes of something, for who goes through it from its beginning to its end in
/// steps. Each is looked for once: a look may have to go through everything that a long run is made
/// of.
#[derive(Debug)]
pub(super) struct Runs<F> {
    look: F,
    known: Extent,
}

impl<F: Fn(u64) -> Result<Extent>> Runs<F> {
    /// Those that `look` finds at an offset.
    pub(super) fn new(look: F) -> Self {
        Self { look, known: Extent { data: false, end: 0 } }
    }

    /// The one at `offset`, which is never less than the time before.
    ///
    /// # Errors
    /// Those of looking.
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
    /// A file of an overlay, from this offset on.
    File(&'a File, u64),
    /// The file of an image, from this offset on.
    Image(Arc<dyn Image>, u64),
}

/// A range of a disk that nobody writes to any more.
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

    /// `len` bytes of `disk` from `start` on, which lie on it.
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

/// A file with holes, as of a live mount.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    len: u64,
}

impl OpenFile {
    /// The bytes of `file` as long as it is now.
    ///
    /// # Errors
    /// That of asking for its length.
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
        // Not the mount's file itself, whose filesystem has no blocks.
        Ok((ReflinkSource::None, self.len))
    }
}
