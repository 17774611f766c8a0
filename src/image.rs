//! Read-only backing images behind one trait, and the one function that opens them.
//!
//! Nothing in this room can write: files are opened `O_RDONLY`, mappings are `PROT_READ`. To add a
//! format, add a file to this room and a line to the table in `formats.rs`.

mod driver;
mod foreign;
mod formats;
mod mapping;
mod open;
mod qcow2;
mod raw;
mod usage;
mod vhd;
mod window;

pub use formats::Format;
pub use mapping::MappedSlice;
pub use open::{Foreign, InUse, OpenOptions, open, unread};
pub use qcow2::header::{Header as Qcow2Header, MAGIC as QCOW2_MAGIC};
pub use raw::{RawImage, extent_of};
pub use usage::{Claim, check_unused, claim, common_mode};
pub use window::Window;

use crate::bytes::Extents;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// A backing image: read-only bytes. Offsets and lengths in bytes.
pub trait Image: Extents + Send + Sync + fmt::Debug {
    /// The range as mapped memory, if the image supports it, for replies without a copy.
    fn map(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        let _ = (offset, len);
        None
    }

    /// The file that stores the image's bytes, byte N at offset N, if there is one.
    fn plain_file(&self) -> Option<&File> {
        None
    }

    /// Bytes that the image occupies on its storage.
    fn allocated(&self) -> u64;

    /// The image's path, for messages.
    fn path(&self) -> &Path;

    /// QEMU's name for the format.
    fn format(&self) -> &'static str {
        "raw"
    }
}
