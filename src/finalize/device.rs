//! A block device as the destination of a disk.

use super::errors::{cannot_write, check_stop};
use super::options::CopyOptions;
use crate::layout::format_size;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A device with data in this many bytes at either end is only overwritten with force.
const DEVICE_ENDS: u64 = 1 << 20;
/// Chunk size for writing zeros to a device that cannot zero a range itself, in bytes.
const ZEROS: usize = 1 << 20;

/// A block device, opened for writing, that no other program uses.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    path: PathBuf,
    /// Length in bytes.
    len: u64,
}

impl BlockDevice {
    /// Open `path`, which must have at least `needed` bytes. Unless `replace`, refuse a device that
    /// contains data.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when it is mounted or otherwise in use; [`ErrorKind::TooLarge`] when it
    /// is too small; [`ErrorKind::Invalid`] when it contains data.
    pub fn open(path: &Path, needed: u64, replace: bool) -> Result<Self> {
        let shown = path.display();
        let failed = |e: io::Error| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::new(
                ErrorKind::Busy,
                format!("{shown} is mounted or held by another program; release it there first"),
            ),
            _ => Error::io(format!("cannot write {shown}"), e),
        };
        // For a block device, O_EXCL makes open fail while it is mounted or another program holds
        // it.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
            .open(path)
            .map_err(failed)?;
        let len = nix::unistd::lseek64(&file, 0, nix::unistd::Whence::SeekEnd)
            .map_err(|e| failed(e.into()))?;
        let len = u64::try_from(len).unwrap_or(0);
        if len < needed {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{shown} has {} ({len} bytes), but the disk has {} ({needed} bytes); use a \
                     larger device",
                    format_size(len),
                    format_size(needed)
                ),
            ));
        }
        let ends = [0, len.saturating_sub(DEVICE_ENDS)];
        for at in ends.into_iter().filter(|_| !replace) {
            let mut bytes = vec![0; DEVICE_ENDS.min(len - at) as usize];
            file.read_exact_at(&mut bytes, at).map_err(failed)?;
            if bytes.iter().any(|b| *b != 0) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{shown} holds data; use --force to overwrite it"),
                ));
            }
        }
        Ok(Self { file, path: path.to_path_buf(), len })
    }

    /// The device.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether its length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Make a range of a device read as zeros, without writing them if the device can do that itself.
pub(super) fn zero_device(
    target: &File,
    range: Range<u64>,
    options: &CopyOptions<'_>,
) -> Result<()> {
    // In steps, so that it can be interrupted: the device may turn out to write the zeros after
    // all.
    const STEP: u64 = 1 << 30;
    let mut at = range.start;
    while at < range.end {
        check_stop(options.stop)?;
        let end = range.end.min((at / STEP + 1) * STEP);
        let zero = |mode| {
            let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(target, mode, at as i64, (end - at) as i64)
        };
        // PUNCH_HOLE discards, and fails if that would not leave zeros. ZERO_RANGE lets the kernel
        // write zeros if necessary. See blkdev_fallocate() in the kernel's block/fops.c.
        let zeroed = zero(FallocateFlags::FALLOC_FL_PUNCH_HOLE)
            .or_else(|_| zero(FallocateFlags::FALLOC_FL_ZERO_RANGE));
        if zeroed.is_err() {
            write_zeros(target, at..end).map_err(|e| cannot_write(options.name, e))?;
        }
        at = end;
    }
    Ok(())
}

fn write_zeros(target: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = range.start;
    while at < range.end {
        let n = (range.end - at).min(ZEROS as u64);
        target.write_all_at(&zeros[..n as usize], at)?;
        at += n;
    }
    Ok(())
}
