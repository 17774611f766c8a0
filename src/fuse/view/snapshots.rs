//! Files that listings leave out: each shows its namesake as it was when it was opened.

use super::state::{FIRST_FILE, View, to_errno};
use crate::bytes::Extents;
use crate::disk::{Chunk, Snapshot};
use crate::fuse::files::FileSpec;
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, Request};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the names of these files begin with: `.snapshot-disk.raw` is `disk.raw` as it was when the
/// former was opened. One at a time per disk.
pub const SNAPSHOT_PREFIX: &str = ".snapshot-";

/// The snapshots that are open, by file handle.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    open: RwLock<HashMap<u64, Arc<Snapshot>>>,
    opened: AtomicU64,
}

impl View {
    /// The inode of the snapshot file `name`.
    pub(super) fn snapshot_ino(&self, name: &OsStr) -> Option<u64> {
        let name = name.to_str()?.strip_prefix(SNAPSHOT_PREFIX)?;
        let index = self.files.iter().position(|(f, _)| f.name == name)?;
        Some(FIRST_FILE + (self.files.len() + index) as u64)
    }

    /// The file of which `ino` shows snapshots.
    pub(super) fn snapshot_file(&self, ino: INodeNo) -> Option<&FileSpec> {
        let index = ino.0.checked_sub(FIRST_FILE + self.files.len() as u64)?;
        self.files.get(usize::try_from(index).ok()?).map(|(file, _)| file)
    }

    /// Take a snapshot for who opens `file`; gives the new handle, past the page cache.
    pub(super) fn open_snapshot(
        &self,
        req: &Request,
        file: &FileSpec,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EROFS);
        }
        // It takes space and slows writers down, so it isn't for every guest of the mount. The kernel
        // looks at the file's mode only with `default_permissions`.
        if ![0, self.uid, nix::unistd::geteuid().as_raw()].contains(&req.uid()) {
            return Err(Errno::EACCES);
        }
        let dir = crate::disk::temporary_dir();
        let snapshot = Snapshot::take(&file.disk, &dir).map_err(|e| {
            if e.raw_os_error() == Some(libc::EBUSY) { Errno::EBUSY } else { to_errno(e) }
        })?;
        let number = self.snapshots.opened.fetch_add(1, Ordering::Relaxed);
        self.snapshots.open.write().insert(number, Arc::new(snapshot));
        Ok((FileHandle(number), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH))
    }

    /// End the snapshot of a handle.
    pub(super) fn release_snapshot(&self, handle: FileHandle) {
        let ended = self.snapshots.open.write().remove(&handle.0);
        // Ending it waits for writers, which others need not.
        drop(ended);
    }

    fn snapshot(&self, handle: FileHandle) -> io::Result<Arc<Snapshot>> {
        let found = self.snapshots.open.read().get(&handle.0).cloned();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Read from a snapshot and hand the bytes to `answer`.
    pub(super) fn read_snapshot<T>(
        &self,
        file: &FileSpec,
        handle: FileHandle,
        (offset, len): (u64, usize),
        buffer: &mut Vec<u8>,
        answer: impl FnOnce(io::Result<Chunk<'_>>) -> T,
    ) -> T {
        match self.snapshot(handle) {
            Ok(snapshot) => answer(snapshot.read(file.start + offset, len, buffer)),
            Err(e) => answer(Err(e)),
        }
    }

    /// As [`FileSpec::seek`], in a snapshot.
    pub(super) fn seek_snapshot(
        &self,
        file: &FileSpec,
        handle: FileHandle,
        offset: u64,
        data: bool,
    ) -> io::Result<Option<u64>> {
        let snapshot = self.snapshot(handle)?;
        file.seek_in(offset, data, |at| snapshot.extent_at(at))
    }
}
