//! The traits through which the rest of the program sees a guest's filesystem, and the path
//! resolution that all implementations share.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::budget::{Budget, Cost};
use crate::{Error, ErrorKind, Result};

/// Maximum number of symlinks in the resolution of one path (Linux: `MAXSYMLINKS`).
const MAX_SYMLINKS: usize = 40;
/// Maximum number of components visited while resolving one path.
const MAX_COMPONENTS: usize = 1000;
/// Longest path and longest symlink target in bytes (Linux: `PATH_MAX`).
pub const MAX_PATH: usize = 4096;

/// File type of what a path names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link (only from [`GuestFs::lstat`]).
    Symlink,
    /// A device, fifo or socket.
    Other,
}

/// What is known about a file without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// Kind of the file.
    pub kind: FileKind,
    /// Length in bytes, as claimed by the inode.
    pub len: u64,
    /// Seconds of the last modification since 1970; 0 if unknown.
    pub mtime_secs: i64,
    /// Nanoseconds within that second.
    pub mtime_nanos: u32,
    /// Distinguishes a new file from the one it replaces when the times do not: the transaction
    /// that changed it (Btrfs) or its inode number (XFS); otherwise 0.
    pub revision: u64,
}

/// How the kernel's own driver mounts a filesystem.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelMount {
    /// Type, as for mount(2).
    pub fs_type: &'static str,
    /// Options of that filesystem, separated by commas; may be empty.
    pub options: String,
}

/// A regular file inside a guest, open for reading.
pub trait GuestFile {
    /// Length in bytes at the time of opening.
    fn len(&self) -> u64;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at `offset` (bytes) into `buf`; returns fewer bytes than asked for only at the end of
    /// the file. Reading forwards is cheap; seeking back costs a walk over the file's block list.
    ///
    /// # Errors
    /// `Io` from the image, `Corrupt` if the file's metadata are damaged.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize>;
}

/// A guest's filesystem, read-only. Paths are absolute, separated by `/`; every method but
/// [`lstat`](Self::lstat) follows symlinks, which can't lead out of the filesystem.
///
/// All methods fail with [`ErrorKind::NotFound`] if a component is missing, is not a directory or
/// is a dangling symlink; with `Corrupt` or `Unsupported` if the filesystem can't be read at that
/// place; with `Io` if the image can't.
pub trait GuestFs {
    /// Reads the whole file.
    ///
    /// # Errors
    /// `TooLarge` beyond `limit` bytes (nothing is read then); `Invalid` if it is not a regular
    /// file.
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>> {
        let mut file = self.open(path)?;
        if file.len() > limit as u64 {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{path} in the guest is {} bytes, more than {limit}", file.len()),
            ));
        }
        self.budget().charge_for(path, Cost::FileBytes, file.len())?;
        // The file's claimed length is below the limit, so this allocation is bounded by it.
        let mut data = vec![0; file.len() as usize];
        let mut done = 0;
        while done < data.len() {
            let n = file.read_at(&mut data[done..], done as u64)?;
            if n == 0 {
                break;
            }
            done += n;
        }
        data.truncate(done);
        Ok(data)
    }

    /// What is at a canonical path, in which all components but the last are directories, not
    /// symlinks. This is the only path operation that each filesystem implements itself. `searched`
    /// is the total size in bytes of the directories on that path.
    ///
    /// # Errors
    /// See the trait.
    fn node(&self, path: &str, searched: u64) -> Result<Node>;

    /// Type, length and time of the file that the path resolves to.
    ///
    /// # Errors
    /// See the trait.
    fn stat(&self, path: &str) -> Result<Stat> {
        Ok(walk(self, path, true)?.1)
    }

    /// Like [`stat`](Self::stat), but does not follow a symlink in the last component.
    ///
    /// # Errors
    /// See the trait.
    fn lstat(&self, path: &str) -> Result<Stat> {
        Ok(walk(self, path, false)?.1)
    }

    /// The names in a directory, sorted, without `.` and `..`. Names that are not UTF-8 are left
    /// out: no file that is looked up has such a name.
    ///
    /// # Errors
    /// `Invalid` if it is not a directory, `TooLarge` if it has too many entries.
    fn read_dir(&self, path: &str) -> Result<Vec<String>>;

    /// The absolute path without symlinks, `.` and `..`.
    ///
    /// # Errors
    /// See the trait; `Invalid` after 40 symlinks.
    fn canonicalize(&self, path: &str) -> Result<String> {
        Ok(walk(self, path, true)?.0)
    }

    /// The target of the symlink at `path`, verbatim.
    ///
    /// # Errors
    /// `Invalid` if it is not a symlink.
    fn read_link(&self, path: &str) -> Result<String> {
        let (full, _) = walk(self, path, false)?;
        self.node(&full, 0)?.target.ok_or_else(|| not_a(path, "symlink"))
    }

    /// The budget for reading this filesystem; every path resolution is charged to it.
    fn budget(&self) -> &Budget;

    /// Opens a regular file.
    ///
    /// # Errors
    /// `Invalid` if it is not a regular file.
    fn open(&self, path: &str) -> Result<Box<dyn GuestFile + '_>>;

    /// How the kernel's driver mounts this filesystem, if only the kernel can write to it; `None`
    /// if e2fsprogs can.
    fn kernel_mount(&self) -> Option<KernelMount> {
        None
    }

    /// A warning for the user about what is read here: that it may be older than what the guest
    /// last wrote.
    fn caveat(&self) -> Option<String> {
        None
    }
}

/// What is at one canonical path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its type, length and time.
    pub stat: Stat,
    /// The symlink's target, if it is one.
    pub target: Option<String>,
}

/// The canonical path that `path` resolves to, which must be of the given kind.
pub(crate) fn resolve_to(
    fs: &(impl GuestFs + ?Sized),
    path: &str,
    kind: FileKind,
) -> Result<(String, Stat)> {
    let found = walk(fs, path, true)?;
    match kind {
        kind if found.1.kind == kind => Ok(found),
        FileKind::Dir => Err(not_a(path, "directory")),
        _ => Err(not_a(path, "regular file")),
    }
}

/// Checks the length that a symlink claims for its target, before memory is reserved for it.
pub(crate) fn check_target_len(path: &str, len: u64) -> Result<()> {
    if len == 0 || len > MAX_PATH as u64 {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("symlink {path} in the guest claims a target of {len} bytes"),
        ));
    }
    Ok(())
}

/// A symlink's target as text.
pub(crate) fn target_text(path: &str, target: Vec<u8>) -> Result<String> {
    String::from_utf8(target)
        .map_err(|_| Error::new(ErrorKind::Unsupported, format!("symlink {path} is not UTF-8")))
}

/// Resolves `path` to a canonical path and the stat of its last component. [`GuestFs::node`] is
/// called only for children of directories whose path contains no symlink.
///
/// Symlinks follow the rules of path_resolution(7); an absolute target starts at the guest's root.
fn walk(fs: &(impl GuestFs + ?Sized), path: &str, follow_last: bool) -> Result<(String, Stat)> {
    if !path.starts_with('/') {
        return Err(Error::new(ErrorKind::Invalid, format!("{path} is not an absolute path")));
    }
    if path.len() > MAX_PATH {
        return Err(Error::new(ErrorKind::Invalid, "path in the guest is too long"));
    }
    let not_found = || Error::new(ErrorKind::NotFound, format!("{path} does not exist"));
    let mut pending: VecDeque<String> = components(path).collect();
    let mut done: Vec<(String, Stat)> = Vec::new();
    let root = fs.node("/", 0)?.stat;
    let (mut hops, mut visited) = (0, 0);
    while let Some(name) = pending.pop_front() {
        fs.budget().charge_for(path, Cost::Lookups, 1)?;
        visited += 1;
        if visited > MAX_COMPONENTS {
            return Err(Error::new(ErrorKind::Invalid, format!("{path} is too deep")));
        }
        let here = done.last().map_or(root, |d| d.1);
        if here.kind != FileKind::Dir {
            return Err(not_found());
        }
        match name.as_str() {
            "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        let full = join(done.iter().map(|d| d.0.as_str()).chain([name.as_str()]));
        if full.len() > MAX_PATH {
            return Err(Error::new(ErrorKind::Invalid, format!("{path} resolves to a long path")));
        }
        let searched = done.iter().fold(root.len, |sum, d| sum.saturating_add(d.1.len));
        let node = fs.node(&full, searched)?;
        match node.target {
            Some(target) if follow_last || !pending.is_empty() => {
                hops += 1;
                if hops > MAX_SYMLINKS {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!("{path} passes through too many symlinks, or a loop of them"),
                    ));
                }
                if target.starts_with('/') {
                    done.clear();
                }
                for part in components(&target).collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(part);
                }
            }
            _ => done.push((name, node.stat)),
        }
    }
    let stat = done.last().map_or(root, |d| d.1);
    if path.ends_with('/') && stat.kind != FileKind::Dir {
        return Err(not_found());
    }
    Ok((join(done.iter().map(|d| d.0.as_str())), stat))
}

fn components(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|c| !c.is_empty()).map(str::to_owned)
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for part in parts {
        out.push('/');
        out.push_str(part);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

pub(crate) fn not_a(path: &str, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{path} in the guest is not a {what}"))
}
