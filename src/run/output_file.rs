//! Files that are written for the user alone: consoles and reports may hold a guest's secrets.

use crate::{Error, ErrorKind, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Create or truncate `path` for writing. A new file is readable by its owner only.
///
/// # Errors
/// [`ErrorKind::Io`] for a symbolic link, for a file of another user (who could have put it there to
/// read what is written), and when the file can't be opened.
pub fn create(path: &Path) -> Result<File> {
    let failed = |e| match path.is_symlink() {
        true => Error::new(
            ErrorKind::Io,
            format!("{} is a symbolic link; name the file itself", path.display()),
        ),
        false => Error::io(format!("cannot write {}", path.display()), e),
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // A pipe or a device such as /dev/null is written to as it is.
    if metadata.is_file() {
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            let what = format!("{} belongs to another user; choose another file", path.display());
            return Err(Error::new(ErrorKind::Io, what));
        }
        file.set_len(0).map_err(failed)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn a_new_file_is_the_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        for text in ["longer text", "short"] {
            create(&path).unwrap().write_all(text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        create(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn links_and_files_of_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "kept").unwrap();
        symlink(&target, &link).unwrap();
        let e = create(&link).unwrap_err().to_string();
        assert!(e.contains("symbolic link"), "{e}");
        symlink(dir.path().join("new"), dir.path().join("dangling")).unwrap();
        assert!(create(&dir.path().join("dangling")).is_err());
        assert!(!dir.path().join("new").exists());
        if nix::unistd::geteuid().is_root() {
            chown(&target, Some(65534), None).unwrap();
            let e = create(&target).unwrap_err().to_string();
            assert!(e.contains("another user"), "{e}");
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
    }
}
