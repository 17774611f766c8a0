//! Detects whether another program writes to an image, and takes locks that keep other programs
//! from writing.
//!
//! An image that changes while it is in use makes the disk inconsistent, and permanently corrupts
//! any overlay on it.
//! Sources: `/proc/self/mountinfo` (proc(5)), `/sys/block/loop*/loop` (kernel
//! Documentation/admin-guide/blockdev), QEMU's image locks (QEMU docs/system/images, "Disk image
//! file locking"; `block/file-posix.c`).

use crate::process::mount_table;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// First of the bytes that QEMU locks for the permissions it uses, one byte per permission.
const QEMU_USES: i64 = 100;
/// First of the bytes that QEMU locks for the permissions it denies to others.
const QEMU_FORBIDS: i64 = 200;
/// QEMU's `BLK_PERM_CONSISTENT_READ`, `_WRITE` and `_RESIZE`, as bit numbers.
const PERM_READ: i64 = 0;
const PERM_WRITE: i64 = 1;
const PERM_RESIZE: i64 = 3;

/// What the holder of an image does with it, and what other programs must not do meanwhile, in
/// terms of QEMU's image locks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// The holder reads, and other programs must not write or resize: a backing image.
    StableRead,
    /// The holder writes, and other programs must not read or write: an overlay.
    Exclusive,
}

impl Claim {
    fn uses(self) -> &'static [i64] {
        match self {
            Self::StableRead => &[PERM_READ],
            Self::Exclusive => &[PERM_READ, PERM_WRITE, PERM_RESIZE],
        }
    }

    fn forbids(self) -> &'static [i64] {
        match self {
            Self::StableRead => &[PERM_WRITE, PERM_RESIZE],
            Self::Exclusive => &[PERM_READ, PERM_WRITE, PERM_RESIZE],
        }
    }
}

/// Lock `file` as QEMU would, until its open file description is closed. QEMU and other mounts then
/// respect the claim. On a filesystem without locks this does nothing.
///
/// # Errors
/// [`ErrorKind::Busy`] when another program's claim conflicts with this one; locks already taken
/// are held until `file` is closed.
pub fn claim(file: &impl AsFd, claim: Claim) -> Result<()> {
    let lock = |byte| fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&byte_lock(byte, libc::F_RDLCK)));
    for byte in claim.uses().iter().map(|p| QEMU_USES + p) {
        // A failure does not indicate a conflict: these are shared locks, which never exclude each
        // other.
        let _ = lock(byte);
    }
    for byte in claim.forbids().iter().map(|p| QEMU_FORBIDS + p) {
        let _ = lock(byte);
    }
    let opposed = claim.uses().iter().map(|p| QEMU_FORBIDS + p);
    let opposing = claim.forbids().iter().map(|p| QEMU_USES + p);
    if opposed.chain(opposing).any(|byte| is_locked(file, byte)) {
        return Err(Error::new(ErrorKind::Busy, "another program has it open"));
    }
    Ok(())
}

/// Whether another open file description holds `byte`.
fn is_locked(file: &impl AsFd, byte: i64) -> bool {
    let mut lock = byte_lock(byte, libc::F_WRLCK);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock)).is_ok()
        && lock.l_type != libc::F_UNLCK as libc::c_short
}

fn byte_lock(byte: i64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// Refuse the image `file` at `path` (absolute) if it is mounted read-write or open for writing.
///
/// # Errors
/// [`ErrorKind::Busy`], naming the user of the image.
pub fn check_unused(file: &File, path: &Path) -> Result<()> {
    let shown = path.display();
    let meta = file.metadata().map_err(|e| Error::io(format!("cannot stat {shown}"), e))?;
    let user = if meta.file_type().is_block_device() {
        device_user(path, meta.rdev())
    } else {
        loop_user(meta.dev(), meta.ino())
    };
    match user.or_else(|| qemu_user(file)) {
        Some(user) => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{shown} is {user}; an image must not change while it is shown. Release it there \
                 first, or use --force if you know that nothing writes to it"
            ),
        )),
        None => Ok(()),
    }
}

/// Whether a program that follows QEMU's locking protocol has the image open for writing.
fn qemu_user(file: &File) -> Option<String> {
    is_locked(file, QEMU_USES + PERM_WRITE).then(|| "open for writing in a running QEMU".to_owned())
}

/// A writable loop device on the file `dev`:`ino`.
fn loop_user(dev: u64, ino: u64) -> Option<String> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let sys = entry.path();
        let Ok(backing) = fs::read_to_string(sys.join("loop/backing_file")) else { continue };
        let Ok(meta) = fs::metadata(backing.trim_end_matches('\n')) else { continue };
        if (meta.dev(), meta.ino()) != (dev, ino) || is_read_only(&sys) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = fs::read_to_string(sys.join("dev")).unwrap_or_default();
        return Some(match mounts(number.trim()).into_iter().next() {
            Some((target, _)) => format!("attached to /dev/{name} and mounted on {target}"),
            None => format!("attached to /dev/{name}"),
        });
    }
    None
}

fn is_read_only(sys: &Path) -> bool {
    fs::read_to_string(sys.join("ro")).is_ok_and(|ro| ro.trim() == "1")
}

/// Which user of the block device `rdev`, if any, may write to it.
fn device_user(path: &Path, rdev: u64) -> Option<String> {
    let number = format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let mounted = mounts(&number);
    if let Some((target, _)) = mounted.iter().find(|(_, writable)| *writable) {
        return Some(format!("mounted on {target}"));
    }
    let sys = PathBuf::from(format!("/sys/dev/block/{number}"));
    if is_read_only(&sys) || !mounted.is_empty() {
        return None;
    }
    let probe = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    match probe {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            let holder = fs::read_dir(sys.join("holders"))
                .ok()
                .and_then(|mut d| d.next())
                .and_then(|e| e.ok())
                .map(|e| e.file_name().to_string_lossy().into_owned());
            Some(match holder {
                Some(holder) => format!("held by /dev/{holder}"),
                None => "held exclusively by another program (a running domU, swap, RAID)".into(),
            })
        }
        _ => None,
    }
}

/// Mount points of the device `number` (`MAJ:MIN`), and whether the filesystem of each is writable.
/// A read-only bind mount does not mean that the filesystem is read-only.
fn mounts(number: &str) -> Vec<(String, bool)> {
    let of_device = mount_table().into_iter().filter(|m| m.device == number);
    of_device.map(|m| (m.target.display().to_string(), m.is_writable())).collect()
}

/// Permission bits for a file that will contain data of `images`: those that every image grants,
/// plus read and write for the owner. An image whose mode cannot be read grants nothing, and
/// neither does an empty list.
pub fn common_mode(images: &[PathBuf]) -> u32 {
    let mode_of = |path| std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    images.iter().map(mode_of).reduce(|all, mode| all & mode).unwrap_or(0) & 0o666 | 0o600
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_style_locks_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, [0; 512]).unwrap();
        let image = File::open(&path).unwrap();
        check_unused(&image, &path).unwrap();
        let writer = fs::File::options().read(true).write(true).open(&path).unwrap();
        let lock = byte_lock(QEMU_USES + PERM_WRITE, libc::F_RDLCK);
        fcntl(&writer, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert_eq!(check_unused(&image, &path).unwrap_err().kind(), ErrorKind::Busy);
        drop(writer);
        check_unused(&image, &path).unwrap();
        claim(&image, Claim::StableRead).unwrap();
        let second = File::open(&path).unwrap();
        claim(&second, Claim::StableRead).unwrap();
        let writer = fs::File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(claim(&writer, Claim::Exclusive).unwrap_err().kind(), ErrorKind::Busy);
    }

    #[test]
    fn a_copy_is_no_more_open_than_its_sources() {
        let dir = tempfile::tempdir().unwrap();
        let with = |name: &str, mode| {
            let path = dir.path().join(name);
            fs::write(&path, b"").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (open, group, closed) = (with("a", 0o644), with("b", 0o440), with("c", 0o400));
        assert_eq!(common_mode(std::slice::from_ref(&open)), 0o644);
        assert_eq!(common_mode(&[open.clone(), group]), 0o640);
        assert_eq!(common_mode(&[open, closed]), 0o600);
    }
}
