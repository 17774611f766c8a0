//! Making a mount.
//!
//! This is done here and not by `fuser`, whose teardown may unmount an unrelated filesystem if the
//! mount was already removed from outside. Sources: kernel Documentation/filesystems/fuse,
//! fusermount3(1), fsopen(2), fsmount(2), move_mount(2).
//!
//! Root creates a detached mount, which no path leads to, and then, if it is to be visible,
//! attaches it to its mount point through a descriptor of that directory. On kernels before 5.2,
//! and in sandboxes that forbid these calls, mount(2) is used on that descriptor instead. Other
//! users use fusermount3.

use super::options::MountOptions;
use crate::process::MountEntry;
use crate::sandbox::receive_descriptor;
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::mount;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{Mode, SFlag, fstat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `mount` shows as the filesystem's type.
pub const FS_TYPE: &str = "fuse.synthdisk";

/// Maximum length of a string that fsconfig(2) accepts, in bytes.
const CONFIG_MAX: usize = 255;

/// A directory to mount on, held by descriptor: renaming it, or replacing it with a symlink, does
/// not change where the mount goes.
#[derive(Debug)]
pub struct MountPoint {
    fd: OwnedFd,
    path: PathBuf,
}

impl MountPoint {
    /// Open the directory `path`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Invalid`] or [`ErrorKind::Busy`], with the reason.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let failed = |e: Errno| match e {
            Errno::ENOENT => Error::new(
                ErrorKind::NotFound,
                format!("there is no mount point {shown}; make it first (mkdir {shown})"),
            ),
            Errno::ENOTCONN => Error::new(
                ErrorKind::Invalid,
                format!(
                    "{shown} is a mount whose program has died; end it first (synthdisk umount {shown})"
                ),
            ),
            _ => Error::io(format!("cannot use the mount point {shown}"), e.into()),
        };
        let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        // Unlike an O_PATH open, this reaches the filesystem that is mounted there, if there is
        // one.
        let stat = fstat(&fd).map_err(failed)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the mount point {shown} is not a directory"),
            ));
        }
        if MountEntry::of(&fd).is_some_and(|m| m.fs_type == FS_TYPE) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{shown} already shows a synthdisk mount; unmount it or take another directory"
                ),
            ));
        }
        let found = std::fs::read_link(fd_path(&fd));
        let path =
            found.map_err(|e| Error::io(format!("cannot use the mount point {shown}"), e))?;
        Ok(Self { fd, path })
    }

    /// Its absolute path, without symlinks, as of the time it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mount that is on it now.
    fn entry(&self) -> Result<MountEntry> {
        MountEntry::at(&self.path).filter(|m| m.fs_type == FS_TYPE).ok_or_else(|| {
            let what = format!("the mount on {} has disappeared", self.path.display());
            Error::new(ErrorKind::Io, what)
        })
    }
}

/// A path to the file that `fd` has open, independent of its names (proc_pid_fd(5)).
pub(super) fn fd_path(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// A mount, and the channel on which the kernel sends requests for it.
#[derive(Debug)]
pub(super) struct Mounted<M> {
    /// `/dev/fuse`, connected to the mount.
    pub(super) device: OwnedFd,
    /// The mount.
    pub(super) mount: M,
}

/// A mount that no path leads to; it ends when this value and everything opened through it are
/// closed.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Create the mount. Once it is attached, `mount` lists `source` as its source. `None` when the
    /// kernel does not support detached mounts or does not allow this process to create one.
    ///
    /// # Errors
    /// When FUSE is not available; errors of the kernel.
    pub(super) fn new(source: &str, options: &MountOptions) -> Result<Option<Mounted<Self>>> {
        if !nix::unistd::geteuid().is_root() || source.len() > CONFIG_MAX {
            return Ok(None);
        }
        let failed = |e: rustix::io::Errno| Error::io("cannot make a mount", e.into()).of_host();
        let context = match fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) {
            // Some sandboxes report these calls as unknown, others as forbidden.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => return Ok(None),
            Err(rustix::io::Errno::NODEV) => return Err(no_fuse(Errno::ENODEV)),
            other => other.map_err(failed)?,
        };
        let device = open_device()?;
        let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
        let number = |id: u32| id.to_string();
        set("source", source).map_err(failed)?;
        set("subtype", "synthdisk").map_err(failed)?;
        set("fd", &device.as_raw_fd().to_string()).map_err(failed)?;
        set("rootmode", "40000").map_err(failed)?;
        set("user_id", &number(nix::unistd::geteuid().as_raw())).map_err(failed)?;
        set("group_id", &number(nix::unistd::getegid().as_raw())).map_err(failed)?;
        for flag in options.filesystem_flags() {
            fsconfig_set_flag(&context, flag).map_err(failed)?;
        }
        fsconfig_create(&context).map_err(failed)?;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.mount_attributes())
            .map_err(failed)?;
        Ok(Some(Mounted { device, mount: Self(root) }))
    }

    /// An O_PATH descriptor of its root.
    pub(super) fn into_root(self) -> OwnedFd {
        self.0
    }

    /// Attach it to `target`, where every user can see it.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub(super) fn attach(self, target: &MountPoint) -> Result<MountEntry> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.0, "", &target.fd, "", flags)
            .map_err(|e| cannot_mount(target, e.into()))?;
        MountEntry::of(&self.0).ok_or_else(|| {
            let what = format!("the mount on {} has disappeared", target.path.display());
            Error::new(ErrorKind::Io, what)
        })
    }
}

/// Mount on `target` with mount(2), or with fusermount3 for users other than root.
///
/// # Errors
/// Errors of the kernel or of fusermount3.
pub(super) fn mount_attached(
    source: &str,
    target: &MountPoint,
    options: &MountOptions,
) -> Result<Mounted<MountEntry>> {
    let device = if nix::unistd::geteuid().is_root() {
        match direct(source, target, options)? {
            Some(device) => device,
            None => by_fusermount(source, target, options)?,
        }
    } else {
        by_fusermount(source, target, options)?
    };
    Ok(Mounted { device, mount: target.entry()? })
}

fn open_device() -> Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let device = device.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            no_fuse(Errno::from_raw(e.raw_os_error().unwrap_or_default()))
        }
        _ => Error::io("cannot open /dev/fuse", e).of_host(),
    })?;
    Ok(device.into())
}

fn no_fuse(e: Errno) -> Error {
    Error::io("FUSE is not available (no /dev/fuse; try `modprobe fuse`)", e.into()).of_host()
}

fn cannot_mount(target: &MountPoint, e: io::Error) -> Error {
    Error::io(format!("cannot mount on {}", target.path.display()), e).of_host()
}

/// Mount with mount(2). `None` when the kernel does not allow it.
fn direct(source: &str, target: &MountPoint, options: &MountOptions) -> Result<Option<OwnedFd>> {
    let device = open_device()?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid(),
    );
    for flag in options.filesystem_flags().filter(|flag| *flag != "ro") {
        data.push(',');
        data.push_str(flag);
    }
    let at = fd_path(&target.fd);
    match mount(Some(source), &at, Some(FS_TYPE), options.kernel_flags(), Some(data.as_str())) {
        Ok(()) => Ok(Some(device)),
        Err(Errno::EPERM) => Ok(None),
        Err(Errno::ENODEV) => Err(no_fuse(Errno::ENODEV)),
        Err(e) => Err(cannot_mount(target, e.into())),
    }
}

/// Let the set-user-id helper mount, and receive the device from it.
fn by_fusermount(source: &str, target: &MountPoint, options: &MountOptions) -> Result<OwnedFd> {
    let failed = |e: Errno| Error::io("cannot talk to fusermount3", e.into());
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
        .map_err(failed)?;
    // Only the helper may inherit its end of the socket, and it must not inherit ours.
    nix::fcntl::fcntl(ours.as_fd(), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map_err(failed)?;
    // fusermount3 splits options at commas that are not escaped with a backslash.
    let source = source.replace('\\', "\\\\").replace(',', "\\,");
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(format!("{},fsname={source},subtype=synthdisk", options.fusermount()))
        .arg("--")
        .arg(&target.path)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::Host,
                "mounting as a plain user needs fusermount3; install the package fuse3, or mount as root",
            ),
            _ => Error::io("cannot start fusermount3", e),
        })?;
    drop(theirs);
    let device = receive_descriptor(&ours).map(|got| got.and_then(|(_, fd)| fd));
    let output =
        child.wait_with_output().map_err(|e| Error::io("cannot wait for fusermount3", e))?;
    device
        .map_err(|e| Error::io("cannot talk to fusermount3", e))?
        .filter(|_| output.status.success())
        .ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("fusermount3: ");
            let what = format!("cannot mount on {}: {said}", target.path.display());
            Error::new(ErrorKind::Host, what)
        })
}
