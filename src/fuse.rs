//! Exporting disks by FUSE: mounts that show `disk.raw` and `partN.raw`.
//!
//! ```text
//! kernel ◀──▶ adapter (fuser) ──▶ disk_fs (returns Result) ──▶ export, disk
//! ```
//!
//! `kernel_mount` makes a mount that every user can see, and `serve` answers its requests, in another
//! process; `private` is a mount that only this process can reach. `live` inspects a mount that another process serves. No code in this room
//! determines the content of a disk.

mod adapter;
mod available;
mod disk_fs;
mod invalidator;
mod kernel_mount;
mod live;
mod mount;
mod options;
mod private;
mod serve;
mod threads;

pub use available::why_unavailable;
pub use kernel_mount::KernelMount;
pub use live::LiveMount;
pub use mount::{FS_TYPE, MountPoint};
pub use options::MountOptions;
pub use private::{PrivateView, with_private_view};
pub use serve::FuseExport;
