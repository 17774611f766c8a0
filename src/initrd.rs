//! The contents of an initrd, read as Linux unpacks it: any sequence of cpio archives, plain or
//! compressed, with zeros between them.
//!
//! Source: Linux `init/initramfs.c` and Documentation/driver-api/early-userspace/buffer-format.rst.
//! Nothing is unpacked to a disk: the bytes are streamed, and only names and the contents of a few
//! small files are kept. An initrd is a file of an untrusted guest: its sizes, its names and the
//! time it takes are bounded. A damaged initrd is not an error: what was read so far is returned,
//! with the reason.

mod archive;
mod compression;
mod configured;
mod entry;
mod generator;
mod input;
mod limits;
mod listing;
mod read;

pub use compression::Compression;
pub use configured::made_for_any_machine;
pub use entry::InitrdEntry;
pub use generator::Generator;
pub(crate) use listing::module_name;
pub(crate) use read::unpack_file;
pub use read::{Initrd, Segment, SegmentKind, Whole};
