//! Settling: a guest runs from a mount while its disks are copied to files, and goes on from the
//! files. The mount is then no longer needed.
//!
//! QEMU copies a disk itself (`blockdev-mirror`), and from then on writes to both places. When
//! everything is copied, the guest is paused for a moment, the files get their names, QEMU leaves the
//! mount, and the guest goes on. Until a file has its name, the mount is the truth; from then on both
//! are equal, and the guest does nothing before QEMU has left the mount.
//!
//! QEMU gets the new files as descriptors, so it needs no permission for their directories, and
//! nobody can exchange them.

mod disk;
mod jobs;
mod names;
mod sources;
mod switch;
mod target;

pub use disk::{Place, SettleDisk};
pub use sources::{Settling, disks_in_qemu, prepare_files};
pub use switch::{Settled, recover, settle};

/// How a disk is settled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Bytes to copy per second, at most.
    pub rate: Option<u64>,
}
