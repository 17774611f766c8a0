//! The filesystem that the kernel sees: one directory of fixed files.

mod snapshots;
mod state;

use super::coherence::{Way, all_pages};
use super::files::FileSpec;
use super::serve::STATUS_FILE;
use crate::disk::Chunk;
use fuser::{
    AccessFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
pub use snapshots::SNAPSHOT_PREFIX;
pub(super) use state::View;
use state::{CACHED, DIRECT, FIRST_FILE, MAPPABLE, ROOT, STATUS, to_errno};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Nothing about the files ever changes but their bytes.
const TTL: Duration = Duration::from_secs(3600);
/// Largest request, in bytes; the kernel's own limit unless raised by the administrator.
const MAX_REQUEST: u32 = 1 << 20;

thread_local! {
    /// Where a thread assembles replies that cannot be sent in place.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for View {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each setter says what it could do at most; that is as good as it gets.
        if let Err(most) = config.set_max_write(MAX_REQUEST) {
            let _ = config.set_max_write(most);
        }
        if let Err(most) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(64);
        for flag in [
            // Asynchronous O_DIRECT requests of one program run side by side.
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // We say which pages are outdated; the kernel need not guess from times.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            // Shared mappings of files that are opened past the page cache.
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 != ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let ino = if name == STATUS_FILE {
            Some(STATUS)
        } else {
            self.files
                .iter()
                .zip(FIRST_FILE..)
                .find(|((f, _), _)| name == f.name.as_str())
                .map(|f| f.1)
                .or_else(|| self.snapshot_ino(name))
        };
        match ino.and_then(|ino| self.attr(INodeNo(ino))) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attr(ino) {
            None => reply.error(Errno::ENOENT),
            // A disk has the length that it has, and its owner comes from the mount options.
            Some(attr) if size.is_some_and(|size| size != attr.size) => reply.error(Errno::EPERM),
            Some(_) if mode.is_some() || uid.is_some() || gid.is_some() => {
                reply.error(Errno::EPERM);
            }
            Some(attr) => reply.attr(&TTL, &attr),
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        if ino.0 == STATUS {
            return if writes {
                reply.error(Errno::EACCES);
            } else {
                reply.opened(CACHED, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            };
        }
        if let Some(file) = self.snapshot_file(ino) {
            return match self.open_snapshot(req, file, flags) {
                Ok((handle, flags)) => reply.opened(handle, flags),
                Err(e) => reply.error(e),
            };
        }
        let Some((file, cache)) = self.file(ino) else { return reply.error(Errno::ENOENT) };
        if writes && self.is_read_only(file) {
            return reply.error(Errno::EROFS);
        }
        let direct = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        if flags.0 & libc::O_DIRECT != 0 {
            return reply.opened(DIRECT, direct);
        }
        let still_true = cache.open();
        if !file.is_whole() {
            // The kernel drops pages of earlier mappings by itself.
            return reply.opened(MAPPABLE, direct);
        }
        // Dropping is not left to the kernel, which does it after the answer: another program's
        // open could come in between and take the old pages for good.
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        let pages = if still_true { Vec::new() } else { all_pages(ino) };
        let cache = Arc::clone(cache);
        self.invalidator.run(pages, move || {
            if !still_true {
                cache.renewed();
            }
            reply.opened(CACHED, flags);
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        match (self.file(ino), fh) {
            (Some((_, cache)), CACHED | MAPPABLE) => cache.release(),
            (None, _) if self.snapshot_file(ino).is_some() => self.release_snapshot(fh),
            _ => {}
        }
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino.0 == STATUS {
            let from = (offset as usize).min(self.status.len());
            let to = from.saturating_add(size as usize).min(self.status.len());
            return reply.data(&self.status[from..to]);
        }
        let reply_with = |bytes: io::Result<Chunk<'_>>| match bytes {
            Ok(Chunk::Mapped(slice)) => reply.data(slice.for_syscall()),
            Ok(Chunk::Buffer(bytes)) => reply.data(bytes),
            Err(e) => reply.error(to_errno(e)),
        };
        let cut = |file: &FileSpec| u64::from(size).min(file.len.saturating_sub(offset)) as usize;
        let Some((file, cache)) = self.file(ino) else {
            let Some(file) = self.snapshot_file(ino) else {
                return reply_with(Err(io::Error::from_raw_os_error(libc::EBADF)));
            };
            return BUFFER.with_borrow_mut(|buffer| {
                self.read_snapshot(file, fh, (offset, cut(file)), buffer, reply_with);
            });
        };
        if file.disk.gap_end().is_some_and(|gap_end| file.start + offset < gap_end) {
            cache.reads_gap();
        }
        BUFFER.with_borrow_mut(|buffer| {
            reply_with(file.disk.read(file.start + offset, cut(file), buffer));
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some((file, _)) = self.file(ino) else { return reply.error(Errno::EBADF) };
        // As on a block device, what still fits is written.
        let len = file.len.saturating_sub(offset).min(data.len() as u64);
        if len == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        let data = &data[..len as usize];
        let way = match fh {
            // Its handle is any that the kernel has for the file.
            _ if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) => Way::WriteBack,
            CACHED => Way::Cached,
            _ => Way::Direct,
        };
        self.change(
            ino,
            (offset, len),
            way,
            |file| file.disk.write_at(data, file.start + offset),
            move |result| match result {
                Ok(()) => reply.written(len as u32),
                Err(e) => reply.error(e),
            },
        );
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some((file, _)) = self.file(ino) else { return reply.error(Errno::EBADF) };
        let (offset, len) = match file.range_to_zero(mode, offset, length) {
            Ok(Some(range)) => range,
            Ok(None) => return reply.ok(),
            Err(e) => return reply.error(Errno::from_i32(e)),
        };
        self.change(
            ino,
            (offset, len),
            if fh == CACHED { Way::Cached } else { Way::Direct },
            |file| file.disk.zero(file.start + offset, len),
            move |result| match result {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(e),
            },
        );
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        // A negative offset lies in no file.
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        let found = match (self.file(ino), self.snapshot_file(ino)) {
            (Some((file, _)), _) => file.seek(offset, data),
            (None, Some(file)) => self.seek_snapshot(file, fh, offset, data),
            (None, None) => return reply.error(Errno::EBADF),
        };
        match found {
            Ok(Some(at)) => reply.offset(at as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(e) => reply.error(to_errno(e)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        match self.file(ino).map(|(file, _)| file.disk.flush()) {
            Some(Err(e)) => reply.error(to_errno(e)),
            _ => reply.ok(),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino.0 != ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [(ROOT, FileType::Directory, "."), (ROOT, FileType::Directory, "..")];
        let files = self.files.iter().zip(FIRST_FILE..);
        let files = files.map(|((f, _), i)| (i, FileType::RegularFile, f.name.as_str()));
        let all = dots.into_iter().chain(files).zip(1..);
        for ((ino, kind, name), next) in all.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let bytes: u64 = self.files.iter().filter(|(f, _)| f.is_whole()).map(|(f, _)| f.len).sum();
        reply.statfs(bytes / 4096, 0, 0, self.files.len() as u64, 0, 4096, 255, 4096);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    // A mount shows what it shows: nothing can be made, renamed or removed in it.

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }
}
