//! qcow2 images, read through `imago`.
//!
//! The header is checked here first, so that nothing is read from a file that is inconsistent or
//! depends on another file. The image's own tables are trusted, within the limits of the file: a
//! bad offset yields a read error or other bytes of the same file.

pub(super) mod header;

use super::Image;
use super::driver::{Driver, Opening};
use crate::bytes::{Extent, Extents, ReadAt};
use crate::{Error, ErrorKind, Result};
use header::Header;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, DynStorage, FormatAccess, FormatDriverBuilder, ShallowMapping};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) static FORMAT: Driver = Driver {
    name: "qcow2",
    qemu_name: "qcow2",
    extensions: &["qcow2"],
    plain: false,
    open: |opening| Ok(Arc::new(Qcow2Image::new(opening)?)),
};

/// The file as `imago` sees it.
type Storage = Arc<dyn DynStorage>;

/// Incompatible feature bit of qcow2: the image was not closed cleanly. Only refcounts can be wrong
/// then.
const DIRTY: u64 = 1;

/// A qcow2 image without a backing file.
struct Qcow2Image {
    format: FormatAccess<Storage>,
    file: File,
    path: PathBuf,
}

impl fmt::Debug for Qcow2Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2Image").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Qcow2Image {
    fn new(Opening { file, path, .. }: Opening) -> Result<Self> {
        let named = |e: Error| {
            let what = format!("{} cannot be read as qcow2", path.display());
            Error::with_source(e.kind(), what, e)
        };
        let header = Header::read(&file).map_err(named)?;
        check_features(&header).map_err(named)?;
        let open = || -> io::Result<_> {
            let storage: Storage = Arc::new(imago::file::File::try_from(file.try_clone()?)?);
            let qcow2 = Qcow2::<Storage>::builder(storage).backing(None);
            qcow2.write(false).open(DenyImplicitOpenGate::default())
        };
        let damaged = |e| Error::with_source(ErrorKind::Corrupt, "its tables are damaged", e);
        let format = FormatAccess::new(open().map_err(damaged).map_err(named)?);
        Ok(Self { format, file, path })
    }
}

/// Refuse files that depend on other files or use unsupported features.
fn check_features(header: &Header) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::Unsupported, what));
    if header.has_backing {
        return refuse(
            "it has a backing file of its own, and chains are not read yet; write it out whole \
             first (qemu-img convert -O qcow2)",
        );
    }
    if header.encrypted {
        return refuse("it is encrypted; decrypt it first (qemu-img convert)");
    }
    if header.incompatible & !DIRTY != 0 {
        return refuse(
            "it uses an external data file, zstd compression, subclusters or a newer feature; \
             write it out without them (qemu-img convert -O qcow2)",
        );
    }
    Ok(())
}

impl ReadAt for Qcow2Image {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.format.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.format.read(buf, offset)
    }

    fn len(&self) -> u64 {
        self.format.size()
    }
}

impl Extents for Qcow2Image {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        let len = self.format.size();
        let left = len.saturating_sub(offset);
        if left == 0 {
            return Ok(Extent { data: false, end: len });
        }
        let (mapping, n) = self.format.get_shallow_mapping(offset, left)?;
        let data = !matches!(mapping, ShallowMapping::Zero { .. });
        Ok(Extent { data, end: (offset + n).clamp(offset + 1, len) })
    }
}

impl Image for Qcow2Image {
    fn allocated(&self) -> u64 {
        self.file.metadata().map_or(self.format.size(), |meta| match meta.is_file() {
            true => meta.blocks() * 512,
            false => self.format.size(),
        })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn format(&self) -> &'static str {
        FORMAT.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_depends_on_other_files_is_refused() {
        for (at, byte, word) in [
            (15, 1, "backing file"),
            (35, 1, "encrypted"),
            (79, 4, "external data file"),
            (79, 16, "subclusters"),
        ] {
            let mut head = header::tests::valid();
            head[at] = byte;
            let e = check_features(&Header::parse(&head).unwrap()).unwrap_err();
            assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains(word), "{e}");
        }
        let mut dirty = header::tests::valid();
        dirty[79] = 1;
        check_features(&Header::parse(&dirty).unwrap()).unwrap();
    }
}
