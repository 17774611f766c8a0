//! A disk that is ready to be served, and readers for its partitions.

use crate::bytes::{ReadAt, SharedBytes};
use crate::disk::{Disk, ReadSet};
use crate::layout::{Ids, Layout};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// A disk that is ready to be served.
#[derive(Debug)]
pub struct PlannedDisk {
    /// Name of its file in a mount: `disk.raw`, `disk-b.raw`, `cdrom-c.raw`.
    pub file: String,
    /// The guest's name for it under Xen: `xvda`.
    pub vdev: String,
    /// The letters of that name: `a`.
    pub letters: String,
    /// The disk to serve.
    pub disk: Arc<Disk>,
    /// Its layout; none if it is a single image.
    pub layout: Option<Layout>,
    /// Its identifiers, if they were generated here.
    pub ids: Option<Ids>,
    /// The file that stores its writes, as an absolute path.
    pub overlay: Option<PathBuf>,
    /// Whether it is a CD.
    pub cdrom: bool,
}

impl PlannedDisk {
    /// Name of a partition's file in a mount: `part1.raw` of `disk.raw`, `disk-b-part1.raw` of
    /// `disk-b.raw`.
    pub fn partition_file(&self, number: u32) -> String {
        partition_file_name(&self.file, number)
    }

    /// A reader of a partition, through the overlay.
    pub fn partition(&self, number: u32) -> Option<PartitionReader> {
        let placed = self.layout.as_ref()?.partitions.iter().find(|p| p.number == number)?;
        let (start, len) = (placed.start, placed.len);
        let disk: Weak<Disk> = Arc::downgrade(&self.disk);
        Some(PartitionReader { disk, start, len, reads: None })
    }
}

/// A partition of the disk for filesystem readers. It holds the disk weakly, because the disk's own
/// regions hold this reader.
#[derive(Clone, Debug)]
pub struct PartitionReader {
    disk: Weak<SharedBytes>,
    start: u64,
    len: u64,
    /// Is told what is read of the disk.
    reads: Option<Arc<ReadSet>>,
}

impl PartitionReader {
    /// The same partition of another disk, which is as long.
    #[must_use]
    pub(super) fn on(self, disk: &Weak<SharedBytes>) -> Self {
        Self { disk: Weak::clone(disk), ..self }
    }

    /// The same partition; `reads` is told what is read of the disk.
    #[must_use]
    pub(super) fn noted(self, reads: Option<Arc<ReadSet>>) -> Self {
        Self { reads, ..self }
    }

    /// Notes that `len` bytes at `offset` of the partition are about to be read, or were read
    /// before anything was written.
    pub(super) fn note(&self, offset: u64, len: u64) {
        if let Some(reads) = &self.reads {
            reads.note(self.start.saturating_add(offset), len);
        }
    }
}

impl ReadAt for PartitionReader {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.note(offset, buf.len() as u64);
        let gone = || io::Error::other("the disk is being closed");
        self.disk.upgrade().ok_or_else(gone)?.read_at(buf, self.start + offset)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// File name in a mount of a guest's disk number `index` (from 0) with these letters.
pub fn disk_file_name(index: usize, letters: &str, cdrom: bool) -> String {
    match (index, cdrom) {
        (0, _) => "disk.raw".into(),
        (_, true) => format!("cdrom-{letters}.raw"),
        (_, false) => format!("disk-{letters}.raw"),
    }
}

/// File name in a mount of a partition of `disk`, which is the disk's file name.
pub fn partition_file_name(disk: &str, number: u32) -> String {
    let stem = disk.strip_suffix(".raw").unwrap_or(disk);
    let prefix = if stem == "disk" { String::new() } else { format!("{stem}-") };
    format!("{prefix}part{number}.raw")
}
