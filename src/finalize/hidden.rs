//! A directory next to a result that only this user can enter, for files that must have a name
//! before they are complete.
//!
//! The result's directory may belong to another user, who can rename its entries at any time. So
//! the hidden directory is created, opened and used through a descriptor, and passed to other
//! programs as `/proc/self/fd/N`.

use super::destination::OutputPath;
use crate::process::Sweeper;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{NFS_SUPER_MAGIC, fstatfs};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

/// A hidden directory. It is removed with its contents when dropped, and when this process is
/// killed.
#[derive(Debug)]
pub(super) struct HiddenDir {
    dir: File,
    _sweeper: Sweeper,
}

impl HiddenDir {
    /// Create a hidden directory next to `output`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when another user interferes; errors of the system calls.
    pub(super) fn beside(output: &OutputPath) -> Result<Self> {
        let name = output.temporary_name();
        let sweeper = Sweeper::of_temporary(output.dir(), &name)?;
        mkdirat(output.dir(), &*name, Mode::S_IRWXU).map_err(|e| output.failed(e))?;
        let dir = Self::open(output, &name)?;
        Ok(Self { dir, _sweeper: sweeper })
    }

    /// Open the directory created as `name`, unless it has been replaced since.
    fn open(output: &OutputPath, name: &OsStr) -> Result<File> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(output.dir(), name, flags, Mode::empty());
        let dir = File::from(opened.map_err(|e| output.failed(e))?);
        let meta = dir.metadata().map_err(|e| output.failed(e))?;
        let ours = meta.uid() == nix::unistd::geteuid().as_raw();
        // An NFS server may map the creating user to another one.
        let remote = || fstatfs(&dir).is_ok_and(|s| s.filesystem_type() == NFS_SUPER_MAGIC);
        if meta.mode() & 0o077 == 0 && (ours || remote()) {
            return Ok(dir);
        }
        let what = format!(
            "cannot write {}: another user changes its directory; choose one of your own",
            output.path().display()
        );
        Err(Error::new(ErrorKind::Invalid, what))
    }

    /// Open the file `name`.
    ///
    /// # Errors
    /// Errors of the system call; a symbolic link is an error.
    pub(super) fn open_file(&self, name: &OsStr, flags: OFlag) -> nix::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o666);
        openat(&self.dir, name, flags, mode).map(File::from)
    }
}

impl AsFd for HiddenDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finalize::access::SourceAccess;
    use crate::finalize::destination::{Destination, Existing};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_put_in_its_place_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("out.raw");
        let examined = Destination::examine(&path, Existing::Keep, SourceAccess::default());
        let Ok(Destination::File(output)) = examined else { panic!("no file") };
        let open = |name: &str| HiddenDir::open(&output, OsStr::new(name));
        fs::create_dir(parent.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", parent.path().join("link")).unwrap();
        fs::write(parent.path().join("file"), b"").unwrap();
        let mode = |mode| {
            fs::set_permissions(parent.path().join("real"), Permissions::from_mode(mode)).unwrap();
        };
        mode(0o700);
        open("real").unwrap();
        assert!(open("link").is_err());
        assert!(open("file").is_err());
        mode(0o755);
        assert_eq!(open("real").unwrap_err().kind(), ErrorKind::Invalid);
        mode(0o700);
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&parent.path().join("real"), Some(65534.into()), None).unwrap();
            assert_eq!(open("real").unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn it_is_used_by_descriptor() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("out.raw");
        let examined = Destination::examine(&path, Existing::Keep, SourceAccess::default());
        let Ok(Destination::File(output)) = examined else { panic!("no file") };
        let hidden = HiddenDir::beside(&output).unwrap();
        let entries = || fs::read_dir(parent.path()).unwrap().map(|e| e.unwrap().path());
        let made: Vec<_> = entries().collect();
        let [made] = &made[..] else { panic!("{made:?}") };
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
        // Another user moves the directory away and replaces it with a link to another directory.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::rename(made, parent.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), made).unwrap();
        let name = OsStr::new("disk");
        hidden.open_file(name, OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY).unwrap();
        assert!(parent.path().join("moved/disk").exists());
        output.take_name(&hidden, name).unwrap();
        assert!(path.exists());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        drop(hidden);
        // Cleanup removes the link, but nothing through it.
        assert!(made.symlink_metadata().is_err());
        assert!(elsewhere.path().exists());
    }
}
