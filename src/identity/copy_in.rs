//! Files and directories of this host that are copied into the guest.

use super::mounts;
use crate::edit::{Draft, FileAccess, FileContent};
use crate::fs::{FileKind, GuestFile};
use crate::{Error, ErrorKind, Result};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is copied, and into which directory.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CopyIn {
    /// File or directory of this host.
    pub source: PathBuf,
    /// Absolute path of a directory in the guest.
    pub dest: String,
}

impl CopyIn {
    /// Parse `SRC:DEST`, separated at the last colon that has a slash after it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is no such colon.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            let what = format!("'{text}' is not SRC:DEST with an absolute directory DEST");
            Error::new(ErrorKind::Usage, what)
        };
        let at = text.rfind(":/").filter(|at| *at > 0).ok_or_else(wrong)?;
        let dest = &text[at + 1..];
        if dest.split('/').any(|part| part == "..") {
            return Err(wrong());
        }
        Ok(Self { source: text[..at].into(), dest: dest.to_owned() })
    }
}

/// Maximum depth of nested directories.
const MOST_LEVELS: usize = 64;

pub(super) fn draft(draft: &mut Draft, copy: &CopyIn) -> Result<()> {
    let dest = copy.dest.trim_end_matches('/');
    mounts::on_root(draft, if dest.is_empty() { "/" } else { dest }, "--copy-in")?;
    directory(draft, dest, FileAccess::root(0o755))?;
    // `.` and `dir/` have a name as well.
    let source = copy.source.canonicalize().map_err(|e| unreadable(&copy.source, e))?;
    let is_link = copy.source.symlink_metadata().is_ok_and(|m| m.is_symlink());
    let named = if is_link { &copy.source } else { &source };
    let name = named.file_name().unwrap_or_default();
    put(draft, &source, &format!("{dest}/{}", text(Path::new(name))?), 0)
}

fn unreadable(path: &Path, e: std::io::Error) -> Error {
    Error::io(format!("--copy-in: cannot read {}", path.display()), e)
}

/// A name that e2fsprogs accepts.
fn text(path: &Path) -> Result<&str> {
    let fits = |t: &&str| !t.chars().any(|c| c == '"' || c == '\\' || c.is_control());
    path.to_str().filter(fits).ok_or_else(|| {
        let what = format!(
            "--copy-in: {} has a name that cannot be stored in the guest: quotes, backslashes, \
             control characters or no UTF-8",
            path.display()
        );
        Error::new(ErrorKind::Unsupported, what)
    })
}

/// Make sure that `path` is a directory.
fn directory(draft: &mut Draft, path: &str, access: FileAccess) -> Result<()> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for above in ends.map(|end| &path[..end]).filter(|above| !above.is_empty()) {
        if draft.root().stat(above).is_ok_and(|stat| stat.kind != FileKind::Dir) {
            let what = format!("--copy-in: {above} in the guest is no directory");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
    }
    draft.make_dir(path, access);
    Ok(())
}

/// Copy what is at `source` to `path`.
fn put(draft: &mut Draft, source: &Path, path: &str, level: usize) -> Result<()> {
    text(source)?;
    let failed = |e| unreadable(source, e);
    let about = source.symlink_metadata().map_err(failed)?;
    let there = draft.root().lstat(path).ok().map(|stat| stat.kind);
    let in_the_way = |what: &str| {
        let what = format!("--copy-in: {path} in the guest is {what}");
        Err(Error::new(ErrorKind::Invalid, what))
    };
    if about.is_dir() {
        if level == MOST_LEVELS {
            return Err(Error::new(ErrorKind::Invalid, "--copy-in: directories too deep"));
        }
        directory(draft, path, FileAccess::root(mode(&about)))?;
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in source.read_dir().map_err(failed)? {
            entries.push(entry.map_err(failed)?.path());
        }
        entries.sort();
        for entry in entries {
            let name = text(Path::new(entry.file_name().unwrap_or_default()))?;
            put(draft, &entry, &format!("{path}/{name}"), level + 1)?;
        }
        return Ok(());
    }
    if there == Some(FileKind::Dir) {
        return in_the_way("a directory, and would become a file");
    }
    let why = format!("copy of {}", source.display());
    if about.is_symlink() {
        let target = std::fs::read_link(source).map_err(failed)?;
        let target = text(&target)?;
        if draft.root().read_link(path).ok().as_deref() != Some(target) {
            draft.symlink(path, target, why);
        }
    } else if about.is_file() {
        if there != Some(FileKind::File) || !same(draft, source, path)? {
            let access = FileAccess::root(mode(&about));
            draft.create(path, FileContent::HostFile(source.to_owned()), access, why);
        }
    } else {
        let what = format!("--copy-in: {} is no file, directory or symlink", source.display());
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    Ok(())
}

fn mode(about: &Metadata) -> u32 {
    about.mode() & 0o7777
}

/// Whether the guest's file at `path` has the same contents as the host's.
fn same(draft: &Draft, source: &Path, path: &str) -> Result<bool> {
    let failed = |e| unreadable(source, e);
    let mut file = File::open(source).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let Ok(mut guest) = draft.root().open(path) else { return Ok(false) };
    if guest.len() != len {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut at = 0;
    loop {
        let n = file.read(&mut ours).map_err(failed)?;
        if n == 0 {
            return Ok(at == len);
        }
        if !fill(&mut *guest, at, &mut theirs[..n]) || ours[..n] != theirs[..n] {
            return Ok(false);
        }
        at += n as u64;
    }
}

/// Fill `buf` from `at`; false when that fails.
fn fill(file: &mut dyn GuestFile, at: u64, buf: &mut [u8]) -> bool {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(n) if n > 0 => done += n,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::drafted;
    use std::fs;

    #[test]
    fn words() {
        for (text, source, dest) in [
            ("a:/b", "a", "/b"),
            ("/a/b:/", "/a/b", "/"),
            ("C:/x:/etc/", "C:/x", "/etc/"),
            ("a:b:/c", "a:b", "/c"),
        ] {
            let copy = CopyIn::parse(text).unwrap();
            assert_eq!((copy.source.to_str().unwrap(), copy.dest.as_str()), (source, dest));
        }
        for bad in ["", "a", "a:b", ":/b", "a:/b/../c"] {
            assert_eq!(CopyIn::parse(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn trees() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("tree/sub")).unwrap();
        fs::write(dir.join("tree/sub/file"), "1").unwrap();
        fs::write(dir.join("tree/same"), "same").unwrap();
        std::os::unix::fs::symlink("../x", dir.join("tree/link")).unwrap();
        let guest = MemFs::new()
            .file("/usr/lib/x", "")
            .symlink("/lib", "usr/lib")
            .file("/usr/lib/tree/same", "same")
            .file("/file", "");
        let copy = |fs: &MemFs, source: &str, dest: &str| {
            let copy = CopyIn { source: dir.join(source), dest: dest.into() };
            drafted(fs, |d| draft(d, &copy))
        };
        let host = |name: &str| format!("<{}", dir.join(name).display());
        assert_eq!(
            copy(&guest, "tree", "/lib/").unwrap(),
            [
                ("/usr/lib/tree/link".to_owned(), "->../x".to_owned()),
                ("/usr/lib/tree/sub".into(), "/".into()),
                ("/usr/lib/tree/sub/file".into(), host("tree/sub/file")),
            ]
        );
        let new = copy(&guest, "tree/same", "/new/dir").unwrap();
        let paths: Vec<&str> = new.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(paths, ["/new", "/new/dir", "/new/dir/same"]);
        assert_eq!(copy(&guest, "tree/same", "/").unwrap()[0].0, "/same");
        for (source, dest, said) in [
            ("none", "/", "cannot read"),
            ("tree/same", "/file", "is no directory"),
            ("tree", "/file/x", "is no directory"),
        ] {
            let e = copy(&guest, source, dest);
            assert!(e.as_ref().is_err_and(|e| e.to_string().contains(said)), "{dest}: {e:?}");
        }
        fs::write(dir.join("a\"b"), "").unwrap();
        assert!(copy(&guest, "a\"b", "/").unwrap_err().to_string().contains("quotes"));
        let in_the_way = MemFs::new().file("/same/x", "");
        assert!(copy(&in_the_way, "tree/same", "/").unwrap_err().to_string().contains("directory"));
    }
}
