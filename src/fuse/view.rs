//! The filesystem that the kernel sees: one directory of fixed files.

use super::coherence::{CacheState, InvalidatorHandle, outdated_pages};
use super::files::FileSpec;
use super::options::MountOptions;
use super::serve::STATUS_FILE;
use crate::disk::Chunk;
use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Nothing about the files ever changes but their bytes.
const TTL: Duration = Duration::from_secs(3600);
/// Largest request, in bytes; the kernel's own limit unless raised by the administrator.
const MAX_REQUEST: u32 = 1 << 20;
const ROOT: u64 = 1;
const STATUS: u64 = 2;
const FIRST_FILE: u64 = 3;
/// File handles: through the page cache or past it.
const CACHED: FileHandle = FileHandle(0);
const DIRECT: FileHandle = FileHandle(1);

thread_local! {
    /// Where a thread assembles replies that cannot be sent in place.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// State of a mount.
pub(super) struct View {
    files: Vec<(FileSpec, CacheState)>,
    status: Vec<u8>,
    options: MountOptions,
    uid: u32,
    gid: u32,
    made: SystemTime,
    invalidator: InvalidatorHandle,
}

impl View {
    pub(super) fn new(
        files: Vec<FileSpec>,
        status: Vec<u8>,
        options: MountOptions,
        invalidator: InvalidatorHandle,
    ) -> Self {
        Self {
            files: files.into_iter().map(|f| (f, CacheState::default())).collect(),
            status,
            uid: options.uid.unwrap_or(nix::unistd::geteuid().as_raw()),
            gid: options.gid.unwrap_or(nix::unistd::getegid().as_raw()),
            options,
            made: SystemTime::now(),
            invalidator,
        }
    }

    fn file(&self, ino: INodeNo) -> Option<&(FileSpec, CacheState)> {
        self.files.get(usize::try_from(ino.0.checked_sub(FIRST_FILE)?).ok()?)
    }

    fn is_read_only(&self, file: &FileSpec) -> bool {
        self.options.read_only || file.disk.is_read_only()
    }

    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match ino.0 {
            ROOT => (FileType::Directory, self.options.file_mode() | x_bits(&self.options), 0),
            STATUS => (FileType::RegularFile, 0o444, self.status.len() as u64),
            _ => {
                let (file, _) = self.file(ino)?;
                let writable = if self.is_read_only(file) { 0o444 } else { 0o666 };
                (FileType::RegularFile, self.options.file_mode() & writable, file.len)
            }
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
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

    /// Do `change` to a file, then drop what it made untrue from the page cache, then `answer`.
    fn change(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        (offset, len): (u64, u64),
        change: impl FnOnce(&FileSpec) -> io::Result<()>,
        answer: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let Some((file, _)) = self.file(ino) else { return answer(Err(Errno::EBADF)) };
        if self.is_read_only(file) {
            return answer(Err(Errno::EROFS));
        }
        if offset.checked_add(len).is_none_or(|end| end > file.len) {
            return answer(Err(Errno::ENOSPC));
        }
        let at = file.start + offset;
        let direct = fh == DIRECT;
        let outdates_gap = file.disk.outdates_gap(at, len);
        let result = change(file).map_err(to_errno);
        let files = self.files.iter().zip(FIRST_FILE..).map(|((f, c), i)| (INodeNo(i), f, c));
        let pages = outdated_pages(files, file, offset, len, direct, outdates_gap);
        if !direct && outdates_gap.is_some_and(|gap_end| at < gap_end) {
            // The kernel holds pages of the gap locked until this very write is answered.
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

fn to_errno(e: io::Error) -> Errno {
    tracing::warn!("I/O error: {e}");
    match e.kind() {
        io::ErrorKind::StorageFull => Errno::ENOSPC,
        _ => Errno::from_i32(e.raw_os_error().unwrap_or(libc::EIO)),
    }
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

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        if ino.0 == STATUS {
            return if writes {
                reply.error(Errno::EACCES);
            } else {
                reply.opened(CACHED, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            };
        }
        let Some((file, cache)) = self.file(ino) else { return reply.error(Errno::ENOENT) };
        if writes && self.is_read_only(file) {
            return reply.error(Errno::EROFS);
        }
        if !file.is_whole() || flags.0 & libc::O_DIRECT != 0 {
            let direct = FopenFlags::FOPEN_DIRECT_IO
                | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
                | FopenFlags::FOPEN_NOFLUSH;
            return reply.opened(DIRECT, direct);
        }
        let keep = if cache.open() { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
        reply.opened(CACHED, keep | FopenFlags::FOPEN_NOFLUSH);
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
        if let (Some((_, cache)), CACHED) = (self.file(ino), fh) {
            cache.release();
        }
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
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
        let Some((file, _)) = self.file(ino) else { return reply.error(Errno::EBADF) };
        let len = u64::from(size).min(file.len.saturating_sub(offset)) as usize;
        BUFFER.with_borrow_mut(|buffer| match file.disk.read(file.start + offset, len, buffer) {
            Ok(Chunk::Mapped(slice)) => reply.data(slice.for_syscall()),
            Ok(Chunk::Buffer(bytes)) => reply.data(bytes),
            Err(e) => reply.error(to_errno(e)),
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = data.len() as u32;
        let range = (offset, data.len() as u64);
        self.change(
            ino,
            fh,
            range,
            |file| file.disk.write_at(data, file.start + offset),
            move |result| match result {
                Ok(()) => reply.written(written),
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
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let zeroes = [
            punch,
            libc::FALLOC_FL_ZERO_RANGE,
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        ];
        let within = offset.checked_add(length).is_some_and(|end| end <= file.len);
        if !zeroes.contains(&mode) {
            // Preallocation within the disk: every byte can be written already.
            return match mode & !libc::FALLOC_FL_KEEP_SIZE {
                0 if within => reply.ok(),
                0 => reply.error(Errno::EFBIG),
                _ => reply.error(Errno::EOPNOTSUPP),
            };
        }
        // As other filesystems do, what lies past the end is passed over.
        let length = length.min(file.len.saturating_sub(offset));
        let offset = offset.min(file.len);
        self.change(
            ino,
            fh,
            (offset, length),
            |file| file.disk.zero(file.start + offset, length),
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
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some((file, _)) = self.file(ino) else { return reply.error(Errno::EBADF) };
        let Some(mut at) = u64::try_from(offset).ok().filter(|at| *at < file.len) else {
            return reply.error(Errno::ENXIO);
        };
        let wanted = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        while at < file.len {
            match file.disk.extent_at(file.start + at) {
                Ok(run) if run.data == wanted => return reply.offset(at as i64),
                Ok(run) => at = run.end.saturating_sub(file.start),
                Err(e) => return reply.error(to_errno(e)),
            }
        }
        // The end of a file counts as a hole.
        if wanted { reply.error(Errno::ENXIO) } else { reply.offset(file.len as i64) }
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
