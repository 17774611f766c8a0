//! Is somebody else writing to the image?
//!
//! An image that changes while it is shown would be a broken disk, and a broken overlay for good.
//! Sources: `/proc/self/mountinfo` (proc(5)), `/sys/block/loop*/loop` (kernel
//! Documentation/admin-guide/blockdev), QEMU's image locks (QEMU docs/system/images, "Disk image
//! file locking"; `block/file-posix.c`).

use super::{Image, RawImage};
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{FcntlArg, fcntl};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// First of the bytes that QEMU locks for what it does itself, one byte per permission.
const QEMU_USES: i64 = 100;
/// First of the bytes that QEMU locks for what it does not tolerate in others.
const QEMU_FORBIDS: i64 = 200;
/// QEMU's `BLK_PERM_CONSISTENT_READ`, `_WRITE` and `_RESIZE`, as bit numbers.
const PERM_READ: i64 = 0;
const PERM_WRITE: i64 = 1;
const PERM_RESIZE: i64 = 3;

/// What a holder of an image does to it and what it does not tolerate in others, in the terms of
/// QEMU's image locks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Reads, and nobody may write or resize: a backing image.
    StableRead,
    /// Writes, and nobody else may read or write: an overlay.
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

/// Lock `file` as QEMU would, until its open file description is closed; QEMU and other mounts
/// then respect the claim. Filesystems without locks are passed over.
///
/// # Errors
/// [`ErrorKind::Busy`] when somebody else's claim contradicts this one; locks already taken stay
/// until `file` is closed.
pub fn claim(file: &impl AsFd, claim: Claim) -> Result<()> {
    let lock = |byte| fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&byte_lock(byte, libc::F_RDLCK)));
    for byte in claim.uses().iter().map(|p| QEMU_USES + p) {
        // A lock that cannot be had is no conflict here: shared locks never exclude each other.
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

/// Refuse an image that is mounted read-write or that somebody has open for writing.
///
/// # Errors
/// [`ErrorKind::Busy`] naming who uses it.
pub fn check_unused(image: &RawImage) -> Result<()> {
    let meta = image
        .file()
        .metadata()
        .map_err(|e| Error::io(format!("cannot stat {}", image.path().display()), e))?;
    let user = if meta.file_type().is_block_device() {
        device_user(image.path(), meta.rdev())
    } else {
        loop_user(meta.dev(), meta.ino())
    };
    match user.or_else(|| qemu_user(image)) {
        Some(user) => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{} is {user}; an image must not change while it is shown. Release it there \
                 first, or use --force if you know that nobody writes",
                image.path().display()
            ),
        )),
        None => Ok(()),
    }
}

/// Whether a program that follows QEMU's locking has the image open for writing.
fn qemu_user(image: &RawImage) -> Option<String> {
    is_locked(image.file(), QEMU_USES + PERM_WRITE)
        .then(|| "open for writing in a running QEMU".to_owned())
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

/// Who uses the block device `rdev`, when somebody may write to it.
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

/// Mount points of the device `number` (`MAJ:MIN`), each with whether it is writable.
fn mounts(number: &str) -> Vec<(String, bool)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_mounts(&table, number)
}

fn parse_mounts(table: &str, number: &str) -> Vec<(String, bool)> {
    table
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let fields: Vec<&str> = head.split(' ').collect();
            // What counts is the filesystem: a read-only bind mount of it proves nothing.
            let super_options = tail.split(' ').nth(2)?;
            let (device, target) = (fields.get(2)?, fields.get(4)?);
            let writable = !super_options.split(',').any(|option| option == "ro");
            (*device == number).then(|| (unescape_mount_field(target), writable))
        })
        .collect()
}

/// Undo the octal escapes of the mount table (`\040` for a space).
pub fn unescape_mount_field(field: &str) -> String {
    let mut out = Vec::new();
    let bytes = field.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\')
            .then(|| field.get(i + 1..i + 4))
            .flatten()
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Permission bits of a file that will hold what `images` hold: what all of them grant, and what its
/// owner needs. An image whose mode cannot be read grants nothing; neither do no images.
pub fn common_mode(images: &[PathBuf]) -> u32 {
    let mode_of = |path| std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    images.iter().map(mode_of).reduce(|all, mode| all & mode).unwrap_or(0) & 0o666 | 0o600
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table() {
        let table = "\
36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw,errors=continue
37 35 98:1 / /mnt/ro ro - ext4 /dev/x ro
38 35 98:0 / /other rw - ext3 /dev/root rw
broken line";
        assert_eq!(
            parse_mounts(table, "98:0"),
            [("/mnt/a b".to_owned(), true), ("/other".to_owned(), true)]
        );
        assert_eq!(parse_mounts(table, "98:1"), [("/mnt/ro".to_owned(), false)]);
        assert!(parse_mounts(table, "9:9").is_empty());
    }

    #[test]
    fn qemu_style_locks_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, [0; 512]).unwrap();
        let image = RawImage::open(&path).unwrap();
        check_unused(&image).unwrap();
        let writer = fs::File::options().read(true).write(true).open(&path).unwrap();
        let lock = byte_lock(QEMU_USES + PERM_WRITE, libc::F_RDLCK);
        fcntl(&writer, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert_eq!(check_unused(&image).unwrap_err().kind(), ErrorKind::Busy);
        drop(writer);
        check_unused(&image).unwrap();
        claim(image.file(), Claim::StableRead).unwrap();
        let second = RawImage::open(&path).unwrap();
        claim(second.file(), Claim::StableRead).unwrap();
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
