//! Raw images: regular files and block devices whose bytes are the disk's bytes.

use super::driver::{Driver, Opening};
use super::mapping::Mapping;
use super::{Image, MappedSlice};
use crate::bytes::{Extent, Extents, ReadAt};
use crate::{Error, ErrorKind, Result};
use nix::unistd::{Whence, lseek64};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) static FORMAT: Driver = Driver {
    name: "raw",
    qemu_name: "raw",
    extensions: &["raw", "img"],
    plain: true,
    open: |opening| Ok(Arc::new(RawImage::new(opening))),
};

/// A raw image in a regular file or a block device.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    mapping: Option<Mapping>,
    len: u64,
    path: PathBuf,
}

impl Opening {
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
        Ok(Self { file, len, path: absolute })
    }
}

impl RawImage {
    /// Open the file or block device at `path` without checking its content or whether other
    /// programs write to it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a missing file, [`ErrorKind::Io`] for one that cannot be read,
    /// [`ErrorKind::Invalid`] for an empty file and for anything that is neither a file nor a block
    /// device.
    pub fn open(path: &Path) -> Result<Self> {
        Opening::new(path).map(Self::new)
    }

    fn new(Opening { file, len, path }: Opening) -> Self {
        // Some filesystems cannot map files; reads then go through a buffer.
        let mapping = Mapping::new(&file, len).ok();
        Self { file, mapping, len, path }
    }

    /// The open file, for locks and queries that need a file descriptor.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for RawImage {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Extents for RawImage {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        extent_of(&self.file, self.len, offset)
    }
}

impl Image for RawImage {
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        self.mapping.as_ref()?.slice(&self.file, offset, len)
    }

    fn plain_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn allocated(&self) -> u64 {
        match self.file.metadata() {
            Ok(m) if m.file_type().is_file() => m.blocks() * 512,
            _ => self.len,
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// The extent that contains `offset` of `file`, which is `len` bytes long. If the filesystem does
/// not report holes, or the file is a block device, everything is data.
///
/// # Errors
/// Errors of the system call.
pub fn extent_of(file: &File, len: u64, offset: u64) -> io::Result<Extent> {
    let seek = |whence| match lseek64(file, offset as i64, whence) {
        Ok(at) => Ok(Some((at as u64).min(len))),
        // ENXIO: no data (or no hole) up to the end of the file.
        Err(nix::Error::ENXIO) => Ok(None),
        // A block device or an old filesystem does not report holes: it is all data.
        Err(nix::Error::EINVAL | nix::Error::EOPNOTSUPP) => Err(None),
        Err(e) => Err(Some(io::Error::from(e))),
    };
    let all_data = Extent { data: true, end: len };
    let answer = match seek(Whence::SeekData) {
        Ok(None) => return Ok(Extent { data: false, end: len }),
        Ok(Some(at)) if at > offset => return Ok(Extent { data: false, end: at }),
        Ok(Some(_)) => seek(Whence::SeekHole),
        Err(e) => Err(e),
    };
    match answer {
        Ok(Some(hole)) => Ok(Extent { data: true, end: hole }),
        Ok(None) | Err(None) => Ok(all_data),
        Err(Some(e)) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 4096], 256 << 10).unwrap();
        (dir, path)
    }

    #[test]
    fn reads_maps_and_knows_holes() {
        let (_dir, path) = sparse();
        let image = RawImage::open(&path).unwrap();
        assert_eq!(image.len(), 1 << 20);
        let mut buf = [1; 8];
        image.read_at(&mut buf, (256 << 10) - 4).unwrap();
        assert_eq!(buf, [0, 0, 0, 0, 7, 7, 7, 7]);
        let slice = image.map((256 << 10) + 4090, 10).unwrap();
        assert_eq!(slice.for_syscall(), &[7, 7, 7, 7, 7, 7, 0, 0, 0, 0]);
        assert!(image.map((1 << 20) - 1, 2).is_none());
        assert!(image.map(u64::MAX, 2).is_none());
        let first = image.extent_at(0).unwrap();
        assert_eq!(first, Extent { data: false, end: 256 << 10 });
        let second = image.extent_at(256 << 10).unwrap();
        assert_eq!(second, Extent { data: true, end: (256 << 10) + 4096 });
        assert_eq!(image.extent_at(1 << 19).unwrap(), Extent { data: false, end: 1 << 20 });
        assert!(image.allocated() < 1 << 20);
    }

    #[test]
    fn a_cut_file_gives_errors_not_a_crash() {
        let (_dir, path) = sparse();
        let image = RawImage::open(&path).unwrap();
        let slice = image.map(1 << 19, 4096).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert!(image.read_at(&mut [0; 4], 0).is_err());
        let sink = File::options().write(true).open("/dev/null").unwrap();
        // Writing to /dev/null succeeds without reading the memory; writing to a pipe reads it.
        drop(sink);
        let (_rx, tx) = nix::unistd::pipe().unwrap();
        let failed = nix::unistd::write(&tx, slice.for_syscall()).unwrap_err();
        assert_eq!(failed, nix::Error::EFAULT);
    }

    #[test]
    fn refuses_what_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        File::create(&empty).unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, kind) in [
            (dir.path().join("missing"), ErrorKind::NotFound),
            (dir.path().to_path_buf(), ErrorKind::Invalid),
            (empty, ErrorKind::Invalid),
            (fifo, ErrorKind::Invalid),
            (PathBuf::from("/dev/null"), ErrorKind::Invalid),
        ] {
            assert_eq!(RawImage::open(&path).unwrap_err().kind(), kind, "{}", path.display());
        }
    }
}
