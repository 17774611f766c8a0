//! Files that are to be opened as images.

use super::content::Content;
use crate::remote::{RemoteFile, RemoteOptions, RemoteUrl};
use crate::{Error, ErrorKind, Result};
use nix::unistd::{Whence, lseek64};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file to be opened as an image: checked, and open for reading.
pub(super) struct Opening {
    pub(super) file: Content,
    /// Length of the file or device in bytes; not 0.
    pub(super) len: u64,
    /// Absolute path, or the name of a URL.
    pub(super) path: PathBuf,
}

impl Opening {
    /// Open the image that `name` is: a URL, or the path of a file or block device.
    ///
    /// # Errors
    /// Those of [`Opening::new`] and [`RemoteFile::open`].
    pub(super) fn named(name: &Path, remote: &RemoteOptions) -> Result<Self> {
        let known = remote.urls.iter().find(|url| Path::new(&url.name()) == name).cloned();
        let Some(url) = known.map(Ok).or_else(|| RemoteUrl::of_path(name)) else {
            return Self::new(name);
        };
        let file = RemoteFile::open(&url?, remote)?;
        let (len, path) = (file.len(), PathBuf::from(file.name()));
        Ok(Self { file: Content::Remote(Arc::new(file)), len, path })
    }

    /// Open the file or block device at `path` read-only.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a missing file, [`ErrorKind::Io`] for one that cannot be read,
    /// [`ErrorKind::Invalid`] for an empty file and for anything that is neither a file nor a block
    /// device.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let shown = path.display();
        let absolute = path.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("there is no file {shown}"))
            }
            _ => Error::io(format!("cannot open {shown}"), e),
        })?;
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(&absolute)
            .map_err(|e| Error::io(format!("cannot open {shown} for reading"), e))?;
        Self::of(file, absolute)
    }

    /// The open `file` at the absolute path `path`.
    ///
    /// # Errors
    /// As [`Opening::new`].
    pub(super) fn of(file: File, path: PathBuf) -> Result<Self> {
        let shown = path.display();
        let meta = file.metadata().map_err(|e| Error::io(format!("cannot stat {shown}"), e))?;
        let kind = meta.file_type();
        if kind.is_dir() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{shown} is a directory; name the image file or block device itself"),
            ));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{shown} is neither a regular file nor a block device"),
            ));
        }
        let len = lseek64(&file, 0, Whence::SeekEnd)
            .map_err(|e| Error::io(format!("cannot tell the size of {shown}"), e.into()))?;
        let len = u64::try_from(len).unwrap_or(0);
        if len == 0 {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{shown} is empty; it should hold a root filesystem"),
            ));
        }
        Ok(Self { file: Content::Local(file), len, path })
    }
}
