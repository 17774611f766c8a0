//! Reading and writing files at offsets, through the page cache and past it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use synthdisk::bytes::ReadAt;

/// Alignment in bytes that O_DIRECT asks for at most.
pub const DIRECT_ALIGN: usize = 4096;

/// Open for reading.
pub fn reader(path: impl AsRef<Path>) -> File {
    let path = path.as_ref();
    File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()))
}

/// Open for reading and writing.
pub fn writer(path: impl AsRef<Path>) -> File {
    let path = path.as_ref();
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.unwrap_or_else(|e| panic!("open {} for writing: {e}", path.display()))
}

/// Open with O_DIRECT.
pub fn direct(path: impl AsRef<Path>, write: bool) -> File {
    let path = path.as_ref();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(write).custom_flags(libc::O_DIRECT).open(path);
    file.unwrap_or_else(|e| panic!("open {} with O_DIRECT: {e}", path.display()))
}

/// `len` bytes at `offset`.
pub fn read_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)
        .unwrap_or_else(|e| panic!("read {len} bytes at {offset}: {e}"));
    bytes
}

/// `len` bytes at `offset` of a file by its name.
pub fn bytes_of(path: impl AsRef<Path>, offset: u64, len: usize) -> Vec<u8> {
    read_at(&reader(path), offset, len)
}

/// Write all of `bytes` at `offset`.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) {
    file.write_all_at(bytes, offset)
        .unwrap_or_else(|e| panic!("write {} bytes at {offset}: {e}", bytes.len()));
}

/// Memory that is aligned as O_DIRECT asks for.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// A copy of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut this = Self::zeroed(bytes.len());
        this.as_mut().copy_from_slice(bytes);
        this
    }

    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let memory = vec![0; len + DIRECT_ALIGN];
        let start = memory.as_ptr().align_offset(DIRECT_ALIGN);
        Self { memory, start, len }
    }

    /// Read from `offset` of a file that was opened with O_DIRECT.
    pub fn read(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut this = Self::zeroed(len);
        file.read_exact_at(this.as_mut(), offset)?;
        Ok(this.as_ref().to_vec())
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl AsMut<[u8]> for Aligned {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// A file as an image's bytes.
pub struct FileReader(File, u64);

impl FileReader {
    pub fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Self(file, len)
    }
}

impl ReadAt for FileReader {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.1
    }
}
