//! Files mapped into memory.
#![expect(unsafe_code, reason = "mmap(2), and slices of what it maps")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// A mapping of part of a file, unmapped when dropped. Nobody may shorten the file.
pub struct Map {
    start: *mut libc::c_void,
    len: usize,
}

impl Map {
    /// Map `len` bytes at `offset` to be read, shared or private.
    pub fn new(file: &File, offset: u64, len: usize, shared: bool) -> io::Result<Self> {
        Self::with(file, offset, len, shared, libc::PROT_READ)
    }

    /// Map `len` bytes at `offset`, shared, to be read and written.
    pub fn writable(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        Self::with(file, offset, len, true, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn with(file: &File, offset: u64, len: usize, shared: bool, access: i32) -> io::Result<Self> {
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, access, flags, file.as_raw_fd(), offset as libc::off_t)
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

    /// Put `bytes` at `offset` of a writable mapping.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: source and target are valid for that many bytes and do not overlap; no reference
        // into the mapping exists.
        unsafe {
            let to = self.start.cast::<u8>().add(offset);
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `copy` hands out no reference, so nothing points into the mapping.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
