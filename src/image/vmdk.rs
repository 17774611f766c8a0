//! VMDK images of VMware: flat, sparse and stream-optimized extents, in one file or split, and chains
//! of them, read in place.
//!
//! Source: VMware, "Virtual Disk Format 5.0"; QEMU, `block/vmdk.c`.

mod descriptor;
mod sparse;

use super::beside::{Reach, open_beside};
use super::driver::{Backing, Driver, FoundLayer};
use super::layer::{Layer, Place, Put};
use super::opening::Opening;
use super::stored_file::StoredFile;
use crate::{Error, ErrorKind, Result};
use descriptor::{Descriptor, ExtentKind, ExtentLine};
use sparse::{SECTOR, Sparse, SparseKind, corrupt};
use std::io;
use std::path::{Path, PathBuf};

pub(super) static FORMAT: Driver = Driver {
    name: "vmdk",
    qemu_name: "vmdk",
    shown: "VMDK",
    extensions: &["vmdk"],
    layer: Some(open),
};

/// How a descriptor in a file of its own begins.
const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";
/// Bytes of tables of all extents that are compared with the files' lengths when a disk is opened.
const CHECKED: u64 = 8 << 20;
/// Longest descriptor, in bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// A disk made of extents.
#[derive(Debug)]
struct VmdkLayer {
    /// The file that was named, and those of the extents.
    files: Vec<StoredFile>,
    /// In the order of the disk, without gaps.
    extents: Vec<Extent>,
    len: u64,
}

/// A part of the disk. Offsets in bytes.
#[derive(Debug)]
struct Extent {
    start: u64,
    end: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Zeros,
    /// From this offset of the file on.
    Flat {
        file: usize,
        offset: u64,
    },
    Sparse {
        file: usize,
        sparse: Sparse,
    },
}

fn open(opening: Opening, reach: &Reach<'_>) -> Result<FoundLayer> {
    let path = opening.path.clone();
    let file = StoredFile::from(opening);
    let mut head = vec![0; DESCRIPTOR.len().min(file.len() as usize)];
    file.read(&mut head, 0).map_err(|e| Error::io("cannot read its header", e))?;
    let (text, own) = if head.starts_with(b"KDMV") {
        let (sparse, place) = Sparse::open(&file, SparseKind::Hosted, CHECKED)?;
        let (at, len) = place.ok_or_else(|| {
            corrupt("it is one extent of a disk; name the disk's descriptor (the small file)")
        })?;
        (read_descriptor(&file, at, len)?, Some(sparse))
    } else if head.starts_with(b"COWD") {
        return Err(corrupt(
            "it is one extent of a disk; name the disk's descriptor (the small file)",
        ));
    } else if head.eq_ignore_ascii_case(DESCRIPTOR) {
        (read_descriptor(&file, 0, file.len())?, None)
    } else {
        return Err(corrupt("it is not a VMDK file"));
    };
    let descriptor = Descriptor::parse(&text)?;
    let layer = match own {
        // Its descriptor has one line for the file itself, by the name that it once had.
        Some(sparse) => {
            let end = sparse.len();
            let extent = Extent { start: 0, end, content: Content::Sparse { file: 0, sparse } };
            VmdkLayer { files: vec![file], extents: vec![extent], len: end }
        }
        None => extents(file, &path, &descriptor.extents, reach)?,
    };
    let backing = descriptor.parent.map(|parent| Backing {
        paths: vec![PathBuf::from(parent.name)],
        format: Some(FORMAT.name.into()),
        id: Some(parent.cid),
    });
    Ok(FoundLayer { layer: Box::new(layer), id: Some(descriptor.cid), backing })
}

fn read_descriptor(file: &StoredFile, at: u64, len: u64) -> Result<String> {
    if len > MAX_DESCRIPTOR {
        let what = format!("its descriptor is too long (limit {MAX_DESCRIPTOR} bytes)");
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    let mut bytes = vec![0; len as usize];
    file.read(&mut bytes, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => corrupt("the file ends within its descriptor"),
        _ => Error::io("cannot read its descriptor", e),
    })?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// The disk of the extents that a descriptor at `path` lists.
fn extents(
    descriptor: StoredFile,
    path: &Path,
    lines: &[ExtentLine],
    reach: &Reach<'_>,
) -> Result<VmdkLayer> {
    let own = path.parent().unwrap_or(Path::new("/"));
    let (mut files, mut extents, mut end) = (vec![descriptor], Vec::new(), 0u64);
    let budget = CHECKED / lines.len().max(1) as u64;
    for line in lines {
        let start = end;
        let len = line.sectors.checked_mul(SECTOR);
        end =
            len.and_then(|len| start.checked_add(len)).ok_or_else(|| corrupt("it is too long"))?;
        let shown = line.name.escape_debug().to_string();
        let mut open = || -> Result<usize> {
            let found = open_beside(own, &[PathBuf::from(&line.name)], reach)?;
            let opening = found.ok_or_else(|| {
                let what = format!(
                    "its extent '{shown}' is not in the directory {}; put it there, or name its \
                     directory with --backing-dir",
                    own.display()
                );
                Error::new(ErrorKind::NotFound, what)
            })?;
            files.push(opening.into());
            Ok(files.len() - 1)
        };
        let content = match line.kind {
            ExtentKind::Zero => Content::Zeros,
            ExtentKind::Flat => {
                let file = open()?;
                let offset = line.offset.checked_mul(SECTOR);
                let stop = offset.and_then(|offset| offset.checked_add(end - start));
                let file_len = files[file].len();
                let (Some(offset), true) = (offset, stop.is_some_and(|stop| stop <= file_len))
                else {
                    return Err(corrupt(format!(
                        "its extent '{shown}' has {file_len} bytes, too few for {} sectors; it was \
                         cut short",
                        line.sectors
                    )));
                };
                Content::Flat { file, offset }
            }
            ExtentKind::Sparse(kind) => {
                let file = open()?;
                let named =
                    |e: Error| Error::with_source(e.kind(), format!("its extent '{shown}'"), e);
                let (sparse, _) = Sparse::open(&files[file], kind, budget).map_err(named)?;
                if sparse.len() < end - start {
                    return Err(corrupt(format!(
                        "its extent '{shown}' has {} bytes, and the descriptor says {}",
                        sparse.len(),
                        end - start
                    )));
                }
                Content::Sparse { file, sparse }
            }
        };
        extents.push(Extent { start, end, content });
    }
    Ok(VmdkLayer { files, extents, len: end })
}

impl VmdkLayer {
    /// The extent that contains `at`, and those after it.
    fn from(&self, at: u64) -> &[Extent] {
        &self.extents[self.extents.partition_point(|extent| extent.end <= at)..]
    }
}

impl Layer for VmdkLayer {
    fn len(&self) -> u64 {
        self.len
    }

    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()> {
        for extent in self.from(start).iter().take_while(|extent| extent.start < end) {
            let (from, to) = (start.max(extent.start), end.min(extent.end));
            let (at, base) = (from - extent.start, extent.start);
            match &extent.content {
                Content::Zeros => put(from, to, Place::Zeros),
                Content::Flat { file, offset } => {
                    put(from, to, Place::Stored { file: *file, offset: offset + at });
                }
                Content::Sparse { file, sparse } => {
                    let mut put = |from: u64, to: u64, place: Place| {
                        let place = match place {
                            Place::Stored { offset, .. } => Place::Stored { file: *file, offset },
                            Place::Packed { unit } => Place::Packed { unit: base + unit },
                            other => other,
                        };
                        put(base + from, base + to, place);
                    };
                    sparse.locate(&self.files[*file], at, to - base, &mut put)?;
                }
            }
        }
        Ok(())
    }

    fn unpack(&self, unit: u64) -> io::Result<Vec<u8>> {
        match self.from(unit).first() {
            Some(Extent { start, content: Content::Sparse { file, sparse }, .. }) => {
                sparse.unpack(&self.files[*file], unit - start)
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn files(&self) -> &[StoredFile] {
        &self.files
    }
}
