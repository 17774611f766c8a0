//! The filesystem that a mount shows: one directory with a fixed set of files.
//!
//! Its methods return the reply; they do not depend on how requests arrive, so it can be tested
//! without a mount.

mod snapshots;
#[cfg(test)]
mod tests;

use super::options::MountOptions;
use crate::bytes::{Extent, Extents};
use crate::disk::{Chunk, Disk};
use crate::export::{
    CacheState, ExportSet, ExportedFile, SNAPSHOT_PREFIX, STATUS_FILE, StalePages, Status,
    WritePath, answers_first, stale_pages,
};
use nix::errno::Errno;
use snapshots::Snapshots;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The result of an operation. An [`Errno`] is a reply like any other.
pub(super) type FsResult<T> = Result<T, Errno>;

/// Inode number of the directory.
pub(super) const ROOT: u64 = 1;
const STATUS: u64 = 2;
/// Files follow in the order of the export set, then their snapshot files in the same order.
const FIRST_FILE: u64 = 3;

/// Handle of files that are read and written through the kernel's page cache.
pub(super) const CACHED: u64 = 0;
/// Handle of files that were opened with O_DIRECT.
pub(super) const DIRECT: u64 = 1;
/// Handle of partition files, which are read and written past the page cache but may be mapped.
pub(super) const MAPPABLE: u64 = 2;

/// The meaning of an inode number.
#[derive(Clone, Copy)]
enum Node<'a> {
    Root,
    Status,
    File(&'a ExportedFile, &'a Arc<CacheState>),
    /// Snapshots of a file.
    Snapshot(&'a ExportedFile),
}

/// Attributes of an inode. All its timestamps are the time when the mount was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Attr {
    pub(super) ino: u64,
    pub(super) kind: Kind,
    /// Permission bits.
    pub(super) perm: u16,
    /// Length in bytes.
    pub(super) size: u64,
    /// Storage used, in units of 512 bytes.
    pub(super) blocks: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: SystemTime,
}

/// The kind of an inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The changes that a setattr request asks for; timestamps are ignored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AttrChange {
    /// Length in bytes.
    pub(super) size: Option<u64>,
    /// Whether mode, owner or group should change.
    pub(super) access: bool,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) handle: u64,
    pub(super) caching: Caching,
    /// Pages cached by earlier opens, to be dropped before the open is answered.
    pub(super) renewal: Option<(StalePages, Renewal)>,
}

impl Opened {
    fn new(handle: u64, caching: Caching) -> Self {
        Self { handle, caching, renewal: None }
    }
}

/// What the kernel may cache of an open file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Caching {
    /// Pages, even after the file is closed.
    Keep,
    /// Nothing.
    Nothing,
    /// Nothing, and writes may arrive in parallel.
    NothingParallel,
}

/// Must be notified when pages cached by earlier opens have been dropped.
#[derive(Debug)]
pub(super) struct Renewal(Arc<CacheState>);

impl Renewal {
    /// The pages have been dropped.
    pub(super) fn done(&self) {
        self.0.renewed();
    }
}

/// The outcome of a change to a file's bytes.
#[derive(Debug)]
pub(super) struct Changed {
    /// The number of bytes, or the error.
    pub(super) result: FsResult<u64>,
    /// Pages that are now stale, whether or not the change succeeded.
    pub(super) pages: Vec<StalePages>,
    /// Whether to reply before or after they are dropped.
    pub(super) answer: Answer,
}

impl From<Errno> for Changed {
    fn from(e: Errno) -> Self {
        Self { result: Err(e), pages: Vec::new(), answer: Answer::First }
    }
}

/// When to reply to a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// Immediately.
    First,
    /// After the stale pages have been dropped.
    AfterDropping,
}

/// What lseek(2) searches for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seek {
    Data,
    Hole,
}

/// The state of a mount.
pub(super) struct DiskFs {
    files: Vec<(ExportedFile, Arc<CacheState>)>,
    /// The status as of the start, once it is known. Until then, its file does not exist.
    status: Arc<OnceLock<Status>>,
    /// Whether writes to all files are refused.
    read_only: bool,
    /// Permission bits of files that can be read and written.
    mode: u16,
    uid: u32,
    gid: u32,
    /// The user who mounts.
    mounter: u32,
    made: SystemTime,
    snapshots: Snapshots,
}

impl DiskFs {
    /// Show `set`, with owners and modes according to `options`.
    ///
    /// # Errors
    /// When the status cannot be written as JSON because a path in it is not UTF-8.
    pub(super) fn new(set: ExportSet, options: &MountOptions) -> serde_json::Result<Self> {
        let gid = options.gid.unwrap_or(nix::unistd::getegid().as_raw());
        let mounter = nix::unistd::geteuid().as_raw();
        let status = Arc::new(OnceLock::new());
        if let Some(known) = &set.status {
            set_status(&status, known)?;
        }
        Ok(Self {
            status,
            files: set.files.into_iter().map(|f| (f, Arc::default())).collect(),
            read_only: options.read_only,
            mode: options.file_mode(set.images.mode_for(gid)),
            uid: options.uid.unwrap_or(mounter),
            gid,
            mounter,
            made: SystemTime::now(),
            snapshots: Snapshots::default(),
        })
    }

    /// Offer snapshots of the disks, stored in unnamed files in `dir`.
    pub(super) fn with_snapshots(mut self, dir: &Path) -> Self {
        self.snapshots = Snapshots::of_disks(self.files.iter().map(|(file, _)| file), dir);
        self
    }

    /// A handle with which [`set_status`] sets the status of a mount that is already served.
    pub(super) fn status_handle(&self) -> Arc<OnceLock<Status>> {
        Arc::clone(&self.status)
    }

    /// The inode called `name` in the directory `parent`.
    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> FsResult<Attr> {
        if parent != ROOT {
            return Err(Errno::ENOTDIR);
        }
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        if name == STATUS_FILE {
            return self.attr(STATUS);
        }
        let (name, first) = match name.strip_prefix(SNAPSHOT_PREFIX) {
            Some(name) => (name, self.first_snapshot()),
            None => (name, FIRST_FILE),
        };
        // A snapshot is of one disk, and a logical volume may lie on several.
        let is_there = |file: &ExportedFile| first == FIRST_FILE || file.range().is_some();
        let index = self.files.iter().position(|(file, _)| file.name == name && is_there(file));
        self.attr(first + index.ok_or(Errno::ENOENT)? as u64)
    }

    /// The attributes of an inode.
    pub(super) fn attr(&self, ino: u64) -> FsResult<Attr> {
        let node = self.node(ino).ok_or(Errno::ENOENT)?;
        let mode = self.mode;
        // Users who may read the files may list them.
        let search = (mode & 0o444) >> 2;
        let (kind, perm, size, stored) = match node {
            Node::Root => (Kind::Directory, mode | search, 0, 0),
            Node::Status => {
                let len = self.status_text().len() as u64;
                (Kind::File, 0o444, len, len)
            }
            Node::File(file, _) => {
                let may = if self.is_read_only(file) { 0o444 } else { 0o666 };
                (Kind::File, mode & may, file.len, file.allocated())
            }
            Node::Snapshot(file) => (Kind::File, mode & 0o400, file.len, file.allocated()),
        };
        let (uid, gid, time) = (self.uid, self.gid, self.made);
        Ok(Attr { ino, kind, perm, size, blocks: stored.div_ceil(512), uid, gid, time })
    }

    /// Change attributes. No attribute can be changed, but setting one to its current value is no
    /// error.
    pub(super) fn set_attr(&self, ino: u64, change: AttrChange) -> FsResult<Attr> {
        let attr = self.attr(ino)?;
        let resized = change.size.is_some_and(|size| size != attr.size);
        if resized || change.access { Err(Errno::EPERM) } else { Ok(attr) }
    }

    /// Open a file with `flags` (open(2)) for a process of user ID `who`.
    pub(super) fn open(&self, ino: u64, flags: i32, who: u32) -> FsResult<Opened> {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let (file, cache) = match self.node(ino).ok_or(Errno::ENOENT)? {
            Node::Root => return Err(Errno::EISDIR),
            Node::Status if writes => return Err(Errno::EACCES),
            // It shows what is in use now.
            Node::Status => return Ok(Opened::new(CACHED, Caching::Nothing)),
            Node::Snapshot(_) if writes => return Err(Errno::EROFS),
            Node::Snapshot(file) => return self.open_snapshot(file, who),
            Node::File(file, cache) => (file, cache),
        };
        if writes && self.is_read_only(file) {
            return Err(Errno::EROFS);
        }
        if flags & libc::O_DIRECT != 0 {
            return Ok(Opened::new(DIRECT, Caching::NothingParallel));
        }
        let valid = cache.open();
        if !file.is_whole() {
            // The kernel itself drops the pages of earlier mappings.
            return Ok(Opened::new(MAPPABLE, Caching::NothingParallel));
        }
        // The kernel could drop them at the open, but only does so after the reply: another
        // program's open could come in between and keep the old pages permanently.
        let pages = || StalePages::all((ino - FIRST_FILE) as usize);
        let renewal = (!valid).then(|| (pages(), Renewal(Arc::clone(cache))));
        Ok(Opened { handle: CACHED, caching: Caching::Keep, renewal })
    }

    fn open_snapshot(&self, file: &ExportedFile, who: u32) -> FsResult<Opened> {
        // A snapshot takes space and slows down writers, so only users responsible for the mount
        // may open it.
        if ![0, self.uid, self.mounter].contains(&who) {
            return Err(Errno::EACCES);
        }
        let (disk, _) = file.range().ok_or(Errno::EPERM)?;
        let handle = self.snapshots.open(disk).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Errno::EBUSY,
            _ => to_errno(&e),
        })?;
        Ok(Opened::new(handle, Caching::Nothing))
    }

    /// Close a file that was opened as `handle`.
    pub(super) fn release(&self, ino: u64, handle: u64) {
        match self.node(ino) {
            Some(Node::File(_, cache)) if handle == CACHED || handle == MAPPABLE => cache.release(),
            Some(Node::Snapshot(_)) => self.snapshots.close(handle),
            _ => {}
        }
    }

    /// Up to `len` bytes at `offset`, fewer at the end of the file. If they cannot be borrowed in
    /// place, they are read into `buffer`.
    pub(super) fn read<'a>(
        &'a self,
        ino: u64,
        handle: u64,
        (offset, len): (u64, u64),
        buffer: &'a mut Vec<u8>,
    ) -> FsResult<Chunk<'a>> {
        let found = match self.node(ino).ok_or(Errno::EBADF)? {
            Node::File(file, cache) => {
                let range = file.range();
                let in_gap = |disk: &Disk, start: u64| {
                    let at = start + offset..start + offset + len;
                    disk.planned().is_some_and(|p| at.start < p.end && p.start < at.end)
                };
                if range.is_some_and(|(disk, start)| in_gap(disk, start)) {
                    cache.reads_gap();
                }
                let read = file.read(offset, len, buffer);
                if range.is_some_and(|(disk, _)| disk.is_gap_provisional()) {
                    cache.outdate();
                }
                read
            }
            Node::Snapshot(file) => {
                let snapshot = self.snapshots.get(handle).ok_or(Errno::EBADF)?;
                let len = file.clip(offset, len) as usize;
                let (_, start) = file.range().ok_or(Errno::EBADF)?;
                snapshot.read(start + offset, len, buffer)
            }
            Node::Status => {
                *buffer = self.status_text();
                let from = (offset as usize).min(buffer.len());
                let to = from.saturating_add(len as usize).min(buffer.len());
                Ok(Chunk::Buffer(&buffer[from..to]))
            }
            Node::Root => return Err(Errno::EISDIR),
        };
        found.map_err(|e| to_errno(&e))
    }

    /// Write `data` at `offset`. As on a block device, a write past the end is shortened.
    pub(super) fn write(&self, ino: u64, path: WritePath, offset: u64, data: &[u8]) -> Changed {
        let Some(Node::File(file, _)) = self.node(ino) else { return Errno::EBADF.into() };
        let len = file.clip(offset, data.len() as u64);
        if len == 0 && !data.is_empty() {
            return Errno::ENOSPC.into();
        }
        // At most the length of `data`.
        let data = &data[..len as usize];
        self.change(file, (offset, len), path, || file.write_at(data, offset))
    }

    /// Punch a hole in a file or make a range of it read as zeros, according to the fallocate(2)
    /// `mode`.
    pub(super) fn fallocate(
        &self,
        ino: u64,
        path: WritePath,
        mode: i32,
        (offset, len): (u64, u64),
    ) -> Changed {
        let Some(Node::File(file, _)) = self.node(ino) else { return Errno::EBADF.into() };
        match file.range_to_zero(mode, offset, len) {
            Ok(Some((offset, len))) => {
                self.change(file, (offset, len), path, || file.zero(offset, len))
            }
            Ok(None) => Changed { result: Ok(0), pages: Vec::new(), answer: Answer::First },
            Err(e) => Errno::from_raw(e).into(),
        }
    }

    /// Apply `change` to a range of `file`, and return which pages it made stale.
    fn change(
        &self,
        file: &ExportedFile,
        (offset, len): (u64, u64),
        path: WritePath,
        change: impl FnOnce() -> io::Result<()>,
    ) -> Changed {
        if self.is_read_only(file) {
            return Errno::EROFS.into();
        }
        let result = change().map(|()| len).map_err(|e| to_errno(&e));
        let pages = stale_pages(&self.files, file, (offset, len), path);
        let first = answers_first(file, offset, path);
        let answer = if first { Answer::First } else { Answer::AfterDropping };
        Changed { result, pages, answer }
    }

    /// The first data or hole at or after `offset`. See lseek(2).
    pub(super) fn seek(&self, ino: u64, handle: u64, offset: u64, what: Seek) -> FsResult<u64> {
        let data = what == Seek::Data;
        let found = match self.node(ino) {
            Some(Node::File(file, _)) => file.seek(offset, data),
            Some(Node::Snapshot(file)) => {
                let snapshot = self.snapshots.get(handle).ok_or(Errno::EBADF)?;
                let (_, start) = file.range().ok_or(Errno::EBADF)?;
                file.seek_in(offset, data, |at| {
                    let extent = snapshot.extent_at(start + at)?;
                    Ok(Extent { end: extent.end.saturating_sub(start), ..extent })
                })
            }
            _ => return Err(Errno::EBADF),
        };
        found.map_err(|e| to_errno(&e))?.ok_or(Errno::ENXIO)
    }

    /// Flush all acknowledged writes to a file's disk to stable storage.
    pub(super) fn sync(&self, ino: u64) -> FsResult<()> {
        match self.node(ino) {
            Some(Node::File(file, _)) => file.flush().map_err(|e| to_errno(&e)),
            _ => Ok(()),
        }
    }

    /// The entries of a directory.
    pub(super) fn entries(&self, ino: u64) -> FsResult<impl Iterator<Item = (u64, Kind, &str)>> {
        if ino != ROOT {
            return Err(Errno::ENOTDIR);
        }
        let dots = [(ROOT, Kind::Directory, "."), (ROOT, Kind::Directory, "..")];
        let files = self.files.iter().zip(FIRST_FILE..);
        Ok(dots.into_iter().chain(files.map(|((f, _), ino)| (ino, Kind::File, f.name.as_str()))))
    }

    /// Total length of all disks in bytes, and the number of files.
    pub(super) fn totals(&self) -> (u64, u64) {
        let whole = self.files.iter().filter(|(f, _)| f.is_whole());
        (whole.map(|(f, _)| f.len).sum(), self.files.len() as u64)
    }

    /// The inode of the file with index `file` in the export set.
    pub(super) fn ino_of(file: usize) -> u64 {
        FIRST_FILE + file as u64
    }

    fn first_snapshot(&self) -> u64 {
        FIRST_FILE + self.files.len() as u64
    }

    fn node(&self, ino: u64) -> Option<Node<'_>> {
        let at = |first: u64| self.files.get(usize::try_from(ino.checked_sub(first)?).ok()?);
        match ino {
            ROOT => Some(Node::Root),
            STATUS => self.status.get().map(|_| Node::Status),
            _ => match at(FIRST_FILE) {
                Some((file, cache)) => Some(Node::File(file, cache)),
                None => at(self.first_snapshot()).map(|(file, _)| Node::Snapshot(file)),
            },
        }
    }

    /// The status as of now, as JSON; `set_status` has shown that it can be written.
    fn status_text(&self) -> Vec<u8> {
        let files = self.files.iter().map(|(file, _)| file);
        self.status.get().map(|status| status.text(files)).unwrap_or_default()
    }

    fn is_read_only(&self, file: &ExportedFile) -> bool {
        self.read_only || file.is_read_only()
    }
}

/// Set a status that was not known when the mount was made. Only the first call has an effect.
///
/// # Errors
/// When the status cannot be written as JSON because a path in it is not UTF-8.
pub(super) fn set_status(handle: &OnceLock<Status>, status: &Status) -> serde_json::Result<()> {
    serde_json::to_vec_pretty(status)?;
    let _ = handle.set(status.clone());
    Ok(())
}

fn to_errno(e: &io::Error) -> Errno {
    // A refused write is a normal reply and is not logged.
    if e.raw_os_error() != Some(libc::EROFS) {
        tracing::warn!("I/O error: {e}");
    }
    match e.kind() {
        io::ErrorKind::StorageFull => Errno::ENOSPC,
        _ => Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)),
    }
}
