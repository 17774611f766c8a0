//! The open snapshots of a mount.

use crate::disk::{Disk, Snapshot};
use crate::export::ExportedFile;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Open snapshots, by file handle, and the files that their blocks are preserved in.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// An unnamed file for each disk, or why there is none.
    files: Vec<(Arc<Disk>, io::Result<File>)>,
    open: RwLock<HashMap<u64, Arc<Snapshot>>>,
    opened: AtomicU64,
}

impl Snapshots {
    /// For the disks that are shown as `files`. The unnamed files are created in `dir` now, because
    /// a confined process cannot create files; an error is returned when a snapshot is opened.
    pub(super) fn of_disks<'a>(files: impl Iterator<Item = &'a ExportedFile>, dir: &Path) -> Self {
        let disks = files.filter_map(ExportedFile::whole).map(Arc::clone);
        let files = disks.map(|disk| (disk, tempfile::tempfile_in(dir))).collect();
        Self { files, ..Self::default() }
    }

    /// Take a snapshot of `disk`; returns its handle.
    ///
    /// # Errors
    /// EBUSY while the disk has another snapshot; EPERM for a disk without a file; errors of taking
    /// it.
    pub(super) fn open(&self, disk: &Arc<Disk>) -> io::Result<u64> {
        let found = self.files.iter().find(|(known, _)| Arc::ptr_eq(known, disk));
        let side = match found {
            Some((_, Ok(side))) => side,
            Some((_, Err(e))) => return Err(same_error(e)),
            None => return Err(io::Error::from_raw_os_error(libc::EPERM)),
        };
        let snapshot = Snapshot::take(disk, side)?;
        let handle = self.opened.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(handle, Arc::new(snapshot));
        Ok(handle)
    }

    /// End the snapshot of a handle.
    pub(super) fn close(&self, handle: u64) {
        let ended = self.open.write().remove(&handle);
        // Ending it waits for writers; readers of other snapshots must not wait for that, so the
        // lock is released first.
        drop(ended);
    }

    /// The snapshot of a handle.
    pub(super) fn get(&self, handle: u64) -> Option<Arc<Snapshot>> {
        self.open.read().get(&handle).cloned()
    }
}

/// `io::Error` cannot be cloned.
fn same_error(e: &io::Error) -> io::Error {
    e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error)
}
