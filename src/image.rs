//! Read-only backing images behind one trait.
//!
//! Nothing in this room can write: files are opened `O_RDONLY`, mappings are `PROT_READ`. It
//! calls no other room.

mod mapping;
mod raw;
mod usage;

pub use mapping::MappedSlice;
pub use raw::{RawImage, extent_of};
pub use usage::{Claim, check_unused, claim, common_mode};

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// A run of bytes that are either stored or a hole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Whether bytes are stored here; a hole reads as zeros.
    pub data: bool,
    /// First byte behind the run.
    pub end: u64,
}

/// A backing image: a fixed number of bytes that can only be read. Offsets and lengths in bytes.
pub trait Image: Send + Sync + fmt::Debug {
    /// Length in bytes; does not change while the image is open.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fill `buf` from `offset`.
    ///
    /// # Errors
    /// The system call's; `UnexpectedEof` when the range passes the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The range as mapped memory, where the image can give it, for replies without a copy.
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        let _ = (offset, len);
        None
    }

    /// The file that holds the image's bytes, byte N at offset N, if there is one.
    fn plain_file(&self) -> Option<&File> {
        None
    }

    /// The run of data or hole that `offset` lies in.
    ///
    /// # Errors
    /// The system call's.
    fn extent_at(&self, offset: u64) -> io::Result<Extent>;

    /// Bytes that the image occupies on its own storage.
    fn allocated(&self) -> u64;

    /// Where the image is, for messages.
    fn path(&self) -> &Path;
}
