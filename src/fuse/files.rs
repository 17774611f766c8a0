//! The files that a mount shows.

use crate::disk::Disk;
use crate::image::Extent;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Offset and length in bytes.
pub type Range = (u64, u64);

/// A file of the mount: a range of a disk. Offsets and lengths in bytes.
#[derive(Clone, Debug)]
pub struct FileSpec {
    /// Name in the mount point's directory.
    pub name: String,
    /// The disk that it shows.
    pub disk: Arc<Disk>,
    /// First byte of the disk that it shows.
    pub start: u64,
    /// Its length.
    pub len: u64,
}

impl FileSpec {
    /// Whether it is the disk as a whole, under which the others lie.
    pub fn is_whole(&self) -> bool {
        self.start == 0 && self.len == self.disk.len()
    }

    /// Bytes of storage that the file seems to take up. Less than its length when it has holes:
    /// programs that copy files look for holes only then.
    pub fn allocated(&self) -> u64 {
        self.disk.allocated_within(self.start, self.len)
    }

    /// The first byte of data (or of a hole) at `offset` or behind it; `None` when there is none,
    /// or `offset` is not within the file. The end of a file counts as a hole. See lseek(2).
    ///
    /// # Errors
    /// Those of image and overlay.
    pub fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        self.seek_in(offset, data, |at| self.disk.extent_at(at))
    }

    /// The same with the disk's extents as `extent_at` gives them.
    pub(super) fn seek_in(
        &self,
        offset: u64,
        data: bool,
        extent_at: impl Fn(u64) -> io::Result<Extent>,
    ) -> io::Result<Option<u64>> {
        if offset >= self.len {
            return Ok(None);
        }
        let mut at = offset;
        while at < self.len {
            let run = extent_at(self.start + at)?;
            if run.data == data {
                return Ok(Some(at));
            }
            // A run may go on behind this file, in the next partition.
            at = run.end - self.start;
        }
        Ok((!data).then_some(self.len))
    }

    /// The range that `fallocate` with `mode` asks to zero: offset and length. See fallocate(2).
    /// `None` means that there is nothing to do, because every byte can be written already.
    ///
    /// # Errors
    /// `EFBIG` to make the file longer, `EOPNOTSUPP` for what no disk can do.
    pub fn range_to_zero(&self, mode: i32, offset: u64, len: u64) -> Result<Option<Range>, i32> {
        let end = offset.checked_add(len).ok_or(libc::EFBIG)?;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            // What lies past the end is passed over, as other filesystems do.
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => {
                let start = offset.min(self.len);
                Ok(Some((start, end.min(self.len) - start)))
            }
            0 if end <= self.len => Ok(None),
            0 => Err(libc::EFBIG),
            _ => Err(libc::EOPNOTSUPP),
        }
    }
}

/// What a mount says of itself, as JSON in a file that directory listings leave out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that serves the mount.
    pub version: String,
    /// Process that serves the mount.
    pub pid: u32,
    /// The images, absolute.
    pub images: Vec<PathBuf>,
    /// The persistent overlays, absolute.
    pub overlays: Vec<PathBuf>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The disks, first the one that the firmware boots from.
    #[serde(default)]
    pub disks: Vec<StatusDisk>,
    /// What the guest can boot from, as `run --bus` takes it.
    #[serde(default)]
    pub bus: Option<String>,
    /// The network card that the guest has a driver for, as QEMU calls it.
    #[serde(default)]
    pub nic: Option<String>,
}

/// A disk of a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusDisk {
    /// Its file in the mount.
    pub file: String,
    /// The guest's name for it under Xen.
    pub vdev: String,
    /// Whether it is a CD.
    pub cdrom: bool,
    /// Whether writes to it are refused.
    pub read_only: bool,
}
