//! A disk of a live mount as it was at one moment, while programs continue to write to it.

use super::contents::OpenFile;
use super::live::open_live_disk;
use crate::bytes::{Extent, Extents, ReadAt};
use crate::disk::{Disk, Region, RegionKind, RegionTable, Source};
use crate::export::{ExportSet, ExportedFile, SNAPSHOT_PREFIX};
use crate::fuse::{LiveMount, with_private_view};
use crate::image::{Image, extent_of};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for an earlier snapshot to end after its user has ended: the kernel notifies
/// the mount of a close only after close(2) has returned.
const PATIENCE: Duration = Duration::from_secs(2);

/// A snapshot of a mount's file, which ends when this is dropped.
#[derive(Debug)]
pub struct LiveSnapshot {
    file: File,
    len: u64,
    /// The file that it shows, for messages.
    path: PathBuf,
}

impl LiveSnapshot {
    /// Take a snapshot of the disk or partition `name` of `mount`: the state that a crash at this
    /// moment would leave. Modified mapped pages are written back first.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while another process has a snapshot; other errors of the mount.
    pub fn take(mount: &LiveMount, name: &str) -> Result<Self> {
        let path = mount.dir.join(name);
        drop(open_live_disk(mount, name)?);
        let hidden = format!("{SNAPSHOT_PREFIX}{name}");
        let deadline = Instant::now() + PATIENCE;
        let file = loop {
            match mount.open(&hidden) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                result => break result,
            }
        };
        let shown = path.display();
        let file = file.map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::new(
                ErrorKind::Busy,
                format!(
                    "another finalize is reading a snapshot of {shown}; try again when it has ended"
                ),
            ),
            _ => Error::io(format!("cannot take a snapshot of {shown}"), e),
        })?;
        let len = file.metadata().map_err(|e| Error::io("cannot stat the snapshot", e))?.len();
        Ok(Self { file, len, path })
    }

    /// Its bytes, which can be read once.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub fn contents(&self) -> Result<OpenFile> {
        let failed = |e| Error::io("cannot read the snapshot", e);
        // The same open file description: opening the file again would take another snapshot.
        OpenFile::new(self.file.try_clone().map_err(failed)?).map_err(failed)
    }

    /// Show it in a private mount as an ordinary file, for programs that open their input more than
    /// once, and run `work` with that file.
    ///
    /// # Errors
    /// Errors of mounting and of `work`.
    pub fn with_file<T>(self: &Arc<Self>, work: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        let name = "disk.raw";
        let table = RegionTable::new(vec![Region {
            start: 0,
            len: self.len,
            kind: RegionKind::Image,
            origin: self.path.display().to_string(),
            source: Source::Image { image: Arc::clone(self) as Arc<dyn Image>, offset: 0 },
        }])?;
        let disk = Arc::new(Disk::new(table, None));
        let file = ExportedFile::of_disk(name.into(), disk, 0, self.len);
        with_private_view(ExportSet::private(vec![file]), |view| work(&view.open(name)?))
    }

    /// The error to report for the failure `e`, which may be caused by a snapshot that ended early.
    pub fn explain(&self, e: Error) -> Error {
        match self.file.read_at(&mut [0], 0) {
            Err(cause) if cause.raw_os_error() == Some(libc::EIO) => Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the snapshot of {} could not be kept while others wrote to it: its old content \
                     no longer fits where the mount puts temporary files (its TMPDIR, or /var/tmp); \
                     make room there, or end what writes to it",
                    self.path.display()
                ),
            ),
            _ => e,
        }
    }
}

impl ReadAt for LiveSnapshot {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Extents for LiveSnapshot {
    fn extent_at(&self, offset: u64) -> io::Result<Extent> {
        let found = extent_of(&self.file, self.len, offset)?;
        Ok(Extent { data: found.data, end: found.end.clamp(offset + 1, self.len) })
    }
}

impl Image for LiveSnapshot {
    fn allocated(&self) -> u64 {
        self.file.metadata().map_or(self.len, |m| m.blocks() * 512)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
