//! Opening the files that an image names, where it may name any: in its directory and beneath it.

use super::opening::Opening;
use super::usage::{Claim, check_unused, claim};
use crate::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// What to do with an image that another program writes to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum InUse {
    /// Refuse it.
    #[default]
    Refuse,
    /// Open it anyway.
    Open,
}

/// Which files an image may depend on.
pub(super) struct Reach<'a> {
    /// What to do if another program writes to one.
    pub(super) in_use: InUse,
    /// Directories in which they may lie, besides that of the image.
    pub(super) dirs: &'a [PathBuf],
}

/// Open the first of `paths` that exists in a permitted place: beneath `own`, the directory of the
/// image that names them, or beneath a directory that the user named.
///
/// # Errors
/// Errors of the file; `Invalid` for a symbolic link, `Busy` if it is in use.
pub(super) fn open_beside(
    own: &Path,
    paths: &[PathBuf],
    reach: &Reach<'_>,
) -> Result<Option<Opening>> {
    let dirs = permitted_dirs(own, reach);
    for (dir, name) in paths.iter().filter_map(|path| permitted(own, path, &dirs)) {
        if let Some(opening) = open_beneath(dir, &name)? {
            claim_stable(&opening, reach.in_use)?;
            return Ok(Some(opening));
        }
    }
    Ok(None)
}

/// Open the image `name` beneath `dir`, if there is one, following no link except one to a block device.
fn open_beneath(dir: &Path, name: &Path) -> Result<Option<Opening>> {
    let path = dir.join(name);
    let failed = |e: nix::Error| Error::io(format!("cannot open {}", path.display()), e.into());
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = open(dir, directory, Mode::empty()).map_err(failed)?;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    // Nothing is opened before its type is known: opening some devices has effects.
    let beneath = |name: &Path, more| {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | more;
        openat2(&dir, name, OpenHow::new().flags(flags).resolve(resolve))
    };
    let (place, is_link) = match beneath(name, OFlag::empty()) {
        Ok(place) => (place, false),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        // Logical volumes are links to block devices; any other link may lead out of the directory.
        Err(Errno::ELOOP) => {
            let parent = name.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = beneath(parent.unwrap_or(Path::new(".")), OFlag::O_DIRECTORY);
            let last = name.file_name().unwrap_or_default();
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let place = parent.and_then(|parent| openat(parent, last, flags, Mode::empty()));
            (place.map_err(|_| is_a_link(&path))?, true)
        }
        Err(e) => return Err(failed(e)),
    };
    let place = File::from(place);
    let kind = place.metadata().map_err(|e| Error::io("cannot examine a file", e))?.file_type();
    if is_link && !kind.is_block_device() {
        return Err(is_a_link(&path));
    }
    if !kind.is_file() && !kind.is_block_device() {
        let what = format!("{} is neither a file nor a block device", path.display());
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    let opened = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let file = opened.map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
    Opening::of(file, path).map(Some)
}

fn is_a_link(path: &Path) -> Error {
    let what = format!(
        "the file {} that it depends on is a symbolic link or is reached through one; put the file \
         itself there",
        path.display()
    );
    Error::new(ErrorKind::Invalid, what)
}

/// Claim the image, so that a QEMU that wants to write to it gets the error that it is in use.
///
/// # Errors
/// `Busy` if another program writes to it, unless that is to be ignored.
pub(super) fn claim_stable(opening: &Opening, in_use: InUse) -> Result<()> {
    // What lies elsewhere cannot be claimed; its server tells versions apart.
    let Some(file) = opening.file.local() else { return Ok(()) };
    if in_use == InUse::Refuse {
        check_unused(file, &opening.path)?;
    }
    let claimed = claim(file, Claim::StableRead);
    if in_use == InUse::Refuse {
        claimed.map_err(|e| {
            let what = format!("{} is open for writing elsewhere", opening.path.display());
            Error::with_source(e.kind(), what, e)
        })?;
    }
    Ok(())
}

/// The directories that files of an image in the directory `own` may lie in.
pub(super) fn permitted_dirs(own: &Path, reach: &Reach<'_>) -> Vec<PathBuf> {
    let named = reach.dirs.iter().filter_map(|dir| dir.canonicalize().ok());
    // Beside a device are the disks of everybody else.
    let own = Some(own.to_path_buf()).filter(|own| !own.starts_with("/dev"));
    own.into_iter().chain(named).collect()
}

/// The directory of `dirs` that `path`, which is relative to the directory `own`, lies beneath, and
/// its name there.
pub(super) fn permitted<'a>(
    own: &Path,
    path: &Path,
    dirs: &'a [PathBuf],
) -> Option<(&'a Path, PathBuf)> {
    let mut absolute = PathBuf::from("/");
    for part in own.join(path).components() {
        match part {
            Component::Normal(name) => absolute.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir if absolute.pop() => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    dirs.iter().find_map(|dir| {
        let name = absolute.strip_prefix(dir).ok().filter(|name| !name.as_os_str().is_empty())?;
        Some((dir.as_path(), name.to_path_buf()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backing_image_lies_beneath_a_permitted_directory() {
        let own = Path::new("/sr/one");
        let dirs = [own.to_path_buf(), PathBuf::from("/golden")];
        for (path, expected) in [
            ("./base.vhd", Some("/sr/one/base.vhd")),
            ("old/base.vhd", Some("/sr/one/old/base.vhd")),
            ("/sr/one/base.vhd", Some("/sr/one/base.vhd")),
            ("../one/base.vhd", Some("/sr/one/base.vhd")),
            ("../../golden/base.vhd", Some("/golden/base.vhd")),
            ("/golden/x/../base.vhd", Some("/golden/base.vhd")),
            ("/sr/onebase.vhd", None),
            ("/sr/one", None),
            ("/etc/shadow", None),
            ("../two/base.vhd", None),
            ("a/../../b", None),
            ("/sr/one/../b", None),
            ("../../../../../etc/shadow", None),
            (".", None),
            ("", None),
        ] {
            let found = permitted(own, Path::new(path), &dirs).map(|(dir, name)| dir.join(name));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{path}");
        }
    }
}
