//! Creating files that only their owner can read: logs and reports, which hold a guest's output.

use crate::{Error, ErrorKind, Result};
use nix::unistd::Uid;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Permission bits of a directory in which anybody may create files, but remove only their own.
const SHARED: u32 = 0o1002;

/// Whether a file that exists is emptied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// It is emptied first.
    Truncate,
    /// What is written goes to its end.
    Append,
}

/// Open `path` for writing; a new file has mode 0600. In a directory that users share (/tmp),
/// neither a symlink nor a file of another user is used, so nobody chooses where the text goes or
/// reads it. `what` names the file in messages: "the log".
///
/// # Errors
/// [`ErrorKind::Invalid`] for such a file, and those of opening it.
pub fn open(path: &Path, what: &str, existing: Existing) -> Result<File> {
    let failed = |e| Error::io(format!("cannot write {what} to {}", path.display()), e);
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let parent = parent.metadata().map_err(failed)?;
    let shared = parent.mode() & SHARED == SHARED;
    let trusted = |meta: &Metadata| {
        !shared || meta.uid() == Uid::effective().as_raw() || meta.uid() == parent.uid()
    };
    let foreign = |kind: &str| {
        let what = format!(
            "cannot write {what} to {}: it is a {kind} of another user in a directory that users \
             share; remove it or choose another name",
            path.display()
        );
        Error::new(ErrorKind::Invalid, what)
    };
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    match existing {
        // Emptied below, once it is known whose it is.
        Existing::Truncate => options.write(true),
        Existing::Append => options.append(true),
    };
    // A named pipe of another user would hold up the open.
    if let Ok(meta) = path.symlink_metadata() {
        if !trusted(&meta) {
            return Err(foreign(if meta.is_symlink() { "symlink" } else { "file" }));
        }
        if !meta.is_symlink() {
            options.custom_flags(libc::O_NOFOLLOW);
        }
    } else {
        options.custom_flags(libc::O_NOFOLLOW);
    }
    let file = options.open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    // What a symlink of the user's own leads to is the user's choice.
    let direct = path.symlink_metadata().is_ok_and(|m| !m.is_symlink());
    if direct && !trusted(&meta) {
        return Err(foreign("file"));
    }
    if existing == Existing::Truncate && meta.is_file() {
        file.set_len(0).map_err(failed)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Gid, fchownat};
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn shared_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        dir
    }

    #[test]
    fn new_files_are_private() {
        let dir = shared_dir();
        let path = dir.path().join("log");
        for (existing, expected) in [(Existing::Append, "ab"), (Existing::Truncate, "b")] {
            let _ = fs::remove_file(&path);
            open(&path, "the log", existing).unwrap().write_all(b"a").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            open(&path, "the log", existing).unwrap().write_all(b"b").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        }
    }

    #[test]
    fn ones_own_symlinks_are_followed() {
        let dir = shared_dir();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        symlink(&target, &link).unwrap();
        open(&link, "the log", Existing::Append).unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::read_to_string(target).unwrap(), "x");
        assert!(open(Path::new("/dev/stderr"), "the log", Existing::Append).is_ok());
    }

    #[test]
    fn what_another_user_left_in_a_shared_directory_is_refused() {
        if !Uid::effective().is_root() {
            return; // only root can give files away
        }
        // Root's own files in root's directory are no test: the directory belongs to a third user.
        let dir = shared_dir();
        let give = |path: &Path, uid| {
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
            fchownat(nix::fcntl::AT_FDCWD, path, uid, gid, flags).unwrap();
        };
        let secret = dir.path().join("secret");
        fs::write(&secret, "kept").unwrap();
        let link = dir.path().join("link");
        symlink(&secret, &link).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        [&link, &file].into_iter().for_each(|path| give(path, 65534));
        for path in [&link, &file] {
            for existing in [Existing::Append, Existing::Truncate] {
                let e = open(path, "the log", existing).unwrap_err();
                assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
            }
        }
        assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
        // In a directory of their own, users do as they like.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(open(&file, "the log", Existing::Append).is_ok());
    }
}
