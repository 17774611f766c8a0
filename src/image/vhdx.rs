//! VHDX images of Hyper-V: dynamic, fixed and differencing, read in place.
//!
//! A file that was not closed properly has a log of changes to its tables. It is replayed in memory:
//! tables are read through the changes that the log contains.
//!
//! Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format". All numbers are
//! little-endian.

mod header;
mod layer;
mod log;
mod metadata;
mod patched;

use super::driver::{Backing, Driver, FoundLayer};
use super::opening::Opening;
use super::stored_file::StoredFile;
use crate::Result;
use layer::VhdxLayer;
use metadata::Parent;
use patched::Patched;
use std::path::PathBuf;

pub(super) static FORMAT: Driver = Driver {
    name: "vhdx",
    qemu_name: "vhdx",
    shown: "VHDX",
    extensions: &["vhdx"],
    layer: Some(|opening, _| open(opening)),
};

fn open(opening: Opening) -> Result<FoundLayer> {
    let file = StoredFile::from(opening);
    let header = header::read(&file)?;
    let changes = log::replay(&file, &header)?;
    let tables = Patched::new(file, changes);
    let regions = header::read_regions(&tables)?;
    let metadata = metadata::read(&tables, regions.metadata)?;
    let backing = metadata.parent.as_ref().map(|parent| Backing {
        paths: paths(parent),
        format: Some(FORMAT.name.into()),
        id: Some(parent.id.clone()),
    });
    let layer = VhdxLayer::open(tables, regions.bat, &metadata)?;
    let id = Some(header.data_write_id.hyphenated().to_string());
    Ok(FoundLayer { layer: Box::new(layer), id, backing })
}

/// Where the parent may be: its recorded paths, and their names alone, because chains are moved as a
/// whole.
fn paths(parent: &Parent) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for path in &parent.paths {
        let path = path.replace('\\', "/");
        let path = path.trim_start_matches("./");
        let name = path.rsplit('/').next().unwrap_or(path);
        for path in [path, name].map(PathBuf::from) {
            if !path.as_os_str().is_empty() && !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths
}
