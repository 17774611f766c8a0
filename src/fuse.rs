//! Exporting by FUSE: mounts that show `disk.raw` and `partN.raw`.
//!
//! ```text
//! kernel ◀──▶ adapter (fuser) ──▶ disk_fs (returns Result) ──▶ export, disk
//! ```
//!
//! `serve` makes a mount that everybody sees, `private` one that only this process reaches; both by
//! `mount`. `live` looks at a mount that another process serves. Nothing here decides what a byte of a
//! disk is.

mod adapter;
mod disk_fs;
mod invalidator;
mod live;
mod mount;
mod options;
mod private;
mod serve;

pub use live::LiveMount;
pub use mount::{FS_TYPE, MountPoint};
pub use options::MountOptions;
pub use private::{PrivateView, with_private_view};
pub use serve::FuseMount;
