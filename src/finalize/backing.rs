//! A golden image: a disk that was written out, on which deltas are based.

use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Base, RegionKind, RegionTable, Source};
use crate::fs::probe::{probe, uuid_text};
use crate::image::{self, Image, OpenOptions};
use crate::layout::format_size;
use crate::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// First bytes of a partition, in which its filesystem identifies itself.
const HEAD: u64 = 128 << 10;
/// Where sector 0 has its disk identifier and partition entries, after the loader's code.
const TABLE_IN_MBR: std::ops::Range<usize> = 440..512;
/// Maximum length of a backing file name in QEMU, in bytes.
const NAME_MAX: usize = 1023;

/// A golden image, locked against writers for as long as this lives.
#[derive(Debug)]
pub struct Backing {
    image: Arc<dyn Image>,
}

impl Backing {
    /// Open the image at `path`, in the format that its name stands for.
    ///
    /// # Errors
    /// Errors of [`image::open`]: [`ErrorKind::Busy`] when something writes to it,
    /// [`ErrorKind::Unsupported`] when it has a backing image of its own.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = image::open(path, &OpenOptions::default());
        let image = opened
            .map_err(|e| Error::with_source(e.kind(), "cannot use this as the golden image", e))?;
        // QEMU opens the golden image of a delta, and reads chains of some formats differently.
        if image.files().len() > 1 {
            let what = format!(
                "{} consists of several files or has a backing image of its own, and the golden image \
                 must be one file; write it out whole first (synthdisk finalize)",
                path.display()
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        Ok(Self { image })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        self.image.path()
    }

    /// QEMU's name for its format.
    pub fn format(&self) -> &'static str {
        self.image.format()
    }

    /// The name by which a delta in the directory `dir` must refer to it. If both files are in one
    /// directory, they can be moved together.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a name that a qcow2 header cannot hold.
    pub fn name_from(&self, dir: &Path) -> Result<String> {
        let name: &OsStr = match (self.path().parent(), self.path().file_name(), dir.canonicalize())
        {
            (Some(parent), Some(name), Ok(dir)) if parent == dir => name,
            _ => self.path().as_os_str(),
        };
        let refused = || {
            let what = format!(
                "the path of the golden image {} cannot stand in a qcow2 file; give it a shorter one, \
                 in UTF-8",
                self.path().display()
            );
            Error::new(ErrorKind::Unsupported, what)
        };
        let name = name.to_str().ok_or_else(refused)?;
        // QEMU treats the text before a colon as a protocol, unless a slash precedes it.
        let name = if name.contains(':') && !name.starts_with('/') {
            format!("./{name}")
        } else {
            name.to_owned()
        };
        if name.len() <= NAME_MAX { Ok(name) } else { Err(refused()) }
    }

    /// Check that this was made from the same images and layout as the disk whose regions, without
    /// any writes, are `base`. This guards against using the wrong file; the content of a delta is
    /// determined by comparing every byte.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], naming the difference; read errors.
    pub fn check_same_base(&self, base: &RegionTable) -> Result<()> {
        let shown = self.path().display();
        let refuse = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if self.len() != base.len() {
            return refuse(format!(
                "{shown} is a disk of {}, and this one has {}; a golden image is written from the \
                 same images with the same options",
                format_size(self.len()),
                format_size(base.len())
            ));
        }
        let both = |start: u64, len: u64| -> Result<(Vec<u8>, Vec<u8>)> {
            let (mut ours, mut theirs) = (vec![0; len as usize], vec![0; len as usize]);
            base.read_at(&mut ours, start).map_err(|e| Error::io("cannot read the images", e))?;
            let failed = |e| Error::io(format!("cannot read {shown}"), e);
            self.read_at(&mut theirs, start).map_err(failed)?;
            Ok((ours, theirs))
        };
        let (ours, theirs) = both(0, 512.min(self.len()))?;
        let differs = |range: std::ops::Range<usize>| ours.get(range.clone()) != theirs.get(range);
        let mut other_table = differs(TABLE_IN_MBR);
        for region in base.regions().iter().filter(|r| r.kind == RegionKind::Table) {
            let (ours, theirs) = both(region.start, region.len)?;
            other_table |= ours != theirs;
        }
        if other_table {
            return refuse(format!(
                "{shown} has another partition table or disk identifier than this disk; a golden \
                 image is written from the same images with the same options"
            ));
        }
        for region in base.regions() {
            let (RegionKind::Partition(number), Source::Image { .. }) =
                (region.kind, &region.source)
            else {
                continue;
            };
            let (ours, theirs) = both(region.start, region.len.min(HEAD))?;
            let uuid = |head: &[u8]| probe(head, region.len).uuid().as_ref().map(uuid_text);
            let (ours, theirs) = (uuid(&ours), uuid(&theirs));
            if ours != theirs {
                let say = |uuid: Option<String>| uuid.unwrap_or_else(|| "none".into());
                return refuse(format!(
                    "partition {number} of {shown} is not the image {}: its filesystem's UUID is {}, \
                     the image's {}",
                    region.origin,
                    say(theirs),
                    say(ours)
                ));
            }
        }
        Ok(())
    }
}

impl ReadAt for Backing {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.image.read_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.image.len()
    }
}

impl Extents for Backing {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        self.image.extent_at(offset)
    }
}

impl Base for Backing {
    /// A delta cannot distinguish "as in the backing file, which is zero here" from "zero"; both
    /// read the same.
    fn is_zero(&self, _offset: u64, _len: u64) -> bool {
        false
    }
}
