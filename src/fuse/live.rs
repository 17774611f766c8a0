//! Access to a mount that another process serves.
//!
//! Any user may mount a filesystem of type fuse.synthdisk whose files have arbitrary content. A
//! mount's status is trusted only if root or the caller mounted it, and its files are opened
//! beneath its own directory, whatever their names are.

use super::mount::FS_TYPE;
use crate::export::{STATUS_FILE, Status};
use crate::process::MountEntry;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Larger than any real status, in bytes.
const STATUS_MAX: u64 = 4 << 20;

/// The mount that a process serves on a directory.
#[derive(Clone, Debug)]
pub struct LiveMount {
    /// The mount point, absolute.
    pub dir: PathBuf,
    /// The mount's status; the names in it are plain file names.
    pub status: Status,
    root: Arc<OwnedFd>,
}

impl LiveMount {
    /// The mount on `path`; `None` if that is not a synthdisk mount.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a mount whose process has died or that another user made;
    /// [`ErrorKind::Corrupt`] for a status that synthdisk did not write; errors of reading it.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        let shown = path.display();
        let dir = match path.canonicalize() {
            Ok(dir) => dir,
            Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
                let what = format!(
                    "the process that served the mount on {shown} has died; unmount it with \
                     `synthdisk umount {shown}`"
                );
                return Err(Error::new(ErrorKind::Invalid, what));
            }
            Err(_) => return Ok(None),
        };
        let failed = |e| Error::io(format!("cannot read the status of the mount on {shown}"), e);
        // Identified through the descriptor, because the path may lead to another mount a moment
        // later.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = match open(&dir, flags, Mode::empty()) {
            Ok(root) => root,
            Err(nix::Error::ENOTDIR) => return Ok(None),
            Err(e) => return Err(failed(e.into())),
        };
        let Some(entry) = MountEntry::of_root(&root).filter(|m| m.fs_type == FS_TYPE) else {
            return Ok(None);
        };
        check_owner(&entry, path)?;
        let status = beneath(&root, STATUS_FILE).map_err(failed)?;
        let mut text = Vec::new();
        status.take(STATUS_MAX).read_to_end(&mut text).map_err(failed)?;
        let status: Status = serde_json::from_slice(&text).map_err(|e| {
            let what = format!("the mount on {shown} has a status that cannot be read");
            Error::with_source(ErrorKind::Corrupt, what, e)
        })?;
        if let Some(disk) = status.disks.iter().find(|disk| !is_plain(&disk.file)) {
            let what = format!(
                "the mount on {shown} lists a disk with the name {:?}, which is not a file name",
                disk.file
            );
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(Some(Self { dir, status, root: Arc::new(root) }))
    }

    /// Open `name`, a file of the mount, for reading. Neither symlinks nor other mounts are
    /// followed.
    ///
    /// # Errors
    /// Errors of openat2(2).
    pub fn open(&self, name: &str) -> io::Result<File> {
        beneath(&self.root, name)
    }
}

/// Refuse a mount that was made neither by root nor by the caller. The kernel records who made it,
/// and shows that as `user_id` in the mount's options; fusermount3 does not let other users choose
/// it.
fn check_owner(entry: &MountEntry, shown: &Path) -> Result<()> {
    let own = Uid::effective().as_raw();
    if entry.user().is_some_and(|owner| owner == 0 || owner == own) {
        return Ok(());
    }
    let owner = entry.user().map_or_else(|| "another user".into(), |uid| format!("user {uid}"));
    let what = format!(
        "the mount on {} was made by {owner}, who decides what it says of itself; run this command \
         as that user",
        shown.display()
    );
    Err(Error::new(ErrorKind::Invalid, what))
}

fn beneath(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    Ok(openat2(dir, name, how)?.into())
}

/// Whether `name` names a file in the directory itself, neither above nor below it.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for name in ["disk.raw", "..raw", "disk-b.raw", "a b"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", "/etc/passwd", "../x", "a/b", "a\0"] {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn nothing_outside_is_opened() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("mount");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(outer.path().join("secret"), "x").unwrap();
        std::fs::write(inner.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", inner.join("link")).unwrap();
        let dir: OwnedFd = File::open(&inner).unwrap().into();
        assert!(beneath(&dir, "file").is_ok());
        for name in ["link", "../secret", "/etc/passwd", "/proc/self/exe"] {
            assert!(beneath(&dir, name).is_err(), "{name}");
        }
    }

    #[test]
    fn whose_mounts_are_believed() {
        let entry = |owner: Option<u32>| MountEntry {
            id: 1,
            device: "0:1".into(),
            target: "/mnt".into(),
            fs_type: FS_TYPE.into(),
            source: "/img".into(),
            super_options: owner.map_or("rw".into(), |uid| format!("rw,user_id={uid},group_id=0")),
        };
        let own = Uid::effective().as_raw();
        for (owner, believed) in
            [(Some(0), true), (Some(own), true), (Some(own + 65534), false), (None, false)]
        {
            let result = check_owner(&entry(owner), Path::new("/mnt"));
            assert_eq!(result.is_ok(), believed, "{owner:?}");
        }
    }
}
