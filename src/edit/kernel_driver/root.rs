//! Edits below a directory with an untrusted guest's files.

use super::Rights;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, syncfs, unlinkat};
use std::fs::{File, FileTimes, Permissions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The root directory of a guest's filesystem. Paths are absolute in the guest.
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(dir, flags, Mode::empty())
            .map(Self)
            .map_err(|e| Error::io("cannot open the guest's root directory", e.into()))
    }

    /// Replace the contents of a regular file, which must be `old`, or `new` already. Owner, mode,
    /// access and modification times and attributes stay.
    pub(super) fn rewrite(&self, path: &str, old: &[u8], new: &[u8]) -> Result<()> {
        let failed = |e| failed("rewrite", path, e);
        // Opening a pipe must not block; it is refused below.
        let fd = self.walk(path, OFlag::O_RDWR | OFlag::O_NONBLOCK).map_err(failed)?;
        let file = File::from(fd);
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            let what = format!("{path} in the guest is not a regular file");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut there = Vec::new();
        let most = old.len().max(new.len()) as u64 + 1;
        (&file).take(most).read_to_end(&mut there).map_err(failed)?;
        if there == new {
            return Ok(());
        }
        if there != old {
            let what = format!("{path} in the guest is not what it was when it was looked at");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        file.write_all_at(new, 0).map_err(failed)?;
        file.set_len(new.len() as u64).map_err(failed)?;
        let mode = Permissions::from_mode(meta.mode() & 0o7777);
        file.set_permissions(mode).map_err(failed)?;
        let mut times = FileTimes::new();
        if let (Ok(accessed), Ok(modified)) = (meta.accessed(), meta.modified()) {
            times = times.set_accessed(accessed).set_modified(modified);
        }
        file.set_times(times).map_err(failed)
    }

    /// Create a regular file with everything that `content` yields.
    pub(super) fn create(&self, path: &str, content: &mut dyn Read, access: Rights) -> Result<()> {
        let failed = |e| failed("create", path, e);
        let (dir, name) = self.parent(path).map_err(failed)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(&dir, name, flags, private).map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        std::io::copy(content, &mut file).map_err(failed)?;
        set_access(&file, access).map_err(failed)?;
        label(&dir, name).map_err(failed)
    }

    /// Create a directory.
    pub(super) fn make_dir(&self, path: &str, access: Rights) -> Result<()> {
        let failed = |e| failed("make the directory", path, e);
        let (dir, name) = self.parent(path).map_err(failed)?;
        mkdirat(&dir, name, Mode::S_IRWXU).map_err(|e| failed(e.into()))?;
        let made = self.walk(path, OFlag::O_DIRECTORY).map_err(failed)?;
        set_access(&File::from(made), access).map_err(failed)?;
        label(&dir, name).map_err(failed)
    }

    /// Create a symlink.
    pub(super) fn symlink(&self, path: &str, target: &str) -> Result<()> {
        let failed = |e| failed("make the symlink", path, e);
        let (dir, name) = self.parent(path).map_err(failed)?;
        symlinkat(target, &dir, name).map_err(|e| failed(e.into()))?;
        label(&dir, name).map_err(failed)
    }

    /// Remove a file or symlink.
    pub(super) fn remove(&self, path: &str) -> Result<()> {
        let failed = |e| failed("remove", path, e);
        let (dir, name) = self.parent(path).map_err(failed)?;
        unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir).map_err(|e| failed(e.into()))
    }

    /// Write all edits to stable storage.
    pub(super) fn sync(&self) -> Result<()> {
        syncfs(&self.0).map_err(|e| Error::io("cannot store what was edited", e.into()))
    }

    /// Opens what is at `path`; no part of it may be a symlink or a mount point.
    fn walk(&self, path: &str, flags: OFlag) -> std::io::Result<OwnedFd> {
        let below = path.trim_start_matches('/');
        let below = if below.is_empty() { "." } else { below };
        let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        Ok(openat2(self.0.as_fd(), below, how)?)
    }

    /// The parent directory of `path`, and its name there.
    fn parent<'a>(&self, path: &'a str) -> std::io::Result<(OwnedFd, &'a str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        Ok((self.walk(dir, OFlag::O_DIRECTORY | OFlag::O_PATH)?, name))
    }
}

/// Gives the new file `name` in `dir` the SELinux label of that directory, which is the default in
/// a guest that enforces SELinux; without a label, its services may not be able to read it.
fn label(dir: &OwnedFd, name: &str) -> std::io::Result<()> {
    const LABEL: &str = "security.selinux";
    // Neither call follows a symlink at the end of the path.
    let dir = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    match xattr::get(dir.join("."), LABEL) {
        Ok(Some(label)) if !label.is_empty() => xattr::set(dir.join(name), LABEL, &label),
        // The guest has no SELinux, or the host no /proc.
        _ => Ok(()),
    }
}

fn set_access(file: &File, access: Rights) -> std::io::Result<()> {
    // Changing the owner clears bits of the mode, so the mode is set after it.
    fchown(file, Some(access.uid), Some(access.gid))?;
    file.set_permissions(Permissions::from_mode(access.mode & 0o7777))
}

fn failed(what: &str, path: &str, e: std::io::Error) -> Error {
    Error::io(format!("cannot {what} {path} in the guest"), e)
}
