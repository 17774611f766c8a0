//! Read-only backing images behind one trait, and the one function that opens them.
//!
//! Nothing in this room can write: files are opened `O_RDONLY`, mappings are `PROT_READ`. To add a
//! format, add a file with a `Layer` to this room and a line to the table in `formats.rs`.

mod beside;
mod chain;
mod content;
mod driver;
mod extent;
mod foreign;
mod formats;
mod layer;
mod layered;
mod mapping;
mod open;
mod opening;
mod qcow2;
mod raw;
mod stored_file;
#[cfg(test)]
mod testing;
mod unpack;
mod usage;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod window;
mod xva;

pub use beside::InUse;
pub use driver::Format;
pub use extent::extent_of;
pub use mapping::MappedSlice;
pub use open::{Foreign, OpenOptions, open, unread};
pub use qcow2::header::{Header as Qcow2Header, MAGIC as QCOW2_MAGIC};
pub use raw::RawImage;
pub use usage::{Claim, check_unused, claim, common_mode};
pub use window::Window;
pub use xva::Xva;

use crate::bytes::Extents;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

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

    /// What the user should know about where its bytes come from.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What distinguishes its content from a later one of the same name, if that is known without
    /// reading it: of a remote image, what its server says.
    fn version(&self) -> Option<String> {
        None
    }

    /// QEMU's name for the format.
    fn format(&self) -> &'static str {
        "raw"
    }

    /// All files that the image consists of, those of its backing images included; its own first.
    fn files(&self) -> Vec<ImageFile> {
        vec![ImageFile { path: self.path().to_path_buf(), format: self.format() }]
    }
}

/// A file of an image.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct ImageFile {
    /// Absolute path.
    pub path: PathBuf,
    /// QEMU's name for its format.
    pub format: &'static str,
}

impl ImageFile {
    /// What an image consists of, in words; `None` for a single raw file.
    pub fn describe(files: &[Self]) -> Option<String> {
        match files {
            [] | [Self { format: "raw", .. }] => None,
            _ => {
                let words = files.iter().map(|f| format!("{} {}", f.format, f.path.display()));
                Some(words.collect::<Vec<_>>().join(", "))
            }
        }
    }
}
