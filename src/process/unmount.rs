//! Unmounting.

use super::mounts::MountEntry;
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What to do if files of the mount are open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unmount {
    /// Fail.
    WhenUnused,
    /// Detach the mount immediately; it ends when the last file is closed.
    Lazy,
}

/// Unmount what is at `entry`'s target, if it is still the same mount.
///
/// The kernel takes a path. With [`Unmount::Lazy`], the path is that of a descriptor of the mount
/// itself; otherwise it is the mount point's name relative to a descriptor of its parent directory,
/// because a descriptor of the mount would keep it busy. A directory with a mount on it cannot be
/// renamed or replaced.
///
/// # Errors
/// [`ErrorKind::Busy`] while files in it are open; errors of the kernel or of fusermount3.
pub fn unmount(entry: &MountEntry, how: Unmount) -> Result<()> {
    let Some(root) = open_mount(entry) else { return Ok(()) };
    let shown = entry.target.display();
    let failed = |e: Errno| Error::io(format!("cannot unmount {shown}"), e.into());
    let done = match how {
        Unmount::Lazy => umount2(&path_of(&root), MntFlags::MNT_DETACH),
        Unmount::WhenUnused => {
            drop(root);
            let name = entry.target.file_name().ok_or(Errno::EINVAL).map_err(failed)?;
            let parent = entry.target.parent().unwrap_or(Path::new("/"));
            let parent = open(parent, DIRECTORY, Mode::empty()).map_err(failed)?;
            let name = path_of(&parent).join(name);
            match MountEntry::at(&name) {
                Some(now) if now.id == entry.id => umount2(&name, MntFlags::UMOUNT_NOFOLLOW),
                _ => return Ok(()),
            }
        }
    };
    match done {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_fusermount(&entry.target, how),
        Err(Errno::EBUSY) => Err(busy(&entry.target)),
        Err(e) => Err(failed(e)),
    }
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A descriptor of the mount's root; `None` if the mount no longer exists.
fn open_mount(entry: &MountEntry) -> Option<OwnedFd> {
    let root = open(&entry.target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    MountEntry::of(&root).filter(|now| now.id == entry.id).map(|_| root)
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn busy(target: &Path) -> Error {
    let shown = target.display();
    Error::new(
        ErrorKind::Busy,
        format!(
            "{shown} is in use; end the programs that have its files open (`fuser -vm {shown}` lists them)"
        ),
    )
}

/// The set-user-id helper only unmounts what this user has mounted.
fn by_fusermount(target: &Path, how: Unmount) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how == Unmount::Lazy {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io("cannot start fusermount3 (package fuse3)", e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(busy(target));
    }
    let shown = target.display();
    Err(Error::new(ErrorKind::Io, format!("cannot unmount {shown}: {}", said.trim())))
}
