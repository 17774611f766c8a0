//! Files mapped into memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// A read-only mapping of part of a file, unmapped when dropped. Nobody may shorten the file.
pub struct Map {
    start: *mut libc::c_void,
    len: usize,
}

impl Map {
    /// Map `len` bytes at `offset`, shared or private.
    pub fn new(file: &File, offset: u64, len: usize, shared: bool) -> io::Result<Self> {
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ,
                flags,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len })
    }

    /// `len` bytes at `offset` of the mapping, as they are now.
    pub fn copy(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut out = vec![0u8; len];
        // SAFETY: source and target are valid for `len` bytes and do not overlap; bytes that
        // another program changes meanwhile may come out either way, which tests expect.
        unsafe {
            ptr::copy_nonoverlapping(self.start.cast::<u8>().add(offset), out.as_mut_ptr(), len);
        }
        out
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `copy` hands out no reference, so nothing points into the mapping.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
