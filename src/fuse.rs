//! The FUSE face: mounts, serves `disk.raw` and `partN.raw`, unmounts.
//!
//! A thin adapter over `disk`: nothing here decides what a byte of the disk is. Everything that
//! knows the `fuser` crate is in this room.

mod coherence;
mod files;
mod mount;
mod options;
mod serve;
mod view;

pub use files::{FileSpec, Status, StatusDisk};
pub use mount::{Mounted, check_mount_point};
pub use options::MountOptions;
pub use serve::{STATUS_FILE, serve, serve_during};
pub use view::SNAPSHOT_PREFIX;
