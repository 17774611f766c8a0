//! Reading a guest's filesystems.
//!
//! This room owns three things: detecting what an image holds ([`probe`](mod@probe)), the trait
//! through which a filesystem is read ([`GuestFs`]), and its implementations ([`ext4`], [`xfs`],
//! [`btrfs`], [`MemFs`]). Every byte comes from an untrusted guest: sizes, counts and depths are
//! bounded, and no input may panic, abort or hang the caller.

pub mod boot_code;
pub mod btrfs;
mod btrfs_sums;
mod budget;
pub mod ext4;
mod guest_fs;
mod guest_tree;
pub mod md;
mod mem_fs;
mod metered;
pub mod open;
pub mod probe;
pub mod table;
pub mod usage;
pub mod xfs;

pub use budget::{Budget, Cost};
pub use guest_fs::*;
pub use guest_tree::{GuestTree, MAX_MOUNTS, Mounted};
pub use mem_fs::MemFs;
