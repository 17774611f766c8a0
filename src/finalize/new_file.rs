//! A file that gets its name only when it is complete.

use super::destination::{Existing, OutputPath};
use super::hidden::HiddenDir;
use crate::Result;
use crate::process::Sweeper;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;

/// A file that is being written and does not have its final name yet. Unless it is published, it is
/// removed when dropped and when the process is killed. A hidden directory goes when it is dropped.
#[derive(Debug)]
pub struct NewFile {
    output: OutputPath,
    file: File,
    /// Its temporary location, on a filesystem that cannot create unnamed files.
    hidden: Option<HiddenDir>,
}

impl NewFile {
    /// Create an empty file for `output`.
    ///
    /// # Errors
    /// Errors of creating it.
    pub fn create(output: OutputPath) -> Result<Self> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match openat(output.dir(), ".", flags, Mode::from_bits_truncate(0o666)) {
            Ok(file) => Self::restricted(output, File::from(file), None),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => {
                Self::create_named(output)
            }
            Err(e) => Err(output.failed(e)),
        }
    }

    /// Create it in a hidden directory, under its final name.
    fn create_named(output: OutputPath) -> Result<Self> {
        let hidden = HiddenDir::beside(&output)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = hidden.open_file(output.name(), flags).map_err(|e| output.failed(e))?;
        Self::restricted(output, file, Some(hidden))
    }

    fn restricted(output: OutputPath, file: File, hidden: Option<HiddenDir>) -> Result<Self> {
        output.access().restrict(&file).map_err(|e| output.failed(e))?;
        Ok(Self { output, file, hidden })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The final name of the file.
    pub fn output(&self) -> &OutputPath {
        &self.output
    }

    /// Flush it to storage and give it its final name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when another file has taken the name; errors of the system
    /// calls.
    pub fn publish(&self) -> Result<()> {
        let Self { output, file, hidden } = self;
        file.sync_all().map_err(|e| output.failed(e))?;
        if let Some(hidden) = hidden {
            return output.take_name(hidden, output.name());
        }
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = |name: &OsStr| {
            linkat(AT_FDCWD, own.as_str(), output.dir(), name, AtFlags::AT_SYMLINK_FOLLOW)
        };
        match link(output.name()) {
            Ok(()) => output.sync_dir(),
            Err(Errno::EEXIST) if output.existing() == Existing::Replace => {
                // A link cannot replace a file, but a rename can.
                let temporary = output.temporary_name();
                // Removes the temporary name if this process is killed between the link and the
                // rename.
                let _sweeper = Sweeper::of_temporary(output.dir(), &temporary)?;
                link(&temporary).map_err(|e| output.failed(e))?;
                output.take_name(output.dir(), &temporary).inspect_err(|_| {
                    let _ = unlinkat(output.dir(), &*temporary, UnlinkatFlags::NoRemoveDir);
                })
            }
            Err(e) => Err(output.name_refused(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::finalize::access::SourceAccess;
    use crate::finalize::destination::Destination;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    use std::path::Path;

    /// For a result whose source has mode 0640.
    fn output(path: &Path, existing: Existing) -> OutputPath {
        let source = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
        source.as_file().set_permissions(Permissions::from_mode(0o640)).unwrap();
        let access = SourceAccess::of(&[source.path().to_path_buf()]);
        match Destination::examine(path, existing, access).unwrap() {
            Destination::File(output) => output,
            Destination::Device(_) => panic!("no device"),
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
        let new = NewFile::create(output(&path, Existing::Keep)).unwrap();
        new.file().write_all_at(b"new", 0).unwrap();
        assert!(!path.exists());
        drop(new);
        assert_eq!(names(dir.path()), [""; 0]);
        let new = NewFile::create(output(&path, Existing::Keep)).unwrap();
        new.file().write_all_at(b"new", 0).unwrap();
        new.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7, 0);
        let again = Destination::examine(&path, Existing::Keep, SourceAccess::default());
        assert!(again.is_err());
        // The file is replaced in one step, and the new file does not inherit the old file's wider
        // mode.
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let new = NewFile::create(output(&path, Existing::Replace)).unwrap();
        new.file().write_all_at(b"newer", 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        new.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7, 0);
        assert_eq!(names(dir.path()), ["out.raw"]);
    }

    #[test]
    fn where_files_must_have_names_they_have_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let new = NewFile::create_named(output(&path, Existing::Keep)).unwrap();
        assert!(matches!(&names(dir.path())[..], [name] if name.starts_with(".out.raw.")));
        drop(new);
        assert_eq!(names(dir.path()), [""; 0]);
        let new = NewFile::create_named(output(&path, Existing::Keep)).unwrap();
        new.file().write_all_at(b"new", 0).unwrap();
        new.publish().unwrap();
        drop(new);
        assert_eq!(names(dir.path()), ["out.raw"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7, 0);
        let keep = output(&dir.path().join("second"), Existing::Keep);
        let new = NewFile::create_named(output(&path, Existing::Replace)).unwrap();
        new.publish().unwrap();
        drop(new);
        assert_eq!(fs::read(&path).unwrap(), b"");
        let new = NewFile::create_named(keep).unwrap();
        fs::write(dir.path().join("second"), b"theirs").unwrap();
        assert_eq!(new.publish().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(fs::read(dir.path().join("second")).unwrap(), b"theirs");
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let new = NewFile::create(output(&path, Existing::Keep)).unwrap();
        fs::write(&path, b"theirs").unwrap();
        assert_eq!(new.publish().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }
}
