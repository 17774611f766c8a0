//! The file under an overlay, as a trait, so that tests can put one in its place that loses writes
//! and fails.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// What an overlay needs of its file. Offsets and lengths in bytes.
///
/// As with a file, writes are visible to reads at once and durable after [`sync`](Self::sync);
/// until then a crash can lose any sectors of them.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Fill `buf` from `offset`.
    ///
    /// # Errors
    /// Errors of the file; `UnexpectedEof` past its end.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Store all of `buf` at `offset`; the file grows as needed.
    ///
    /// # Errors
    /// Errors of the file; part of `buf` may then be stored.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Free the storage of a range, which then reads as zeros. Where that is not possible, the
    /// bytes stay, which only wastes space.
    fn punch_hole(&self, offset: u64, len: u64);

    /// Set the file's length.
    ///
    /// # Errors
    /// Errors of the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Bring everything written to stable storage.
    ///
    /// # Errors
    /// Errors of the file. What was written since the last success may then never become durable,
    /// even if a later call succeeds (Linux marks pages clean that it failed to write).
    fn sync(&self) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    /// Errors of the file.
    fn len(&self) -> io::Result<u64>;

    /// Bytes of storage that the file occupies.
    ///
    /// # Errors
    /// Errors of the file.
    fn allocated(&self) -> io::Result<u64>;

    /// The file itself, if there is one.
    fn file(&self) -> Option<&File>;
}

impl Storage for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buf, offset)
    }

    fn punch_hole(&self, offset: u64, len: u64) {
        use nix::fcntl::{FallocateFlags, fallocate};
        if len > 0 {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let _ = fallocate(self, flags, offset as i64, len as i64);
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }

    fn file(&self) -> Option<&File> {
        Some(self)
    }
}
