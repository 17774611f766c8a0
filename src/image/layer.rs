//! One layer of an image: which bytes of the disk a file stores, and where.

use super::opening::Opening;
use super::stored_file::StoredFile;
use std::fmt;
use std::io;

/// Where a range of the disk is. Offsets in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Nowhere in this layer: the layer beneath decides, and if there is none, it reads as zeros.
    Absent,
    /// Zeros, whatever the layers beneath contain.
    Zeros,
    /// In file `file` of the layer, from this offset on.
    Stored { file: usize, offset: u64 },
    /// In the compressed unit whose bytes begin at this offset of the disk.
    Packed { unit: u64 },
}

/// Takes the start and the end of a part of the disk, and its place.
pub(super) type Put<'a> = dyn FnMut(u64, u64, Place) + 'a;

/// A layer. Offsets and lengths in bytes.
pub(super) trait Layer: Send + Sync + fmt::Debug {
    /// Length of the disk that the layer shows. Past it, the disk reads as zeros, whatever the layers
    /// beneath contain.
    fn len(&self) -> u64;

    /// Split the range of the disk from `start` to `end`, which the layer's length includes, into
    /// parts by their places, in order and without a gap.
    ///
    /// # Errors
    /// Errors of the file; `InvalidData` for a damaged table.
    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()>;

    /// The bytes of the compressed unit that begins at offset `unit` of the disk.
    ///
    /// # Errors
    /// Errors of the file; `InvalidData` if it cannot be decompressed.
    fn unpack(&self, unit: u64) -> io::Result<Vec<u8>> {
        let _ = unit;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The files of the layer; the first is the one that was named.
    fn files(&self) -> &[StoredFile];
}

/// A layer whose file contains the bytes of the disk in order, from its first byte on.
#[derive(Debug)]
pub(super) struct PlainLayer {
    file: [StoredFile; 1],
    len: u64,
}

impl PlainLayer {
    /// The first `len` bytes of the file.
    pub(super) fn new(opening: Opening, len: u64) -> Self {
        Self { file: [opening.into()], len }
    }
}

impl Layer for PlainLayer {
    fn len(&self) -> u64 {
        self.len
    }

    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()> {
        put(start, end, Place::Stored { file: 0, offset: start });
        Ok(())
    }

    fn files(&self) -> &[StoredFile] {
        &self.file
    }
}

/// The error for a table entry that cannot be right.
pub(super) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
