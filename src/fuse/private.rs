//! A mount of disks that only this process and its children can reach.
//!
//! Programs that edit a guest or convert a disk need files. They get descriptors of files in a
//! mount that no path leads to, so no other user can replace the files that they open.

use super::adapter::Serving;
use super::disk_fs::DiskFs;
use super::mount::{Detached, FS_TYPE, MountPoint, Mounted, mount_attached};
use super::options::MountOptions;
use crate::export::{ExportSet, Latency};
use crate::process::{MountEntry, Unmount, make_private_dir, private_dir_name, unmount};
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::OwnedFd;

/// Files of an [`ExportSet`] that only this process can open.
#[derive(Debug)]
pub struct PrivateView {
    root: OwnedFd,
}

impl PrivateView {
    /// Open the file `name` for reading.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with ENOENT when there is no such file.
    pub fn open(&self, name: &str) -> Result<File> {
        self.open_with(name, OFlag::O_RDONLY)
    }

    /// Open the file `name` for reading and writing.
    ///
    /// # Errors
    /// As [`PrivateView::open`]; EROFS for a read-only file.
    pub fn open_writable(&self, name: &str) -> Result<File> {
        self.open_with(name, OFlag::O_RDWR)
    }

    fn open_with(&self, name: &str, flags: OFlag) -> Result<File> {
        let fd = openat(&self.root, name, flags | OFlag::O_CLOEXEC, Mode::empty());
        Ok(fd.map_err(|e| Error::io(format!("cannot open {name}"), e.into()))?.into())
    }
}

/// Serve `set` to this process alone while `work` runs. Files that `work` opens must be closed
/// before it returns. If this process is killed, nothing is left behind.
///
/// # Errors
/// Errors of mounting and of `work`; when the last writes cannot be stored.
pub fn with_private_view<T>(
    set: ExportSet,
    work: impl FnOnce(&PrivateView) -> Result<T>,
) -> Result<T> {
    let options = options();
    let disks = set.clone();
    let fs =
        DiskFs::new(set, &options).map_err(|e| Error::io("cannot describe the disks", e.into()))?;
    let source = "synthdisk";
    let (serving, root) = match Detached::new(source, &options)? {
        Some(Mounted { device, mount }) => {
            (Serving::start(fs, device, Latency::Storage)?, mount.into_root())
        }
        None => detach(fs, source, &options)?,
    };
    let view = PrivateView { root };
    let done = work(&view);
    // The kernel ends the session when nothing in the mount is open any more.
    drop(view);
    let served = serving.join();
    let flushed = disks.flush();
    let done = done?;
    served.map_err(|e| Error::io("the connection to the kernel broke", e))?;
    flushed.map_err(|e| Error::io("the last writes could not be stored", e))?;
    Ok(done)
}

/// Nothing but a descriptor leads to the mount, and whoever gets one may use it: tools that root
/// starts have another user ID. Only root can let others in everywhere.
fn options() -> MountOptions {
    let root = nix::unistd::geteuid().is_root();
    let mut options = MountOptions::default();
    options.allow_other = root;
    options.umask = root.then_some(0);
    options
}

/// Mount on a directory that only this user can enter, and detach the mount from it immediately: it
/// remains reachable through a descriptor of its root.
fn detach(fs: DiskFs, source: &str, options: &MountOptions) -> Result<(Serving, OwnedFd)> {
    let dir = private_dir_name("view");
    make_private_dir(&dir)?;
    let mounted =
        MountPoint::open(&dir).and_then(|target| mount_attached(source, &target, options));
    let detached = mounted.and_then(|Mounted { device, mount: entry }| {
        let root = open_root(&entry);
        let serving = Serving::start(fs, device, Latency::Storage);
        let unmounted = unmount(&entry, Unmount::Lazy);
        let root = root?;
        unmounted?;
        Ok((serving?, root))
    });
    let _ = std::fs::remove_dir(&dir);
    detached
}

/// A descriptor of the root of the mount `entry`, and of no other mount.
fn open_root(entry: &MountEntry) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let shown = entry.target.display();
    let root = open(&entry.target, flags, Mode::empty())
        .map_err(|e| Error::io(format!("cannot open the private mount {shown}"), e.into()))?;
    let me = nix::unistd::geteuid().as_raw();
    let ours = |m: &MountEntry| m.id == entry.id && m.fs_type == FS_TYPE && m.user() == Some(me);
    if MountEntry::of(&root).is_some_and(|found| ours(&found)) {
        return Ok(root);
    }
    let what = format!("{shown} does not show the private mount that was made there");
    Err(Error::new(ErrorKind::Io, what))
}
