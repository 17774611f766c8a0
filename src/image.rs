//! Read-only backing images behind one trait, and the one function that opens them.
//!
//! Nothing in this room can write: files are opened `O_RDONLY`, mappings are `PROT_READ`. A format
//! is a file of this room and a line in the table of `formats.rs`.

mod driver;
mod foreign;
mod formats;
mod mapping;
mod open;
mod qcow2;
mod raw;
mod usage;
mod vhd;

pub use formats::Format;
pub use mapping::MappedSlice;
pub use open::{Foreign, InUse, OpenOptions, open, unread};
pub use qcow2::header::{Header as Qcow2Header, MAGIC as QCOW2_MAGIC};
pub use raw::{RawImage, extent_of};
pub use usage::{Claim, check_unused, claim, common_mode};

use crate::bytes::Extents;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// A backing image: bytes that can only be read. Offsets and lengths in bytes.
pub trait Image: Extents + Send + Sync + fmt::Debug {
    /// The range as mapped memory, where the image can give it, for replies without a copy.
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        let _ = (offset, len);
        None
    }

    /// The file that holds the image's bytes, byte N at offset N, if there is one.
    fn plain_file(&self) -> Option<&File> {
        None
    }

    /// Bytes that the image occupies on its own storage.
    fn allocated(&self) -> u64;

    /// Where the image is, for messages.
    fn path(&self) -> &Path;

    /// What QEMU calls its format.
    fn format(&self) -> &'static str {
        "raw"
    }
}
