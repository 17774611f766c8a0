//! Where the bytes of a file of an image are: in an open file, or on another machine.

use super::extent::extent_of;
use crate::bytes::Extent;
use crate::remote::RemoteFile;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// The bytes of a file. Offsets and lengths in bytes.
#[derive(Debug)]
pub(super) enum Content {
    /// A file or block device of this host.
    Local(File),
    /// A file on another machine.
    Remote(Arc<RemoteFile>),
}

impl Content {
    /// Fill `buf` from `offset`.
    ///
    /// # Errors
    /// Errors of the file; `UnexpectedEof` if it is too short.
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Local(file) => file.read_exact_at(buf, offset),
            Self::Remote(file) => file.read_exact_at(buf, offset),
        }
    }

    /// The extent of a file of `len` bytes that contains `offset`. Of a remote file, all is data: its
    /// server does not say what is a hole.
    ///
    /// # Errors
    /// Errors of the system call.
    pub(super) fn extent_at(&self, len: u64, offset: u64) -> io::Result<Extent> {
        match self {
            Self::Local(file) => extent_of(file, len, offset),
            Self::Remote(_) => Ok(Extent { data: offset < len, end: len }),
        }
    }

    /// The file that can be mapped into memory, byte N at offset N; [`Content::file_with`] says which
    /// parts of it may be used.
    pub(super) fn mappable(&self) -> Option<&File> {
        match self {
            Self::Local(file) => Some(file),
            Self::Remote(file) => file.mappable(),
        }
    }

    /// The file that has the bytes of a range, if one has them now.
    pub(super) fn file_with(&self, offset: u64, len: u64) -> Option<&File> {
        match self {
            Self::Local(file) => Some(file),
            Self::Remote(file) => file.file_with(offset, len),
        }
    }

    /// The file, if it is one of this host.
    pub(super) fn local(&self) -> Option<&File> {
        match self {
            Self::Local(file) => Some(file),
            Self::Remote(_) => None,
        }
    }

    /// What the user should know about where the bytes come from.
    pub(super) fn note(&self) -> Option<&str> {
        match self {
            Self::Local(_) => None,
            Self::Remote(file) => file.note(),
        }
    }

    /// What distinguishes the content from a later one, if that is known without reading it.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Self::Local(_) => None,
            Self::Remote(file) => file.version(),
        }
    }

    /// Bytes that it occupies, if it is `len` bytes long.
    pub(super) fn allocated(&self, len: u64) -> u64 {
        match self.local().map(File::metadata) {
            Some(Ok(meta)) if meta.is_file() => meta.blocks() * 512,
            _ => len,
        }
    }

    /// Another handle of the same bytes.
    ///
    /// # Errors
    /// EMFILE when the process has too many open files.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Local(file) => Self::Local(file.try_clone()?),
            Self::Remote(file) => Self::Remote(Arc::clone(file)),
        })
    }
}
