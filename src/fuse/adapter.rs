//! Adapter between the `fuser` crate and [`DiskFs`]: the only file that depends on both.
//!
//! It decodes requests, encodes replies, and delays a reply while stale pages are dropped.

use super::disk_fs::{
    Answer, Attr, AttrChange, CACHED, Caching, Changed, DiskFs, FsResult, Kind, Opened, ROOT, Seek,
};
use super::invalidator::{Invalidator, InvalidatorHandle};
use super::threads::ThreadCounter;
use crate::disk::Chunk;
use crate::export::Latency;
use crate::export::WritePath;
use crate::{Error, Result};
use fuser::{
    AccessFlags, BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The attributes of files never change, so they can be cached for long.
const TTL: Duration = Duration::from_secs(3600);
/// Largest request, in bytes: the kernel's own limit unless the administrator raised it.
const MAX_REQUEST: u32 = 1 << 20;
/// Maximum number of outstanding background requests (read-ahead, asynchronous I/O).
const MAX_BACKGROUND: u16 = 64;

thread_local! {
    /// A thread's buffer for replies that cannot be sent from where the bytes are.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A filesystem that is being served.
pub(super) struct Serving {
    session: BackgroundSession,
    invalidator: Invalidator,
    /// Number of threads that it starts.
    threads: usize,
}

impl Serving {
    /// Serve `fs` on `device`, a mounted `/dev/fuse`, and return when the kernel has accepted it.
    ///
    /// # Errors
    /// When the kernel refuses; errors of starting threads.
    pub(super) fn start(fs: DiskFs, device: OwnedFd, latency: Latency) -> Result<Self> {
        let invalidator =
            Invalidator::start().map_err(|e| Error::io("cannot start a thread", e))?;
        let mut config = Config::default();
        // One more thread than processors keeps them all busy while one thread waits for storage.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let n_threads = match latency {
            Latency::Storage => (processors + 1).clamp(3, 16),
            // Reads wait side by side, and leave a thread for what needs no network.
            Latency::Network => 17,
        };
        config.n_threads = Some(n_threads);
        config.clone_fd = true;
        let adapter = Adapter { fs, invalidator: invalidator.handle() };
        // The kernel decides who has access, based on the mount options.
        let session = Session::from_fd(adapter, device, SessionACL::All, config)
            .map_err(|e| Error::io("the kernel refused the FUSE session", e))?;
        // One more thread starts the others.
        let threads = Invalidator::THREADS + 1 + n_threads;
        let session = session.spawn().map_err(|e| Error::io("cannot serve the FUSE session", e))?;
        let notifier = session.notifier();
        // The library does not treat ENOENT (nothing cached) as an error.
        invalidator.connect(Box::new(move |pages| {
            let ino = INodeNo(DiskFs::ino_of(pages.file));
            notifier.inval_inode(ino, pages.offset as i64, pages.len as i64)
        }));
        Ok(Self { session, invalidator, threads })
    }

    /// Wait until everything is open that serving needs, and all threads have started, before which
    /// this process had `others`. The library does that in a thread of its own, and does not report
    /// when it is done.
    ///
    /// # Errors
    /// When that takes unreasonably long.
    pub(super) fn wait_for_threads(
        &self,
        counter: &ThreadCounter,
        others: usize,
    ) -> io::Result<()> {
        // If it failed, `join` returns the error.
        counter.wait_for(others + self.threads, || self.session.guard.is_finished())
    }

    /// Wait until the filesystem is unmounted and all requests have been answered.
    ///
    /// # Errors
    /// When the connection to the kernel breaks.
    pub(super) fn join(self) -> io::Result<()> {
        let served = self.session.join();
        self.invalidator.join();
        served
    }
}

/// Implements `fuser`'s filesystem trait on a [`DiskFs`].
struct Adapter {
    fs: DiskFs,
    invalidator: InvalidatorHandle,
}

impl Adapter {
    /// Drop the pages that `changed` made stale, and call `answer` before or after that, as
    /// `changed` requires.
    fn answer(&self, changed: Changed, answer: impl FnOnce(FsResult<u64>) + Send + 'static) {
        let Changed { result, pages, answer: when } = changed;
        match when {
            Answer::First => {
                answer(result);
                self.invalidator.run(pages, || {});
            }
            Answer::AfterDropping => self.invalidator.run(pages, move || answer(result)),
        }
    }
}

fn errno(e: nix::errno::Errno) -> Errno {
    Errno::from_i32(e as i32)
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

fn file_attr(attr: Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.time,
        mtime: attr.time,
        ctime: attr.time,
        crtime: attr.time,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: if attr.kind == Kind::Directory { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn open_flags(caching: Caching) -> FopenFlags {
    // Closing a file flushes nothing, so the kernel does not need to send a flush request.
    FopenFlags::FOPEN_NOFLUSH
        | match caching {
            Caching::Keep => FopenFlags::FOPEN_KEEP_CACHE,
            Caching::Nothing => FopenFlags::FOPEN_DIRECT_IO,
            Caching::NothingParallel => {
                FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            }
        }
}

fn path_of(handle: FileHandle) -> WritePath {
    if handle.0 == CACHED { WritePath::Cached } else { WritePath::Direct }
}

fn reply_attr(attr: FsResult<Attr>, reply: ReplyAttr) {
    match attr {
        // Looking at the directory always asks, and so fails when nobody serves the mount any more.
        Ok(attr) if attr.ino == ROOT => reply.attr(&Duration::ZERO, &file_attr(attr)),
        Ok(attr) => reply.attr(&TTL, &file_attr(attr)),
        Err(e) => reply.error(errno(e)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A setter that refuses returns the maximum that the kernel allows.
        if let Err(most) = config.set_max_write(MAX_REQUEST) {
            let _ = config.set_max_write(most);
        }
        if let Err(most) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        for flag in [
            // Lets asynchronous O_DIRECT requests of one program run in parallel.
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // Stale pages are dropped explicitly; the kernel must not infer them from timestamps.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            // Allows shared mappings of files that are opened past the page cache.
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.fs.lookup(parent.0, name) {
            Ok(attr) => reply.entry(&TTL, &file_attr(attr), Generation(0)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(self.fs.attr(ino.0), reply);
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
        let access = mode.is_some() || uid.is_some() || gid.is_some();
        reply_attr(self.fs.set_attr(ino.0, AttrChange { size, access }), reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Opened { handle, caching, renewal } = match self.fs.open(ino.0, flags.0, req.uid()) {
            Ok(opened) => opened,
            Err(e) => return reply.error(errno(e)),
        };
        let (handle, flags) = (FileHandle(handle), open_flags(caching));
        match renewal {
            None => reply.opened(handle, flags),
            Some((pages, renewal)) => self.invalidator.run(vec![pages], move || {
                renewal.done();
                reply.opened(handle, flags);
            }),
        }
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
        self.fs.release(ino.0, fh.0);
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
        BUFFER.with_borrow_mut(|buffer| {
            match self.fs.read(ino.0, fh.0, (offset, u64::from(size)), buffer) {
                Ok(Chunk::Mapped(slice)) => reply.data(slice.for_syscall()),
                Ok(Chunk::Buffer(bytes)) => reply.data(bytes),
                Err(e) => reply.error(errno(e)),
            }
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
        // Mapped pages are written back through any handle that the kernel has for the file.
        let write_back = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let path = if write_back { WritePath::WriteBack } else { path_of(fh) };
        self.answer(self.fs.write(ino.0, path, offset, data), move |result| match result {
            // At most the length of `data`, which is less than 4 GiB.
            Ok(len) => reply.written(len as u32),
            Err(e) => reply.error(errno(e)),
        });
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
        let changed = self.fs.fallocate(ino.0, path_of(fh), mode, (offset, length));
        self.answer(changed, move |result| match result {
            Ok(_) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        });
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
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        // No file contains a negative offset.
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        match self.fs.seek(ino.0, fh.0, offset, what) {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(errno(e)),
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
        match self.fs.sync(ino.0) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
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
        let entries = match self.fs.entries(ino.0) {
            Ok(entries) => entries,
            Err(e) => return reply.error(errno(e)),
        };
        let rest = entries.zip(1..).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for ((ino, kind, name), next) in rest {
            if reply.add(INodeNo(ino), next, file_type(kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (bytes, files) = self.fs.totals();
        reply.statfs(bytes / 4096, 0, 0, files, 0, 4096, 255, 4096);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    // Nothing can be created, renamed or removed in a mount.

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
