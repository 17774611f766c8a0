//! The kernel's table of mounts.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountEntry {
    /// Unique number of the mount.
    pub id: u64,
    /// `MAJOR:MINOR` of the filesystem.
    pub device: String,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Filesystem type, for example `fuse.synthdisk`.
    pub fs_type: String,
    /// What was mounted: a device, or a string that the filesystem chooses.
    pub source: String,
    /// Options of the filesystem itself, as opposed to those of this particular mount.
    pub super_options: String,
}

impl MountEntry {
    /// The mount that contains the file open as `fd`; `None` if it is not in this process's
    /// namespace.
    pub fn of(fd: &impl AsFd) -> Option<Self> {
        let info = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let info = fs::read_to_string(info).ok()?;
        let id: u64 = info.lines().find_map(|l| l.strip_prefix("mnt_id:"))?.trim().parse().ok()?;
        mount_table().into_iter().find(|m| m.id == id)
    }

    /// The mount visible at `target`, a path without symlinks: the topmost one. Sends no request to
    /// the filesystem, whose server may be dead.
    pub fn at(target: &Path) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Self::of_root(&open(target, flags, Mode::empty()).ok()?)
    }

    /// The mount whose root is open as `fd`.
    pub fn of_root(fd: &impl AsFd) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        let path = fs::read_link(path).ok()?;
        Self::of(fd).filter(|m| m.target == path)
    }

    /// Whether the filesystem is writable. Even if this mount is read-only, another mount of the
    /// filesystem may be writable.
    pub fn is_writable(&self) -> bool {
        !self.super_options.split(',').any(|option| option == "ro")
    }

    /// The user who made a FUSE mount; the kernel uses it to decide who may access the mount.
    pub fn user(&self) -> Option<u32> {
        let user = self.super_options.split(',').find_map(|o| o.strip_prefix("user_id="));
        user.and_then(|id| id.parse().ok())
    }
}

/// All mounts of this process's namespace, in the order of the table. Empty without /proc.
pub fn mount_table() -> Vec<MountEntry> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<MountEntry> {
    let (head, tail) = line.split_once(" - ")?;
    let mut fields = head.split(' ');
    let id = fields.next()?.parse().ok()?;
    let device = fields.nth(1)?.to_owned();
    let target = PathBuf::from(unescape(fields.nth(1)?));
    let mut tail = tail.split(' ');
    let fs_type = tail.next()?.to_owned();
    let source = unescape(tail.next()?);
    let super_options = tail.next()?.to_owned();
    Some(MountEntry { id, device, target, fs_type, source, super_options })
}

/// Decode the table's octal escapes (`\040` for a space).
fn unescape(field: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_path_and_by_descriptor() {
        let root = MountEntry::at(Path::new("/")).unwrap();
        assert_eq!(root.target, Path::new("/"));
        let dir = std::fs::File::open("/proc/self").unwrap();
        let proc = MountEntry::of(&dir).unwrap();
        assert_eq!(proc.target, Path::new("/proc"));
        assert_eq!(MountEntry::at(Path::new("/proc")), Some(proc));
        assert_eq!(MountEntry::at(Path::new("/proc/sys/kernel")), None, "no mount of its own");
        assert_eq!(MountEntry::at(Path::new("/proc/nothing")), None);
    }

    #[test]
    fn parses_the_kernels_lines() {
        let entry = parse(
            "36 35 0:52 / /mnt/a\\040b rw,nosuid shared:7 - fuse.synthdisk /img rw,user_id=0",
        );
        let entry = entry.unwrap();
        assert_eq!(
            entry,
            MountEntry {
                id: 36,
                device: "0:52".into(),
                target: "/mnt/a b".into(),
                fs_type: "fuse.synthdisk".into(),
                source: "/img".into(),
                super_options: "rw,user_id=0".into(),
            }
        );
        assert!(entry.is_writable());
        assert_eq!(entry.user(), Some(0));
        // The filesystem's options count, not those of this mount.
        assert!(parse("38 35 98:0 / /x ro - ext3 /dev/root rw").unwrap().is_writable());
        assert!(!parse("37 35 98:1 / /mnt/ro ro - ext4 /dev/x ro").unwrap().is_writable());
        assert_eq!(parse("nonsense"), None);
        assert_eq!(parse("36 35 - x"), None);
    }
}
