//! A directory through which tools exchange files with this process.

use super::tool::RunAs;
use crate::process::Inherited;
use crate::{Error, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A directory that this process and its tools can use, whatever the tools' user ID is.
///
/// Root's is a filesystem in memory that no path leads to: tools get a descriptor of it, and other
/// processes of the account that the tools run with cannot enter it.
#[derive(Debug)]
pub struct ToolDir(Place);

#[derive(Debug)]
enum Place {
    Unnamed(Inherited),
    Named(TempDir),
}

impl ToolDir {
    /// Create it. It disappears with this value.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub fn new() -> Result<Self> {
        let failed = |e| Error::io("cannot make a temporary directory", e);
        if nix::unistd::geteuid().is_root() {
            // Kernels before 5.2, and some containers, do not have it.
            if let Ok(dir) = unnamed() {
                return Ok(Self(Place::Unnamed(Inherited::new(&dir).map_err(failed)?)));
            }
        }
        let dir = TempDir::with_prefix("synthdisk-").map_err(failed)?;
        Ok(Self(Place::Named(dir)))
    }

    /// Who can use it.
    pub fn run_as(&self) -> RunAs {
        match self.0 {
            Place::Unnamed(_) => RunAs::Unprivileged,
            Place::Named(_) => RunAs::Caller,
        }
    }

    /// A path that leads to it, in this process and in its tools.
    pub fn path(&self) -> PathBuf {
        match &self.0 {
            Place::Unnamed(dir) => dir.path(),
            Place::Named(dir) => dir.path().to_owned(),
        }
    }

    /// Create the file `name` with `bytes`, readable for tools; returns its path.
    ///
    /// # Errors
    /// EEXIST when a tool has created something of that name; errors of the system calls.
    pub fn add(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path().join(name);
        // Never through a symbolic link that a tool has left there.
        let mut file = File::create_new(&path)?;
        if self.run_as() == RunAs::Unprivileged {
            file.set_permissions(Permissions::from_mode(0o644))?;
        }
        file.write_all(bytes)?;
        Ok(path)
    }
}

/// A filesystem in memory that is attached nowhere, and that everyone who has it may use.
fn unnamed() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0777")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
