//! Where a disk is written to: a file that appears under its name only when it is complete, or a
//! block device.

use crate::layout::format_size;
use crate::process::Sweeper;
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, RenameFlags, renameat2};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// So many bytes at either end of a device are looked at for something that is worth asking.
const DEVICE_ENDS: u64 = 1 << 20;

/// A name that is free, or that may be taken from the file that has it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory, absolute.
    pub dir: PathBuf,
    /// The name in it.
    pub name: OsString,
    /// Whether a file of that name is to be replaced.
    pub replace: bool,
    /// Permission bits of the file, before the umask.
    pub mode: u32,
}

/// What `-o` names.
#[derive(Debug)]
pub enum Target {
    /// A regular file.
    File(Place),
    /// A block device, by its path.
    Device(PathBuf),
}

impl Target {
    /// Look at `path`. With `replace`, a regular file that is there is no error.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what cannot be a target, and for a file that exists;
    /// [`ErrorKind::NotFound`] without its directory.
    pub fn look(path: &Path, replace: bool, mode: u32) -> Result<Self> {
        let shown = path.display();
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        // A link is followed: what it names is what gets replaced.
        let path = match path.symlink_metadata() {
            Ok(meta) if meta.file_type().is_symlink() => match path.canonicalize() {
                Ok(path) => path,
                Err(_) => {
                    return invalid(format!(
                        "{shown} is a symbolic link to nowhere; name a file, not such a link"
                    ));
                }
            },
            _ => path.to_path_buf(),
        };
        match fs::metadata(&path) {
            Ok(meta) if meta.file_type().is_block_device() => return Ok(Self::Device(path)),
            Ok(meta) if meta.is_dir() => {
                return invalid(format!("{shown} is a directory; name the file in it"));
            }
            Ok(meta) if !meta.is_file() => {
                return invalid(format!("{shown} is neither a regular file nor a block device"));
            }
            Ok(_) if !replace => {
                return invalid(format!("{shown} exists; use --force to replace it"));
            }
            _ => {}
        }
        let Some(name) = path.file_name() else {
            return invalid(format!("{shown} is no name of a file"));
        };
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = dir.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("there is no directory {}; make it first", dir.display()),
            ),
            _ => Error::io(format!("cannot use the directory {}", dir.display()), e),
        })?;
        Ok(Self::File(Place { dir, name: name.to_owned(), replace, mode }))
    }

    /// A directory on the target's filesystem, for what may share blocks with it.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::File(place) => Some(&place.dir),
            Self::Device(_) => None,
        }
    }

    /// The path of the result.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(place) => place.path(),
            Self::Device(path) => path.clone(),
        }
    }
}

impl Place {
    /// The path of the file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// A name beside the file's that nobody has.
    pub(super) fn temporary(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".{:016x}.part", unique()));
        // Names have at most 255 bytes.
        if name.len() > 255 {
            name = format!(".synthdisk.{:016x}.part", unique()).into();
        }
        self.dir.join(name)
    }

    fn failed(&self, e: io::Error) -> Error {
        Error::io(format!("cannot write {}", self.path().display()), e)
    }

    /// Bytes that can still be written in the directory.
    pub(super) fn room(&self) -> Option<u64> {
        let about = nix::sys::statvfs::statvfs(&self.dir).ok()?;
        // Files that live in no blocks (network filesystems) may say nothing of them.
        (about.blocks() > 0).then(|| about.blocks_available() * about.fragment_size())
    }

    /// Give the finished file at `temporary`, whose bytes are on storage, its name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a file of that name has come meanwhile; the system calls'.
    pub(super) fn take_name(&self, temporary: &Path) -> Result<()> {
        let path = self.path();
        let renamed = if self.replace {
            fs::rename(temporary, &path)
        } else {
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(AT_FDCWD, temporary, AT_FDCWD, &path, flags) {
                // A filesystem that cannot: a link does not replace either.
                Err(Errno::EINVAL | Errno::ENOSYS) => {
                    fs::hard_link(temporary, &path).and_then(|()| fs::remove_file(temporary))
                }
                other => other.map_err(io::Error::from),
            }
        };
        renamed.map_err(|e| self.not_taken(e))?;
        self.sync_dir()
    }

    fn not_taken(&self, e: io::Error) -> Error {
        if e.kind() == io::ErrorKind::AlreadyExists {
            let what = format!("{} has come meanwhile; it was left alone", self.path().display());
            return Error::new(ErrorKind::Invalid, what);
        }
        self.failed(e)
    }

    fn sync_dir(&self) -> Result<()> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|e| self.failed(e))
    }
}

/// A file that is being written and has not got its name yet. It is gone when dropped, and when the
/// process is killed.
#[derive(Debug)]
pub struct NewFile {
    place: Place,
    file: File,
    /// Its name for the time being, where the filesystem has no files without one, and who removes
    /// it.
    temporary: Option<(PathBuf, Sweeper)>,
}

impl NewFile {
    /// An empty file for `place`.
    ///
    /// # Errors
    /// Those of creating it.
    pub fn create(place: Place) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(place.mode);
        match options.clone().custom_flags(libc::O_TMPFILE).open(&place.dir) {
            Ok(file) => Ok(Self { place, file, temporary: None }),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL)
                ) =>
            {
                Self::create_named(place)
            }
            Err(e) => Err(place.failed(e)),
        }
    }

    /// With a name for the time being.
    fn create_named(place: Place) -> Result<Self> {
        let path = place.temporary();
        let sweeper = Sweeper::start(None, Some(&path))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(place.mode);
        let file = options.open(&path).map_err(|e| place.failed(e))?;
        Ok(Self { place, file, temporary: Some((path, sweeper)) })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is going to be.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Bring it to storage and give it its name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a file of that name has come meanwhile; the system calls'.
    pub fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.place.failed(e))?;
        let Some((path, _)) = &self.temporary else {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = |to: &Path| {
                let flags = AtFlags::AT_SYMLINK_FOLLOW;
                nix::unistd::linkat(AT_FDCWD, own.as_str(), AT_FDCWD, to, flags)
                    .map_err(io::Error::from)
            };
            return match link(&self.place.path()) {
                Ok(()) => self.place.sync_dir(),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.place.replace => {
                    // A link cannot replace a file; a rename can.
                    let temporary = self.place.temporary();
                    // Between the two, nobody else would remove it if this process were killed.
                    let _sweeper = Sweeper::start(None, Some(&temporary))?;
                    link(&temporary).map_err(|e| self.place.failed(e))?;
                    self.place.take_name(&temporary).inspect_err(|_| {
                        let _ = fs::remove_file(&temporary);
                    })
                }
                Err(e) => Err(self.place.not_taken(e)),
            };
        };
        self.place.take_name(path)
    }
}

/// A block device that nobody else uses, open for writing.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    /// Length in bytes.
    len: u64,
}

impl Device {
    /// Open `path` for `needed` bytes. Unless `replace`, refuse one that holds something.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when it is mounted or held; [`ErrorKind::TooLarge`] when it is too
    /// small; [`ErrorKind::Invalid`] when it holds something.
    pub fn open(path: &Path, needed: u64, replace: bool) -> Result<Self> {
        let shown = path.display();
        let failed = |e: io::Error| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::new(
                ErrorKind::Busy,
                format!("{shown} is mounted or held by another program; release it there first"),
            ),
            _ => Error::io(format!("cannot write {shown}"), e),
        };
        // On a block device O_EXCL means: not while it is mounted or held by somebody.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
            .open(path)
            .map_err(failed)?;
        let len = nix::unistd::lseek64(&file, 0, nix::unistd::Whence::SeekEnd)
            .map_err(|e| failed(e.into()))?;
        let len = u64::try_from(len).unwrap_or(0);
        if len < needed {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{shown} has {} ({len} bytes), but the disk has {} ({needed} bytes); take a \
                     larger one",
                    format_size(len),
                    format_size(needed)
                ),
            ));
        }
        let ends = [0, len.saturating_sub(DEVICE_ENDS)];
        for at in ends.into_iter().filter(|_| !replace) {
            let mut bytes = vec![0; DEVICE_ENDS.min(len - at) as usize];
            file.read_exact_at(&mut bytes, at).map_err(failed)?;
            if bytes.iter().any(|b| *b != 0) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{shown} holds something; use --force to write over it"),
                ));
            }
        }
        Ok(Self { file, path: path.to_path_buf(), len })
    }

    /// The device.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Whether files in `dir` may share blocks with each other: what a copy takes from beside itself
/// need not be copied then.
pub fn shares_blocks(dir: &Path) -> bool {
    /// Magic numbers of OCFS2, bcachefs and ZFS, in statfs(2)'s `f_type`; `nix` has the others.
    const MORE: [i64; 3] = [0x7461_636f, 0xca45_1a4e, 0x2fc1_2fc1];
    nix::sys::statfs::statfs(dir).is_ok_and(|s| {
        let kind = s.filesystem_type();
        [XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&kind) || MORE.contains(&kind.0)
    })
}

/// A number that two processes, or two calls, hardly share.
pub(super) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Its keys are random.
    RandomState::new().build_hasher().finish()
}

/// Bytes of storage that `file` takes up; all of them for a device.
pub(super) fn allocated(file: &File) -> u64 {
    match file.metadata() {
        Ok(meta) if meta.is_file() => meta.blocks() * 512,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &Path, replace: bool) -> Place {
        match Target::look(path, replace, 0o640).unwrap() {
            Target::File(place) => place,
            Target::Device(_) => panic!("no device"),
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let new = NewFile::create(place(&path, false)).unwrap();
        new.file().write_all_at(b"new", 0).unwrap();
        assert!(!path.exists());
        drop(new);
        assert_eq!(names(dir.path()), [""; 0]);
        let new = NewFile::create(place(&path, false)).unwrap();
        new.file().write_all_at(b"new", 0).unwrap();
        new.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7, 0);
        assert!(Target::look(&path, false, 0o600).is_err());
        // Replaced in one step.
        let new = NewFile::create(place(&path, true)).unwrap();
        new.file().write_all_at(b"newer", 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        new.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(names(dir.path()), ["out.raw"]);
    }

    #[test]
    fn where_files_must_have_names_they_have_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let new = NewFile::create_named(place(&path, false)).unwrap();
        assert!(matches!(&names(dir.path())[..], [name] if name.starts_with(".out.raw.")));
        drop(new);
        assert_eq!(names(dir.path()), [""; 0]);
        let new = NewFile::create_named(place(&path, false)).unwrap();
        new.file().write_all_at(b"new", 0).unwrap();
        new.publish().unwrap();
        assert_eq!(names(dir.path()), ["out.raw"]);
        let new = NewFile::create_named(place(&path, true)).unwrap();
        new.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        let new = NewFile::create_named(Place { replace: false, ..place(&path, true) }).unwrap();
        assert_eq!(new.publish().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(names(dir.path()), ["out.raw"]);
    }

    #[test]
    fn what_has_come_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let place = place(&path, false);
        let new = NewFile::create(place.clone()).unwrap();
        fs::write(&path, b"theirs").unwrap();
        assert_eq!(new.publish().unwrap_err().kind(), ErrorKind::Invalid);
        let other = dir.path().join("other");
        fs::write(&other, b"ours").unwrap();
        assert_eq!(place.take_name(&other).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }

    #[test]
    fn links_are_followed_and_other_things_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("real"), b"old").unwrap();
        std::os::unix::fs::symlink("real", path("link")).unwrap();
        std::os::unix::fs::symlink("missing", path("dangling")).unwrap();
        assert_eq!(place(&path("link"), true).path(), path("real").canonicalize().unwrap());
        for (name, kind) in [
            ("dangling", ErrorKind::Invalid),
            ("", ErrorKind::Invalid),
            ("no/dir", ErrorKind::NotFound),
        ] {
            let e = Target::look(&path(name), true, 0o600).unwrap_err();
            assert_eq!(e.kind(), kind, "{name}: {e}");
        }
        assert!(Target::look(Path::new("/dev/null"), true, 0o600).is_err());
    }
}
