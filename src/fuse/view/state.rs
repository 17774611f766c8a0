//! What a mount consists of: its files, their attributes, and what the kernel may hold of them.

use super::snapshots::Snapshots;
use crate::fuse::coherence::{CacheState, InvalidatorHandle, Way, answers_first, outdated_pages};
use crate::fuse::files::{FileSpec, Range};
use crate::fuse::options::MountOptions;
use fuser::{Errno, FileAttr, FileHandle, FileType, INodeNo};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

/// Inode numbers.
pub(super) const ROOT: u64 = 1;
pub(super) const STATUS: u64 = 2;
pub(super) const FIRST_FILE: u64 = 3;
/// File handles: through the page cache, past it, and past it but likely to be mapped.
pub(super) const CACHED: FileHandle = FileHandle(0);
pub(super) const DIRECT: FileHandle = FileHandle(1);
pub(super) const MAPPABLE: FileHandle = FileHandle(2);

/// State of a mount.
pub(in crate::fuse) struct View {
    pub(super) files: Vec<(FileSpec, Arc<CacheState>)>,
    pub(super) status: Vec<u8>,
    pub(super) options: MountOptions,
    pub(super) uid: u32,
    gid: u32,
    made: SystemTime,
    pub(super) invalidator: InvalidatorHandle,
    pub(super) snapshots: Snapshots,
}

impl View {
    pub(in crate::fuse) fn new(
        files: Vec<FileSpec>,
        status: Vec<u8>,
        options: MountOptions,
        invalidator: InvalidatorHandle,
    ) -> Self {
        Self {
            files: files.into_iter().map(|f| (f, Arc::default())).collect(),
            status,
            uid: options.uid.unwrap_or(nix::unistd::geteuid().as_raw()),
            gid: options.gid.unwrap_or(nix::unistd::getegid().as_raw()),
            options,
            made: SystemTime::now(),
            invalidator,
            snapshots: Snapshots::default(),
        }
    }

    pub(super) fn file(&self, ino: INodeNo) -> Option<&(FileSpec, Arc<CacheState>)> {
        self.files.get(usize::try_from(ino.0.checked_sub(FIRST_FILE)?).ok()?)
    }

    pub(super) fn is_read_only(&self, file: &FileSpec) -> bool {
        self.options.read_only || file.disk.is_read_only()
    }

    pub(super) fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let status_len = self.status.len() as u64;
        let (kind, perm, size, stored) = match ino.0 {
            ROOT => (FileType::Directory, self.options.file_mode() | x_bits(&self.options), 0, 0),
            STATUS => (FileType::RegularFile, 0o444, status_len, status_len),
            _ => {
                let (file, may) = match self.file(ino) {
                    Some((file, _)) if self.is_read_only(file) => (file, 0o444),
                    Some((file, _)) => (file, 0o666),
                    None => (self.snapshot_file(ino)?, 0o400),
                };
                let perm = self.options.file_mode() & may;
                (FileType::RegularFile, perm, file.len, file.allocated())
            }
        };
        Some(FileAttr {
            ino,
            size,
            blocks: stored.div_ceil(512),
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            crtime: self.made,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Do `change` to a range of a file, then drop what it made untrue from the kernel's cache,
    /// then `answer`.
    pub(super) fn change(
        &self,
        ino: INodeNo,
        (offset, len): Range,
        way: Way,
        change: impl FnOnce(&FileSpec) -> io::Result<()>,
        answer: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let Some((file, _)) = self.file(ino) else { return answer(Err(Errno::EBADF)) };
        if self.is_read_only(file) {
            return answer(Err(Errno::EROFS));
        }
        let result = change(file).map_err(to_errno);
        let files = self.files.iter().zip(FIRST_FILE..).map(|((f, c), i)| (INodeNo(i), f, c));
        let pages = outdated_pages(files, file, (offset, len), way);
        if answers_first(file, offset, way) {
            answer(result);
            self.invalidator.run(pages, || {});
        } else {
            self.invalidator.run(pages, move || answer(result));
        }
    }
}

fn x_bits(options: &MountOptions) -> u16 {
    (options.file_mode() & 0o444) >> 2
}

pub(super) fn to_errno(e: io::Error) -> Errno {
    // A refused write is an answer, not an accident.
    if e.raw_os_error() != Some(libc::EROFS) {
        tracing::warn!("I/O error: {e}");
    }
    match e.kind() {
        io::ErrorKind::StorageFull => Errno::ENOSPC,
        _ => Errno::from_i32(e.raw_os_error().unwrap_or(libc::EIO)),
    }
}
