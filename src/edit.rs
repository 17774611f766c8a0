//! Edits of a guest's root filesystem: how they are drafted and how they are stored.
//!
//! A [`Draft`] shows the filesystem as it would be after the edits so far, so that whoever drafts the
//! next one sees the earlier ones. [`apply`] stores a finished draft through a partition file of ours,
//! so that the edits land in the overlay like any other write. Calls `fs`.

mod apply;
mod draft;
mod e2fs;
mod editor;
pub mod kernel_driver;

pub use apply::{apply, check_room, set_uuid};
pub use draft::Draft;

use std::path::PathBuf;

/// Size in bytes of the largest file that is taken for configuration.
pub const MAX_FILE: usize = 64 << 10;

/// A change of one path in the guest's root filesystem.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edit {
    /// Absolute path in the guest's root filesystem; no part of it but the last is a symlink.
    pub path: String,
    /// What happens to it.
    pub change: Change,
    /// What was changed, for a person.
    pub why: String,
    /// Name of the step that wants it.
    pub step: &'static str,
}

/// What happens to a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// New contents for a regular file that exists. Owner, mode, times and extended attributes stay.
    Rewrite {
        /// What the file holds now.
        old: Vec<u8>,
        /// What it is to hold.
        new: Vec<u8>,
    },
    /// A regular file where there is nothing, in a directory that is there.
    Create {
        /// What it is to hold.
        content: Content,
        /// Who may do what, and whose it is.
        access: Access,
    },
    /// A directory where there is nothing.
    MakeDir(Access),
    /// A symlink where there is nothing.
    Symlink {
        /// What it points to.
        target: String,
    },
    /// A regular file or symlink is taken away.
    Remove,
}

/// Contents of a new file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of a file of this host.
    HostFile(PathBuf),
}

/// Permissions and owner of something new.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// Permission bits, as in chmod(2).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Access {
    /// Root's, with the permission bits `mode`.
    pub const fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}
