//! Edits of a guest's root filesystem: how they are drafted and how they are stored.
//!
//! A [`Draft`] shows the filesystem as it would be after the edits so far, so each new edit builds
//! on the earlier ones. [`apply`] stores a finished draft through a partition file that synthdisk
//! serves, so that the edits land in the overlay like any other write. Calls `fs`.

mod apply;
mod draft;
mod e2fs;
mod editor;
mod fit;
pub mod guest_kernel;
pub mod kernel_driver;

pub use apply::{apply, check_room, set_uuid};
pub use draft::{Draft, can_be_stored};
pub use fit::fit;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What stores edits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EditWith {
    /// e2fsprogs for ext2, ext3 and ext4 where FUSE is available, otherwise the guest's own kernel
    #[default]
    Auto,
    /// The guest's own kernel, in a throwaway QEMU
    Guest,
    /// The host: e2fsprogs, and for XFS and Btrfs the driver of the host's kernel, which needs root
    Kernel,
}

/// Size in bytes of the largest file that is treated as configuration.
pub const MAX_FILE: usize = 64 << 10;

/// A change of one path in the guest's root filesystem.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edit {
    /// Absolute path in the guest's root filesystem; only its last component may be a symlink.
    pub path: String,
    /// What happens to it.
    pub change: Change,
    /// What was changed, for a person.
    pub why: String,
    /// Name of the step that makes it.
    pub step: &'static str,
}

/// What happens to a path.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// New contents for an existing regular file. Owner, mode, times and extended attributes stay.
    Rewrite {
        /// What the file holds now.
        old: Vec<u8>,
        /// The new contents.
        new: Vec<u8>,
    },
    /// A new regular file in an existing directory; nothing exists at its path.
    Create {
        /// Its contents.
        content: FileContent,
        /// Its permissions and owner.
        access: FileAccess,
    },
    /// A new directory; nothing exists at its path.
    MakeDir(FileAccess),
    /// A new symlink; nothing exists at its path.
    Symlink {
        /// Its target.
        target: String,
    },
    /// A regular file or symlink is removed.
    Remove,
}

/// Contents of a new file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FileContent {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The contents of a file of this host.
    HostFile(PathBuf),
}

/// Permissions and owner of a new file or directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FileAccess {
    /// Permission bits, as in chmod(2).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl FileAccess {
    /// Owned by root, with the permission bits `mode`.
    pub const fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}
