//! Finding and checking the parents of a differencing disk.
//!
//! A parent is only searched for in the directory of its child: a path stored in an untrusted file
//! can only select a name in that directory.

use super::header::{Header, Kind, Parent, located};
use super::layer::Layer;
use crate::image::driver::Opening;
use crate::image::usage::{Claim, check_unused, claim};
use crate::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// Maximum number of files in a chain. XCP-ng creates chains of up to 30.
const MAX_FILES: usize = 40;

/// The layers of the image in `opening`, the image itself first and the last parent last, and the
/// length of the disk in bytes.
///
/// # Errors
/// Errors of the files; `NotFound` for a missing parent, `Corrupt` for a parent that is not the
/// disk that the child was made from, and for an endless chain.
pub(super) fn open(opening: Opening) -> Result<(Vec<Layer>, u64)> {
    let (mut layers, mut seen) = (Vec::new(), Vec::new());
    let mut next = Some((opening, None));
    let mut len = None;
    while let Some((opening, expected)) = next.take() {
        let path = opening.path.clone();
        let named = |e: Error| {
            Error::with_source(e.kind(), format!("{} cannot be read as VHD", path.display()), e)
        };
        let meta = opening.file.metadata().map_err(|e| Error::io("stat", e)).map_err(named)?;
        let file = (meta.dev(), meta.ino(), meta.rdev());
        if seen.contains(&file) || layers.len() >= MAX_FILES {
            let what = format!("its chain of parents has no end (limit {MAX_FILES} files)");
            return Err(named(Error::new(ErrorKind::Corrupt, what)));
        }
        seen.push(file);
        let (layer, found) = match expected {
            // XenServer marks a parent that is not a VHD this way.
            Some(id) if uuid::Uuid::is_nil(&id) => (Layer::raw(opening), None),
            _ => {
                let (layer, metadata) = Layer::open(opening).map_err(named)?;
                (layer, Some(metadata))
            }
        };
        if let (Some(expected), Some(found)) = (expected, &found) {
            if found.footer.id != expected {
                let what = format!(
                    "its identifier is {}, and the disk that depends on it was made from {expected}: \
                     it is another disk, or the chain is being rewritten",
                    found.footer.id
                );
                return Err(named(Error::new(ErrorKind::Corrupt, what)));
            }
        }
        len.get_or_insert_with(|| found.as_ref().map_or(layer.len(), |found| found.footer.size));
        let differencing = found.filter(|found| found.footer.kind == Kind::Differencing);
        if let Some(header) = differencing.and_then(|found| found.header) {
            let parent = find(&layer, &header).map_err(named)?;
            next = Some((parent, Some(header.parent.id)));
        }
        layers.push(layer);
    }
    Ok((layers, len.unwrap_or(0)))
}

/// Open the parent that `header` of `child` names.
fn find(child: &Layer, header: &Header) -> Result<Opening> {
    let dir = child.path().parent().unwrap_or(Path::new("/"));
    let names = names(child, &header.parent, dir);
    for name in &names {
        let path = dir.join(name);
        let Ok(meta) = path.symlink_metadata() else { continue };
        // Logical volumes are links to block devices; a link to a file leads out of the directory.
        let device = || path.metadata().is_ok_and(|m| m.file_type().is_block_device());
        if meta.is_symlink() && !device() {
            let what = format!(
                "its parent {} is a symbolic link; put the parent itself beside it",
                path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let opening = Opening::new(&path)?;
        // Merging a chain writes to its files.
        check_unused(&opening.file, &opening.path)?;
        claim(&opening.file, Claim::StableRead)?;
        return Ok(opening);
    }
    let shown: Vec<_> = names.iter().map(|name| name.display().to_string()).collect();
    let shown = if shown.is_empty() { header.parent.name.clone() } else { shown.join(" or ") };
    Err(Error::new(
        ErrorKind::NotFound,
        format!("its parent is missing; put {shown} into the directory {}", dir.display()),
    ))
}

/// Possible names of the parent, relative to and inside `dir`, most likely first.
fn names(child: &Layer, parent: &Parent, dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = Vec::new();
    let mut add = |path: &str| {
        let beneath = beneath(path, dir);
        let base = Path::new(path).file_name().map(PathBuf::from);
        for name in beneath.into_iter().chain(base) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    };
    for locator in &parent.locators {
        let mut bytes = vec![0; locator.len as usize];
        if child.file().read_exact_at(&mut bytes, locator.offset).is_ok() {
            if let Some(path) = located(locator.encoding, &bytes) {
                add(&path);
            }
        }
    }
    if !parent.name.is_empty() {
        add(&parent.name.replace('\\', "/"));
    }
    // XenServer names the files of a storage repository by identifier.
    add(&format!("{}.vhd", parent.id.hyphenated()));
    names
}

/// `path` relative to `dir`, if it lies inside it.
fn beneath(path: &str, dir: &Path) -> Option<PathBuf> {
    let path = Path::new(path);
    let relative = if path.is_absolute() { path.strip_prefix(dir).ok()? } else { path };
    let mut out = PathBuf::new();
    for part in relative.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_lies_beneath_its_childs_directory() {
        let dir = Path::new("/sr/one");
        for (path, expected) in [
            ("./base.vhd", Some("base.vhd")),
            ("old/base.vhd", Some("old/base.vhd")),
            ("/sr/one/base.vhd", Some("base.vhd")),
            ("/sr/onebase.vhd", None),
            ("/etc/shadow", None),
            ("../two/base.vhd", None),
            ("a/../../b", None),
            ("/sr/one/../b", None),
            (".", None),
            ("", None),
        ] {
            assert_eq!(beneath(path, dir).as_deref(), expected.map(Path::new), "{path}");
        }
    }
}
