//! Ending mounts.

use super::mounts::{MountEntry, find_mount};
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::process::{Command, Stdio};

/// What to do about files of the mount that are open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unmount {
    /// Fail while any is open.
    WhenUnused,
    /// Take the mount away at once; it ends when the last of them is closed.
    Lazy,
}

/// Unmount what shows at `entry`'s place, if it still is that very mount.
///
/// # Errors
/// [`ErrorKind::Busy`] while files in it are open, else the kernel's or fusermount3's.
pub fn unmount(entry: &MountEntry, how: Unmount) -> Result<()> {
    if find_mount(&entry.target).is_none_or(|now| now.id != entry.id) {
        return Ok(());
    }
    let shown = entry.target.display();
    let busy = || {
        Error::new(
            ErrorKind::Busy,
            format!(
                "{shown} is in use; end the programs that have its files open (`fuser -vm {shown}` lists them)"
            ),
        )
    };
    let flags = if how == Unmount::Lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(&entry.target, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => {}
        Err(Errno::EBUSY) => return Err(busy()),
        Err(e) => return Err(Error::io(format!("cannot unmount {shown}"), e.into())),
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how == Unmount::Lazy {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(&entry.target)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io("cannot start fusermount3 (package fuse3)", e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(busy());
    }
    Err(Error::new(ErrorKind::Io, format!("cannot unmount {shown}: {}", said.trim())))
}
