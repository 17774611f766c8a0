//! The FUSE face: mounts, serves `disk.raw` and `partN.raw`, unmounts.
//!
//! A thin adapter over `disk`: nothing here decides what a byte of the disk is. Everything that
//! knows the `fuser` crate is in this room.

mod coherence;
mod files;
mod live;
mod mount;
mod mounts;
mod options;
mod serve;
mod view;

pub use files::{FileSpec, Status, StatusDisk};
pub use live::LiveMount;
pub use mount::{Mounted, check_mount_point, unmount};
pub use mounts::{MountEntry, find_mount};
pub use options::MountOptions;
pub use serve::{hold_signals, serve, serve_during};
pub use view::SNAPSHOT_PREFIX;
