//! A mount that another process serves.

use super::mount::FS_TYPE;
use crate::export::{STATUS_FILE, Status};
use crate::process::MountEntry;
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The longest status, in bytes: paths of all images of a guest.
const STATUS_MAX: u64 = 1 << 20;

/// A synthdisk mount, held by a descriptor of its root. While it is held, the mount is in use.
#[derive(Debug)]
pub struct ServedMount {
    root: OwnedFd,
    entry: MountEntry,
}

impl ServedMount {
    /// The mount on `path`; `None` if no synthdisk mount shows there.
    ///
    /// # Errors
    /// When it is one whose program has died.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        let Ok(root) = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) else {
            return Ok(None);
        };
        let Some(entry) = MountEntry::of_root(&root).filter(|m| m.fs_type == FS_TYPE) else {
            return Ok(None);
        };
        if fstat(&root) == Err(Errno::ENOTCONN) {
            let shown = path.display();
            let what = format!(
                "{shown} is a mount whose program has died; end it (synthdisk umount {shown})"
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(Some(Self { root, entry }))
    }

    /// What mount it is.
    pub fn entry(&self) -> &MountEntry {
        &self.entry
    }

    /// Its directory, absolute.
    pub fn dir(&self) -> PathBuf {
        self.entry.target.clone()
    }

    /// What the mount says of itself. That names files and processes, so it is believed of this user's
    /// mounts and of root's only.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a mount of another user; those of reading it.
    pub fn status(&self) -> Result<Status> {
        let shown = self.entry.target.display();
        let me = nix::unistd::geteuid().as_raw();
        if self.entry.user().is_none_or(|user| user != 0 && user != me) {
            let user = self.entry.user().map_or("another user".into(), |uid| format!("uid {uid}"));
            let what = format!(
                "{shown} was mounted by {user}, who decides what it says; use it as that user"
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let failed = |e| Error::io(format!("cannot ask the mount on {shown} for its disks"), e);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.root, STATUS_FILE, flags, Mode::empty());
        let mut text = Vec::new();
        let file = File::from(file.map_err(|e| failed(e.into()))?);
        file.take(STATUS_MAX).read_to_end(&mut text).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|e| failed(e.into()))
    }
}
