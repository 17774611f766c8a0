//! An empty root directory.
//!
//! It is a filesystem in memory that is never attached to any directory, so it needs no place on
//! the host and disappears with the process.

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::process::{chroot, fchdir};
use std::io;
use std::os::fd::OwnedFd;

/// An empty directory that cannot be written to.
#[derive(Debug)]
pub(super) struct EmptyRoot(OwnedFd);

impl EmptyRoot {
    /// Create it. Needs CAP_SYS_ADMIN, and Linux 5.2.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub(super) fn new() -> io::Result<Self> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // The directory itself; nothing can be added.
        fsconfig_set_string(&context, "nr_inodes", "1")?;
        fsconfig_set_string(&context, "mode", "0555")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// Make it the root and working directory of all threads. Needs CAP_SYS_CHROOT.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub(super) fn enter(self) -> io::Result<()> {
        fchdir(&self.0)?;
        chroot(".")?;
        Ok(())
    }
}
