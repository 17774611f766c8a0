//! A file that stores bytes of an image's disk at known offsets.

use super::MappedSlice;
use super::extent::extent_of;
use super::mapping::Mapping;
use super::opening::Opening;
use crate::bytes::Extent;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An open file. Offsets and lengths in bytes.
pub(super) struct StoredFile {
    file: File,
    mapping: Option<Mapping>,
    path: PathBuf,
    len: u64,
}

impl From<Opening> for StoredFile {
    fn from(Opening { file, len, path }: Opening) -> Self {
        // Some filesystems cannot map files; reads then go through a buffer.
        let mapping = Mapping::new(&file, len).ok();
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
        self.mapping.as_ref()?.slice(&self.file, offset, len)
    }

    /// The extent that contains `offset`.
    ///
    /// # Errors
    /// Errors of the system call.
    pub(super) fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        extent_of(&self.file, self.len, offset)
    }

    /// Absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that the file occupies.
    pub(super) fn allocated(&self) -> u64 {
        match self.file.metadata() {
            Ok(meta) if meta.is_file() => meta.blocks() * 512,
            _ => self.len,
        }
    }
}
