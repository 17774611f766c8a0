//! A file that stores bytes of an image's disk at known offsets.

use super::MappedSlice;
use super::content::Content;
use super::mapping::Mapping;
use super::opening::Opening;
use crate::bytes::Extent;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An open file. Offsets and lengths in bytes.
pub(super) struct StoredFile {
    file: Content,
    mapping: Option<Mapping>,
    path: PathBuf,
    len: u64,
}

impl From<Opening> for StoredFile {
    fn from(Opening { file, len, path }: Opening) -> Self {
        // Some filesystems cannot map files; reads then go through a buffer.
        let mapping = file.mappable().and_then(|file| Mapping::new(file, len).ok());
        Self { file, mapping, path, len }
    }
}

impl fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StoredFile {
    /// Fill `buf` from `offset`.
    ///
    /// # Errors
    /// Errors of the file; `UnexpectedEof` if the file is too short, also for an offset that no file
    /// can have.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buf, offset)
    }

    /// `N` bytes at `offset`.
    ///
    /// # Errors
    /// As [`StoredFile::read`].
    pub(super) fn array<const N: usize>(&self, offset: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The range as mapped memory, if the file can be mapped and is that long.
    pub(super) fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        self.mapping.as_ref()?.slice(self.file.file_with(offset, len as u64)?, offset, len)
    }

    /// The extent that contains `offset`.
    ///
    /// # Errors
    /// Errors of the system call.
    pub(super) fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        self.file.extent_at(self.len, offset)
    }

    /// What distinguishes the content from a later one, if that is known without reading it.
    pub(super) fn version(&self) -> Option<&str> {
        self.file.version()
    }

    /// What the user should know about where the bytes come from.
    pub(super) fn note(&self) -> Option<&str> {
        self.file.note()
    }

    /// Absolute path, or the name of a URL.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that the file occupies.
    pub(super) fn allocated(&self) -> u64 {
        self.file.allocated(self.len)
    }
}
