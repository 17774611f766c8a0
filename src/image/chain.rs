//! Opening an image and the backing images beneath it.
//!
//! An image names its backing image, and an image may be hostile: the name only selects a file in
//! the directory of the image that names it, beneath it, or in a directory that the user named.

use super::beside::{Reach, open_beside, permitted, permitted_dirs};
use super::driver::Format;
use super::driver::{Backing, Driver, FoundLayer};
use super::foreign::refuse_foreign;
use super::layer::PlainLayer;
use super::layered::{LayeredImage, MAX_LEN, Opened};
use super::opening::Opening;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Maximum number of images in a chain. XCP-ng creates chains of up to 30.
const MAX_IMAGES: usize = 40;

/// The image in `opening`, of `driver`'s format, with the images that it is based on.
///
/// # Errors
/// Errors of the files; `NotFound` for a missing backing image, `Corrupt` for one that is not what
/// the image was made from, and for an endless chain.
pub(super) fn open_chain(
    opening: Opening,
    driver: &'static Driver,
    reach: &Reach<'_>,
) -> Result<LayeredImage> {
    let (mut layers, mut seen) = (Vec::new(), Vec::new());
    let mut next = Some((opening, driver, None::<String>));
    while let Some((opening, driver, expected)) = next.take() {
        let path = opening.path.clone();
        let named = |e: Error| {
            let what = format!("{} cannot be read as {}", path.display(), driver.shown);
            Error::with_source(e.kind(), what, e)
        };
        let file = match opening.file.local().map(File::metadata) {
            Some(meta) => {
                let meta = meta.map_err(|e| Error::io("stat", e)).map_err(named)?;
                Some((meta.dev(), meta.ino(), meta.rdev()))
            }
            None => None,
        };
        if file.is_some() && seen.contains(&file) || layers.len() >= MAX_IMAGES {
            let what =
                format!("its chain of backing images has no end (limit {MAX_IMAGES} images)");
            return Err(named(Error::new(ErrorKind::Corrupt, what)));
        }
        seen.push(file);
        let found = match driver.layer {
            Some(layer) => layer(opening, reach).map_err(named)?,
            None => {
                let len = opening.len;
                FoundLayer::alone(PlainLayer::new(opening, len))
            }
        };
        if let (Some(expected), Some(id)) = (expected, &found.id) {
            if *id != expected {
                let what = format!(
                    "its identifier is {id}, and the disk that depends on it was made from {expected}: \
                     it is another disk, or the chain is being rewritten"
                );
                return Err(named(Error::new(ErrorKind::Corrupt, what)));
            }
        }
        let len = found.layer.len();
        if len == 0 || len > MAX_LEN {
            let what = format!("its disk has {len} bytes; from 1 to {MAX_LEN} are read");
            return Err(named(Error::new(ErrorKind::Corrupt, what)));
        }
        if let Some(backing) = found.backing {
            if file.is_none() {
                let what = "it is based on another image, and is not on this host: only whole images \
                            are read from elsewhere; write it out whole first (qemu-img convert -O \
                            qcow2)";
                return Err(named(Error::new(ErrorKind::Unsupported, what)));
            }
            next = Some(find(&path, backing, reach).map_err(named)?);
        }
        layers.push(Opened { layer: found.layer, format: driver.qemu_name });
    }
    Ok(LayeredImage::new(layers))
}

/// Open the backing image of the image at `child`.
fn find(
    child: &Path,
    backing: Backing,
    reach: &Reach<'_>,
) -> Result<(Opening, &'static Driver, Option<String>)> {
    let own = child.parent().unwrap_or(Path::new("/"));
    let Some(opening) = open_beside(own, &backing.paths, reach)? else {
        return Err(missing(own, &backing, reach));
    };
    let format = match &backing.format {
        None => Format::of_path(&opening.path),
        Some(name) => Format::by_name(name).ok_or_else(|| {
            let what = format!(
                "its backing image is in the format '{}', which is not read; write the image out whole \
                 first (qemu-img convert -O qcow2)",
                name.escape_debug()
            );
            Error::new(ErrorKind::Unsupported, what)
        })?,
    };
    if backing.format.is_none() && format.0.is_plain() {
        refuse_foreign(&opening)?;
    }
    Ok((opening, format.0, backing.id))
}

/// The error for a backing image that was not found.
fn missing(own: &Path, backing: &Backing, reach: &Reach<'_>) -> Error {
    let dirs = permitted_dirs(own, reach);
    let may = |path: &&PathBuf| permitted(own, path, &dirs).is_some();
    let inside: Vec<_> = backing.paths.iter().filter(may).collect();
    let list = |paths: &[&PathBuf]| {
        let shown = paths.iter().map(|p| p.display().to_string().escape_debug().to_string());
        shown.collect::<Vec<_>>().join(" or ")
    };
    let dir = own.display();
    let what = match inside.is_empty() {
        false => {
            format!("its backing image is missing; put {} into the directory {dir}", list(&inside))
        }
        true => format!(
            "its backing image {} is not beneath its directory {dir}, and an image must not choose \
             files elsewhere; name the directory of the backing image with --backing-dir",
            list(&backing.paths.iter().collect::<Vec<_>>())
        ),
    };
    Error::new(ErrorKind::NotFound, what)
}
