//! Writing a disk out, so that it needs no synthdisk any more: the bytes that `disk.raw` shows, in
//! a file of their own or on a block device.
//!
//! Raw targets are written here, from the region table and the overlay, without a mount; other
//! formats by the host's qemu-img, which reads a private mount. Calls `disk` and `image` for bytes,
//! `fuse` for that mount, and `run` for child processes and signals. Which disks there are, `plan`
//! has decided before.

mod backing;
mod check;
mod contents;
mod convert;
mod copy;
mod delta;
mod identity;
mod live;
mod loops;
mod private;
mod progress;
mod qemu_img;
mod reflink;
mod room;
mod share;
mod snapshot;
mod sweep;
mod target;
mod write;
mod writeback;

pub use backing::Backing;
pub use check::{sha256, verify};
pub use contents::{Contents, DiskRange, Lender, OpenFile};
pub use convert::{Conversion, ConvertOptions, Converted, Format, compare, convert};
pub use copy::{Copied, CopyOptions, to_device, to_file};
pub use delta::write_delta;
pub use identity::refuse_sources;
pub use live::{open_live_disk, writer_of};
pub use private::with_mount;
pub use room::check_room;
pub use share::Reflink;
pub use snapshot::LiveSnapshot;
pub use sweep::sweep;
pub use target::{Device, NewFile, Place, Target, shares_blocks};
pub use write::{Input, Pending, Request, Written, write_converted, write_raw};
