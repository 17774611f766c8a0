//! Where the parent of a differencing disk may be.

use super::header::{Parent, located};
use super::layer::VhdLayer;
use std::path::{Path, PathBuf};

/// Possible paths of the parent of `child`, most likely first: its locators and recorded name, and
/// the names alone, because chains are moved as a whole.
pub(super) fn paths(child: &VhdLayer, parent: &Parent) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut add = |path: &str| {
        let path = path.trim_start_matches("./");
        let base = Path::new(path).file_name().map(PathBuf::from);
        for path in [PathBuf::from(path)].into_iter().chain(base) {
            if !path.as_os_str().is_empty() && !paths.contains(&path) {
                paths.push(path);
            }
        }
    };
    for locator in &parent.locators {
        let mut bytes = vec![0; locator.len as usize];
        if child.file().read(&mut bytes, locator.offset).is_ok() {
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
    paths
}
