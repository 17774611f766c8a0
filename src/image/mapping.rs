//! A read-only shared mapping of an image, renewed now and then so that page tables stay small.
//!
//! A reply that the kernel copies straight out of this mapping costs one copy where `pread` into a
//! buffer costs two.

#![expect(unsafe_code, reason = "mmap(2), and slices of what it maps")]

use parking_lot::RwLock;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// After this many bytes served the mapping is renewed. Each mapped GiB that was touched costs
/// 2 MiB of page tables, which only unmapping gives back.
const RENEW_AFTER: u64 = 4 << 30;

/// One `mmap` of the whole file.
#[derive(Debug)]
struct Map {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: `Map` owns its range of address space, never writes to it, and unmaps it only on drop,
// when no reference is left; the pointer is as good on one thread as on another.
unsafe impl Send for Map {}
// SAFETY: as above; all access through a shared reference only reads.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
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
        // hold an `Arc` of it, so none is alive here.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A piece of an image as mapped memory.
///
/// The bytes must only be handed to system calls, never be looked at by our own code: when the
/// file is cut shorter underneath, the kernel answers a system call with `EFAULT`, but a load
/// instruction with `SIGBUS`.
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
        // long as `self.map`. Other processes may change the file's bytes while the slice lives;
        // by this type's contract only the kernel reads them, and it does not care.
        unsafe { std::slice::from_raw_parts(self.map.start.as_ptr().add(self.offset), self.len) }
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
    /// `mmap`'s, for example on files that cannot be mapped or 0 bytes.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            current: RwLock::new(Arc::new(Map::new(file, len)?)),
            served: AtomicU64::new(0),
            len,
        })
    }

    /// The range, or `None` when it is not within the mapping.
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
