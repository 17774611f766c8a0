//! Making and ending a mount.
//!
//! Done here and not by `fuser`, whose teardown may unmount somebody else's filesystem after the
//! mount was ended from outside. Sources: kernel Documentation/filesystems/fuse, fusermount3(1).

use super::mounts::{MountEntry, find_mount};
use super::options::MountOptions;
use crate::{Error, ErrorKind, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::mount::{MntFlags, mount, umount2};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `mount` shows as the filesystem's type.
pub(super) const FS_TYPE: &str = "fuse.synthdisk";

/// A mount that was made, and the channel to the kernel that serves it.
#[derive(Debug)]
pub struct Mounted {
    /// `/dev/fuse`, connected.
    pub(super) device: OwnedFd,
    entry: MountEntry,
}

/// Check that something can be mounted on `path`; returns it absolute.
///
/// # Errors
/// [`ErrorKind::NotFound`] and [`ErrorKind::Invalid`] with what is wrong about it.
pub fn check_mount_point(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let failed = |e: io::Error| match e.raw_os_error() {
        Some(libc::ENOENT) => Error::new(
            ErrorKind::NotFound,
            format!("there is no mount point {shown}; make it first (mkdir {shown})"),
        ),
        Some(libc::ENOTCONN) => Error::new(
            ErrorKind::Invalid,
            format!(
                "{shown} is a mount whose program has died; end it first (synthdisk umount {shown})"
            ),
        ),
        _ => Error::io(format!("cannot use the mount point {shown}"), e),
    };
    let absolute = path.canonicalize().map_err(failed)?;
    // Only this asks the mount itself, if there is one.
    let meta = std::fs::metadata(&absolute).map_err(failed)?;
    if !meta.is_dir() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the mount point {shown} is not a directory"),
        ));
    }
    if find_mount(&absolute).is_some_and(|m| m.fs_type == FS_TYPE) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{shown} already shows a synthdisk mount; unmount it or take another directory"
            ),
        ));
    }
    Ok(absolute)
}

impl Mounted {
    /// Mount on `target`, which [`check_mount_point`] gave. `source` is what `mount` shows.
    ///
    /// # Errors
    /// The kernel's or fusermount3's, in a sentence.
    pub fn new(source: &str, target: &Path, options: &MountOptions) -> Result<Self> {
        let device = match direct(source, target, options) {
            Err(Errno::EPERM) => by_fusermount(source, target, options)?,
            result => result.map_err(|e| {
                let what = match e {
                    Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => {
                        "FUSE is not available (no /dev/fuse; try `modprobe fuse`)".to_owned()
                    }
                    _ => format!("cannot mount on {}", target.display()),
                };
                Error::io(what, e.into())
            })?,
        };
        let entry = find_mount(target).filter(|m| m.fs_type == FS_TYPE).ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("the mount on {} vanished", target.display()))
        })?;
        Ok(Self { device, entry })
    }

    /// What [`Mounted::end`] needs once the device has been given away.
    pub(super) fn entry(&self) -> MountEntry {
        self.entry.clone()
    }
}

/// Mount by the system call, which takes root.
fn direct(source: &str, target: &Path, options: &MountOptions) -> nix::Result<OwnedFd> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Errno::EPERM);
    }
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid(),
    );
    for (on, name) in [
        (options.allow_other, ",allow_other"),
        (options.default_permissions, ",default_permissions"),
    ] {
        if on {
            data.push_str(name);
        }
    }
    mount(Some(source), target, Some(FS_TYPE), options.kernel_flags(), Some(data.as_str()))?;
    Ok(device.into())
}

/// Have the set-user-id helper mount, and receive the device from it.
fn by_fusermount(source: &str, target: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let failed = |e: Errno| Error::io("cannot talk to fusermount3", e.into());
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
        .map_err(failed)?;
    // Only the helper may keep its end, and it must not have ours.
    nix::fcntl::fcntl(ours.as_fd(), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map_err(failed)?;
    // fusermount3 splits options at commas that no backslash precedes.
    let source = source.replace('\\', "\\\\").replace(',', "\\,");
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(format!("{},fsname={source},subtype=synthdisk", options.fusermount()))
        .arg("--")
        .arg(target)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                "mounting as a plain user needs fusermount3; install the package fuse3, or mount as root",
            ),
            _ => Error::io("cannot start fusermount3", e),
        })?;
    drop(theirs);
    let device = receive_fd(&ours);
    let output =
        child.wait_with_output().map_err(|e| Error::io("cannot wait for fusermount3", e))?;
    device.map_err(failed)?.filter(|_| output.status.success()).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("fusermount3: ");
        Error::new(ErrorKind::Io, format!("cannot mount on {}: {said}", target.display()))
    })
}

/// The file descriptor that comes over `socket`, if one does before its other end is closed.
#[expect(unsafe_code, reason = "the kernel gives a descriptor as a number")]
fn receive_fd(socket: &OwnedFd) -> nix::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
            return Ok(fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    Ok(None)
}

/// Unmount what shows at `entry`'s place, if it still is that very mount. With `lazy`, also when
/// files in it are open.
///
/// # Errors
/// [`ErrorKind::Busy`] while files in it are open, else the kernel's or fusermount3's.
pub fn unmount(entry: &MountEntry, lazy: bool) -> Result<()> {
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
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(&entry.target, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => {}
        Err(Errno::EBUSY) => return Err(busy()),
        Err(e) => return Err(Error::io(format!("cannot unmount {shown}"), e.into())),
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
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
