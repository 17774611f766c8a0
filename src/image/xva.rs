//! XVA: the export of a guest from XenServer or XCP-ng, a tar with the guest's description and the
//! blocks of its disks, which are read in place.
//!
//! The archive is walked over once, header by header; its blocks have no table. Source: xapi,
//! `ocaml/xapi/export.ml` and `stream_vdi.ml`.

mod disk;
mod index;
mod tar;
mod verify;

use super::Image;
use super::beside::claim_stable;
use super::driver::Driver;
use super::layered::{LayeredImage, MAX_LEN, Opened};
use super::open::OpenOptions;
use super::opening::Opening;
use crate::remote::RemoteUrl;
use crate::{Error, ErrorKind, Result};
use disk::XvaLayer;
use index::Index;
use std::path::Path;
use std::sync::Arc;

pub(super) static FORMAT: Driver = Driver {
    name: "xva",
    qemu_name: "xva",
    shown: "XVA",
    extensions: &["xva"],
    layer: Some(|_, _| {
        Err(Error::new(
            ErrorKind::Invalid,
            "it contains a whole guest, not one disk; name it alone, without other images, by a name that \
             ends in .xva",
        ))
    }),
};

/// Longest description of a guest that is read, in bytes. xapi's have some 100 KiB.
const MAX_DESCRIPTION: u64 = 16 << 20;

/// An open XVA.
pub struct Xva {
    opening: Opening,
    description: Vec<u8>,
    index: Index,
}

impl Xva {
    /// Whether the file at `path` is meant to be an XVA, by its name.
    pub fn is_meant(path: &Path) -> bool {
        let is_xva = |path: &Path| {
            path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(FORMAT.name))
        };
        // The query of a URL is no part of the file's name.
        match path.to_str().filter(|_| RemoteUrl::of_path(path).is_some()) {
            Some(url) => is_xva(Path::new(url.split('?').next().unwrap_or_default())),
            None => is_xva(path),
        }
    }

    /// The guest's description, `ova.xml`, in the XVA at `path`; nothing else is read.
    ///
    /// # Errors
    /// As [`Xva::open`].
    pub fn description_in(path: &Path) -> Result<Vec<u8>> {
        let opening = open_local(path)?;
        description(&opening).map_err(|e| named(&opening, e))
    }

    /// Open the XVA at `path`, claim it as [`open`](super::open) does, and index its disks.
    ///
    /// # Errors
    /// Those of [`open`](super::open); [`ErrorKind::Unsupported`] for a compressed one, with the
    /// command that unpacks it; [`ErrorKind::Corrupt`] for one that was cut short.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let opening = open_local(path)?;
        claim_stable(&opening, options.in_use)?;
        let read = || Ok((description(&opening)?, Index::read(&opening)?));
        let (description, index) = read().map_err(|e| named(&opening, e))?;
        Ok(Self { opening, description, index })
    }

    /// The guest's description, `ova.xml`.
    pub fn description(&self) -> &[u8] {
        &self.description
    }

    /// The disk in the directory `name`, which is `len` bytes long.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the archive does not contain it, or not to its end.
    pub fn disk(&self, name: &str, len: u64) -> Result<Arc<dyn Image>> {
        let corrupt = |what: String| named(&self.opening, Error::new(ErrorKind::Corrupt, what));
        let shown = name.escape_debug();
        let found = self.index.disks.get(name);
        let found = found.filter(|_| len > 0 && len <= MAX_LEN).ok_or_else(|| {
            corrupt(format!(
                "it describes a disk {shown} of {len} bytes and does not contain it; was only the \
                 metadata exported?"
            ))
        })?;
        if found.end < len && !self.index.ended {
            return Err(corrupt(format!(
                "the disk {shown} ends at {} of {len} bytes, and the archive has no end; it was cut \
                 short",
                found.end
            )));
        }
        let file = self.opening.file.try_clone();
        let file = file.map_err(|e| Error::io("cannot duplicate a file descriptor", e))?;
        let opening = Opening { file, len: self.opening.len, path: self.opening.path.clone() };
        let layer = XvaLayer { file: [opening.into()], blocks: Arc::clone(&found.blocks), len };
        let layer = Opened { layer: Box::new(layer), format: FORMAT.qemu_name };
        Ok(Arc::new(LayeredImage::new(vec![layer])))
    }

    /// Compare all blocks with their checksums; returns how many have one.
    ///
    /// # Errors
    /// Errors of the file; [`ErrorKind::Corrupt`], naming the block, if one is damaged.
    pub fn verify(&self) -> Result<u64> {
        verify::verify(&self.opening).map_err(|e| named(&self.opening, e))
    }
}

/// Open the archive at `path`.
fn open_local(path: &Path) -> Result<Opening> {
    if RemoteUrl::of_path(path).is_some() {
        let what = format!(
            "{} is an XVA, which is read from this host only, because finding its blocks takes \
             reading nearly all of it; download it first",
            path.display()
        );
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    Opening::new(path)
}

fn named(opening: &Opening, e: Error) -> Error {
    let what = format!("{} cannot be read as XVA", opening.path.display());
    Error::with_source(e.kind(), what, e)
}

/// `ova.xml`, which is the first file of the archive.
fn description(opening: &Opening) -> Result<Vec<u8>> {
    refuse_compressed(opening)?;
    let mut walk = tar::Walk::new(opening);
    let entry = walk.next()?.filter(|entry| entry.name == "ova.xml").ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "its first file is not ova.xml, the guest's description")
    })?;
    if entry.len > MAX_DESCRIPTION {
        let what = format!("its ova.xml is too long (limit {MAX_DESCRIPTION} bytes)");
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    let mut bytes = vec![0; entry.len as usize];
    let read = opening.file.read_exact_at(&mut bytes, entry.at);
    read.map_err(|e| Error::io("cannot read its ova.xml", e))?;
    Ok(bytes)
}

/// Refuse a compressed archive: no place in it can be read without unpacking all that precedes it.
fn refuse_compressed(opening: &Opening) -> Result<()> {
    let mut head = [0; 6];
    let len = head.len().min(opening.len as usize);
    let read = opening.file.read_exact_at(&mut head[..len], 0);
    read.map_err(|e| Error::io("cannot read its first bytes", e))?;
    let (what, command) = match head {
        [0x1f, 0x8b, ..] => ("gzip", "gzip -dc"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", "zstd -dc"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => ("xz", "xz -dc"),
        _ => return Ok(()),
    };
    let path = opening.path.display();
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "it is compressed with {what}, and cannot be read in place; unpack it ({command} < {path} > \
             plain.xva) and name the result"
        ),
    ))
}
