//! A golden image: a disk that was written out and is to lie under deltas.

use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Base, RegionKind, RegionTable, Source};
use crate::fs::probe::{probe, uuid_text};
use crate::image::{Claim, claim, extent_of};
use crate::layout::format_size;
use crate::{Error, ErrorKind, Result};
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, DynStorage, FormatAccess, FormatDriverBuilder, ShallowMapping};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// First bytes of a partition in which its filesystem says what it is.
const HEAD: u64 = 128 << 10;
/// Where sector 0 has its disk identifier and partition entries, behind the loader's code.
const TABLE_IN_MBR: std::ops::Range<usize> = 440..512;
/// QEMU takes no longer name of a backing file. Bytes.
const NAME_MAX: usize = 1023;

/// A golden image, locked against writers for as long as this lives.
pub struct Backing {
    path: PathBuf,
    file: File,
    qcow2: Option<FormatAccess<Arc<dyn DynStorage>>>,
    len: u64,
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backing").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Backing {
    /// Open the raw or qcow2 file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when a QEMU writes to it, [`ErrorKind::Unsupported`] when it has a backing
    /// file of its own or is encrypted, those of the system calls.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let failed = |e| Error::io(format!("cannot open the golden image {shown}"), e);
        let path = path.canonicalize().map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        claim(&file, Claim::StableRead).map_err(|e| {
            let what = format!("the golden image {shown} is open for writing elsewhere");
            Error::with_source(e.kind(), what, e)
        })?;
        let mut head = [0; 16];
        let qcow2 = match file.read_exact_at(&mut head, 0) {
            Ok(()) if head.starts_with(b"QFI\xfb") => {
                if head[8..] != [0; 8] {
                    let what = format!(
                        "the golden image {shown} has a backing file of its own; write it out whole \
                         first (qemu-img convert)"
                    );
                    return Err(Error::new(ErrorKind::Unsupported, what));
                }
                let open = || -> io::Result<_> {
                    let storage: Arc<dyn DynStorage> =
                        Arc::new(imago::file::File::try_from(file.try_clone()?)?);
                    let qcow2 = Qcow2::<Arc<dyn DynStorage>>::builder(storage).backing(None);
                    qcow2.write(false).open(DenyImplicitOpenGate::default())
                };
                let what = format!("the golden image {shown} cannot be read as qcow2");
                let opened = open().map_err(|e| Error::with_source(ErrorKind::Corrupt, what, e))?;
                Some(FormatAccess::new(opened))
            }
            _ => None,
        };
        let len = match &qcow2 {
            Some(qcow2) => qcow2.size(),
            None => file.metadata().map_err(failed)?.len(),
        };
        Ok(Self { path, file, qcow2, len })
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What QEMU calls its format.
    pub fn format(&self) -> &'static str {
        if self.qcow2.is_some() { "qcow2" } else { "raw" }
    }

    /// Its name as a delta in the directory `dir` has to call it. Two files in one directory can be
    /// moved together.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a name that a qcow2 header cannot hold.
    pub fn name_from(&self, dir: &Path) -> Result<String> {
        let name: &OsStr = match (self.path.parent(), self.path.file_name(), dir.canonicalize()) {
            (Some(parent), Some(name), Ok(dir)) if parent == dir => name,
            _ => self.path.as_os_str(),
        };
        let refused = || {
            let what = format!(
                "the path of the golden image {} cannot stand in a qcow2 file; give it a shorter one, \
                 in UTF-8",
                self.path.display()
            );
            Error::new(ErrorKind::Unsupported, what)
        };
        let name = name.to_str().ok_or_else(refused)?;
        // QEMU takes what stands before a colon for a protocol, unless a slash comes first.
        let name = if name.contains(':') && !name.starts_with('/') {
            format!("./{name}")
        } else {
            name.to_owned()
        };
        if name.len() <= NAME_MAX { Ok(name) } else { Err(refused()) }
    }

    /// Check that this was made of the same images and layout as a disk whose regions, without
    /// anything that was written, are `base`. Guards against the wrong file: what a delta contains
    /// is decided by comparing every byte.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with what differs; those of reading.
    pub fn check_same_base(&self, base: &RegionTable) -> Result<()> {
        let shown = self.path.display();
        let refuse = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if self.len != base.len() {
            return refuse(format!(
                "{shown} is a disk of {}, and this one has {}; a golden image is written from the \
                 same images with the same options",
                format_size(self.len),
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
        let (ours, theirs) = both(0, 512.min(self.len))?;
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

impl Extents for Backing {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        let found = match &self.qcow2 {
            None => extent_of(&self.file, self.len, offset)?,
            Some(qcow2) => {
                let (mapping, n) = qcow2.get_shallow_mapping(offset, self.len - offset)?;
                let data = !matches!(mapping, ShallowMapping::Zero { .. });
                Extent { data, end: offset + n }
            }
        };
        Ok(Extent { data: found.data, end: found.end.clamp(offset + 1, self.len) })
    }
}

impl ReadAt for Backing {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.qcow2 {
            None => self.file.read_exact_at(buf, offset),
            Some(qcow2) => qcow2.read(buf, offset),
        }
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Base for Backing {
    /// A delta cannot tell "as the backing file, which is zero here" from "zero": it never matters.
    fn is_zero(&self, _offset: u64, _len: u64) -> bool {
        false
    }
}
