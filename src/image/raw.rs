//! Raw images: regular files and block devices whose bytes are the disk's bytes.

use super::content::Content;
use super::driver::Driver;
use super::mapping::Mapping;
use super::opening::Opening;
use super::{Image, MappedSlice};
use crate::Result;
use crate::bytes::{Extent, Extents, ReadAt};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

pub(super) static FORMAT: Driver = Driver {
    name: "raw",
    qemu_name: "raw",
    shown: "raw",
    extensions: &["raw", "img"],
    layer: None,
};

/// A raw image in a regular file or a block device.
#[derive(Debug)]
pub struct RawImage {
    file: Content,
    mapping: Option<Mapping>,
    len: u64,
    path: PathBuf,
}

impl RawImage {
    /// Open the file or block device at `path` without checking its content or whether other
    /// programs write to it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for a missing file, [`Io`](crate::ErrorKind::Io) for one
    /// that cannot be read, [`Invalid`](crate::ErrorKind::Invalid) for an empty file and for anything that
    /// is neither a file nor a block device.
    pub fn open(path: &Path) -> Result<Self> {
        Opening::new(path).map(Self::from)
    }

    /// The open file, for locks and queries that need a file descriptor. A remote image has none.
    pub fn file(&self) -> Option<&File> {
        self.file.local()
    }
}

impl From<Opening> for RawImage {
    fn from(Opening { file, len, path }: Opening) -> Self {
        // Some filesystems cannot map files; reads then go through a buffer.
        let mapping = file.mappable().and_then(|file| Mapping::new(file, len).ok());
        Self { file, mapping, len, path }
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
        self.file.extent_at(self.len, offset)
    }
}

impl Image for RawImage {
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        self.mapping.as_ref()?.slice(self.file.file_with(offset, len as u64)?, offset, len)
    }

    fn plain_file(&self) -> Option<&File> {
        self.file.local()
    }

    fn allocated(&self) -> u64 {
        self.file.allocated(self.len)
    }

    fn version(&self) -> Option<String> {
        self.file.version().map(str::to_owned)
    }

    fn notes(&self) -> Vec<String> {
        self.file.note().map(str::to_owned).into_iter().collect()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::os::unix::fs::FileExt;

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
