//! A read-only shared mapping of an image, renewed periodically to keep page tables small.
//!
//! Copying a reply from this mapping in the kernel takes one copy; `pread` into a buffer takes two.

#![expect(unsafe_code, reason = "mmap(2), and slices of what it maps")]

use parking_lot::RwLock;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The mapping is renewed after this many bytes were served. Each mapped GiB that was touched costs
/// 2 MiB of page tables, which are only freed by unmapping.
const RENEW_AFTER: u64 = 4 << 30;

/// Bytes of the smallest page; those of the kernel are this or a multiple.
const PAGE: usize = 4096;

/// One `mmap` of the whole file.
#[derive(Debug)]
struct Map {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: `Map` owns its range of address space, never writes to it, and unmaps it only on drop,
// when no reference is left; the pointer is valid on every thread.
unsafe impl Send for Map {}
// SAFETY: as above; all access through a shared reference only reads.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or(io::ErrorKind::Other.into())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are those of a mapping that this value owns; slices into it
        // hold an `Arc` of it, so none exists any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A piece of an image as mapped memory.
///
/// The bytes must only be passed to system calls, never read by our own code: when the file is
/// truncated, a system call fails with `EFAULT`, but a load instruction raises `SIGBUS`.
#[derive(Debug)]
pub struct MappedSlice {
    map: Arc<Map>,
    offset: usize,
    len: usize,
}

impl MappedSlice {
    /// The bytes, for a system call.
    pub fn for_syscall(&self) -> &[u8] {
        // SAFETY: `Mapping::slice` checked that the range lies within the mapping, which lives as
        // long as `self.map`. Other processes may change the file's bytes while the slice lives; by
        // this type's contract only the kernel reads them, which tolerates such changes.
        unsafe { std::slice::from_raw_parts(self.map.start.as_ptr().add(self.offset), self.len) }
    }

    /// Read the bytes from storage, if they are not in memory, so that a system call finds them there.
    ///
    /// # Errors
    /// When they cannot be read, or the file has been truncated. Kernels before 5.14 cannot say.
    pub fn populate(&self) -> io::Result<()> {
        let slack = self.offset % PAGE;
        let start = self.map.start.as_ptr().wrapping_add(self.offset - slack);
        // SAFETY: the range lies within the mapping (`Mapping::slice`), apart from the rest of its
        // last page. This advice changes no byte and no mapping; it reports an error where a load
        // would raise a signal.
        let done =
            unsafe { libc::madvise(start.cast(), self.len + slack, libc::MADV_POPULATE_READ) };
        match io::Error::last_os_error() {
            _ if done == 0 => Ok(()),
            e if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            e => Err(e),
        }
    }
}

/// A renewable mapping of a whole file.
#[derive(Debug)]
pub(super) struct Mapping {
    current: RwLock<Arc<Map>>,
    served: AtomicU64,
    len: usize,
}

impl Mapping {
    /// Map the first `len` bytes of `file`.
    ///
    /// # Errors
    /// Errors of `mmap`, for example for files that cannot be mapped or an empty file.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            current: RwLock::new(Arc::new(Map::new(file, len)?)),
            served: AtomicU64::new(0),
            len,
        })
    }

    /// The range, or `None` if it is not within the mapping.
    pub(super) fn slice(&self, file: &File, offset: u64, len: usize) -> Option<MappedSlice> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > self.len {
            return None;
        }
        let before = self.served.fetch_add(len as u64, Ordering::Relaxed);
        if before / RENEW_AFTER != (before + len as u64) / RENEW_AFTER {
            if let Ok(fresh) = Map::new(file, self.len) {
                *self.current.write() = Arc::new(fresh);
            }
        }
        Some(MappedSlice { map: Arc::clone(&self.current.read()), offset, len })
    }
}
