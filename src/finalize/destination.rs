//! The destination given with `-o`: a path that a file gets when it is complete, or a block device.

use super::access::SourceAccess;
use super::unique::unique;
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat2};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether an existing file is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// Keep it, and write nothing.
    Keep,
    /// Replace it when the new file is complete.
    Replace,
}

/// The name that a file will get. Its directory is held open, so later changes to the directory's
/// own path do not redirect the file.
#[derive(Clone, Debug)]
pub struct OutputPath {
    dir: Arc<File>,
    /// The directory's path when it was opened, absolute.
    dir_path: PathBuf,
    name: OsString,
    existing: Existing,
    access: SourceAccess,
}

/// The place where a disk is written.
#[derive(Debug)]
pub enum Destination {
    /// A regular file.
    File(OutputPath),
    /// A block device, by its path.
    Device(PathBuf),
}

impl Destination {
    /// Examine `path`. A file created there will have at most the permissions that `access` allows.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a path that cannot be written to, and for an existing file that
    /// must be kept; [`ErrorKind::NotFound`] if its directory does not exist.
    pub fn examine(path: &Path, existing: Existing, access: SourceAccess) -> Result<Self> {
        let shown = path.display();
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        // A symbolic link is followed: the file that it names is replaced.
        let path = match path.symlink_metadata() {
            Ok(meta) if meta.file_type().is_symlink() => match path.canonicalize() {
                Ok(path) => path,
                Err(_) => {
                    return invalid(format!("{shown} is a symbolic link to nowhere; name a file"));
                }
            },
            _ => path.to_path_buf(),
        };
        match fs::metadata(&path) {
            Ok(meta) if meta.file_type().is_block_device() => return Ok(Self::Device(path)),
            Ok(meta) if meta.is_dir() => {
                return invalid(format!("{shown} is a directory; name a file in it"));
            }
            Ok(meta) if !meta.is_file() => {
                return invalid(format!("{shown} is neither a regular file nor a block device"));
            }
            Ok(_) if existing == Existing::Keep => {
                return invalid(format!("{shown} exists; use --force to replace it"));
            }
            _ => {}
        }
        let Some(name) = path.file_name() else {
            return invalid(format!("{shown} is not the name of a file"));
        };
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("there is no directory {}; create it first", dir.display()),
            ),
            _ => Error::io(format!("cannot use the directory {}", dir.display()), e),
        };
        let dir_path = dir.canonicalize().map_err(failed)?;
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&dir_path);
        let dir = Arc::new(opened.map_err(failed)?);
        Ok(Self::File(OutputPath { dir, dir_path, name: name.to_owned(), existing, access }))
    }

    /// A directory on the destination's filesystem, for files that may share blocks with it.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::File(output) => Some(&output.dir_path),
            Self::Device(_) => None,
        }
    }

    /// The path of the result.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(output) => output.path(),
            Self::Device(path) => path.clone(),
        }
    }
}

impl OutputPath {
    /// The path of the file, for messages.
    pub fn path(&self) -> PathBuf {
        self.dir_path.join(&self.name)
    }

    /// The file's name in its directory.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Whether an existing file of that name is replaced.
    pub fn existing(&self) -> Existing {
        self.existing
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Arc<File> {
        &self.dir
    }

    /// The sources that limit the file's permissions.
    pub(super) fn access(&self) -> &SourceAccess {
        &self.access
    }

    /// An unused hidden name in the same directory.
    pub(super) fn temporary_name(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".{:016x}.part", unique()));
        // Names have at most 255 bytes.
        if name.len() > 255 {
            name = format!(".synthdisk.{:016x}.part", unique()).into();
        }
        name
    }

    /// The error for a failed write to the file.
    pub fn failed(&self, e: impl Into<io::Error>) -> Error {
        Error::io(format!("cannot write {}", self.path().display()), e.into())
    }

    /// The filesystem that the file will be on, as a device number (stat(2)).
    pub(super) fn filesystem(&self) -> Option<u64> {
        Some(self.dir.metadata().ok()?.dev())
    }

    /// Free space in the directory, in bytes.
    pub(super) fn room(&self) -> Option<u64> {
        let about = nix::sys::statvfs::fstatvfs(&self.dir).ok()?;
        // Network filesystems without blocks may report none.
        (about.blocks() > 0).then(|| about.blocks_available() * about.fragment_size())
    }

    /// Move the finished file `name` from the directory `from` to its final name. Its bytes must
    /// already be on storage.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when another file has taken the name; errors of the system calls.
    pub(super) fn take_name(&self, from: impl AsFd, name: &OsStr) -> Result<()> {
        let flags = match self.existing {
            Existing::Replace => RenameFlags::empty(),
            Existing::Keep => RenameFlags::RENAME_NOREPLACE,
        };
        let renamed = match renameat2(&from, name, &self.dir, &*self.name, flags) {
            // The filesystem does not support this flag. A link does not replace a file either.
            Err(Errno::EINVAL | Errno::ENOSYS) if self.existing == Existing::Keep => {
                linkat(&from, name, &self.dir, &*self.name, AtFlags::empty())
                    .and_then(|()| unlinkat(&from, name, UnlinkatFlags::NoRemoveDir))
            }
            renamed => renamed,
        };
        renamed.map_err(|e| self.name_refused(e))?;
        self.sync_dir()
    }

    /// The error for a failed rename to the final name.
    pub(super) fn name_refused(&self, e: Errno) -> Error {
        if e == Errno::EEXIST {
            let what = format!(
                "{} was created by another program in the meantime and is left alone",
                self.path().display()
            );
            return Error::new(ErrorKind::Invalid, what);
        }
        self.failed(e)
    }

    /// Flush the file's directory entry to storage.
    pub(super) fn sync_dir(&self) -> Result<()> {
        self.dir.sync_all().map_err(|e| self.failed(e))
    }
}

/// Whether files in `dir` may share blocks, so that a copy takes no additional space.
pub fn shares_blocks(dir: &Path) -> bool {
    /// Magic numbers of OCFS2, bcachefs and ZFS, in statfs(2)'s `f_type`; `nix` has the others.
    const MORE: [i64; 3] = [0x7461_636f, 0xca45_1a4e, 0x2fc1_2fc1];
    nix::sys::statfs::statfs(dir).is_ok_and(|s| {
        let kind = s.filesystem_type();
        [XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&kind) || MORE.contains(&kind.0)
    })
}

/// Bytes of storage that `file` occupies; `None` for a device, because holes do not make it
/// smaller.
pub(super) fn allocated(file: &File) -> Option<u64> {
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some(meta.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn output(path: &Path, existing: Existing) -> OutputPath {
        match Destination::examine(path, existing, SourceAccess::default()).unwrap() {
            Destination::File(output) => output,
            Destination::Device(_) => panic!("no device"),
        }
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let keep = output(&path, Existing::Keep);
        fs::write(&path, b"theirs").unwrap();
        fs::write(dir.path().join("other"), b"ours").unwrap();
        let refused = keep.take_name(keep.dir(), OsStr::new("other")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        let replace = output(&path, Existing::Replace);
        replace.take_name(replace.dir(), OsStr::new("other")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours");
    }

    #[test]
    fn a_directory_that_is_swapped_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        let output = output(&ours.join("out.raw"), Existing::Keep);
        fs::write(ours.join("other"), b"new").unwrap();
        fs::rename(&ours, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&theirs, &ours).unwrap();
        output.take_name(output.dir(), OsStr::new("other")).unwrap();
        assert_eq!(fs::read(dir.path().join("moved/out.raw")).unwrap(), b"new");
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
    }

    #[test]
    fn links_are_followed_and_other_things_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("real"), b"old").unwrap();
        std::os::unix::fs::symlink("real", path("link")).unwrap();
        std::os::unix::fs::symlink("missing", path("dangling")).unwrap();
        let real = path("real").canonicalize().unwrap();
        assert_eq!(output(&path("link"), Existing::Replace).path(), real);
        let examine =
            |path: &Path| Destination::examine(path, Existing::Replace, SourceAccess::default());
        for (name, kind) in [
            ("dangling", ErrorKind::Invalid),
            ("", ErrorKind::Invalid),
            ("no/dir", ErrorKind::NotFound),
        ] {
            let e = examine(&path(name)).unwrap_err();
            assert_eq!(e.kind(), kind, "{name}: {e}");
        }
        assert!(examine(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn only_files_occupy_storage() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.sync_all().unwrap();
        assert!(allocated(&file).is_some_and(|n| n >= 8192));
        assert_eq!(allocated(&File::open("/dev/null").unwrap()), None);
    }
}
