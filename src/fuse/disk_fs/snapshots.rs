//! The open snapshots of a mount.

use crate::disk::{Disk, Snapshot, temporary_dir};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Open snapshots, by file handle.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    open: RwLock<HashMap<u64, Arc<Snapshot>>>,
    opened: AtomicU64,
}

impl Snapshots {
    /// Take a snapshot of `disk`; returns its handle.
    ///
    /// # Errors
    /// EBUSY while the disk has another snapshot; errors of taking it.
    pub(super) fn open(&self, disk: &Arc<Disk>) -> io::Result<u64> {
        let snapshot = Snapshot::take(disk, &temporary_dir())?;
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
