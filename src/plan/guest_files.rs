//! Reads the kernel and initrd directly from the guest's own files.
//!
//! A filesystem reader is bound to its thread. So each plan has a thread that owns the reader,
//! chooses what boots, and then answers read requests. Blocks that were read stay in a small cache,
//! because the loader reads smaller pieces. The thread ends when the last file is dropped.

use super::extra_initrd::{self, DriverSurvey};
use super::types::GuestBootRequest;
use crate::adapt::LegacySettings;
use crate::bytes::ReadAt;
use crate::disk::Source;
use crate::fs::open::open_fs;
use crate::fs::{GuestFile, GuestFs};
use crate::guest::select::{Boot, BootSource, choose};
use crate::loader::linux::HEAD_BYTES;
use crate::loader::{KernelKind, PayloadFile};
use crate::{Error, ErrorKind, Result};
use lru::LruCache;
use parking_lot::Mutex;

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, mpsc};

/// Bytes per read from the guest's file.
const BLOCK: u64 = 128 << 10;
/// Number of blocks kept: 4 MiB.
const CACHED_BLOCKS: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// What a guest boots, and its files.
pub(super) struct Opened {
    pub(super) boot: Boot,
    /// The first bytes of the kernel.
    pub(super) kernel_head: Vec<u8>,
    /// Kernel first, then the initrds.
    pub(super) files: Vec<PayloadFile>,
    /// Whether this is a root filesystem, not a separate /boot.
    pub(super) is_root: bool,
    /// Its settings that affect the command line.
    pub(super) settings: LegacySettings,
    /// Facts about the kernel's drivers, if it has modules for the kernel.
    pub(super) drivers: Option<DriverSurvey>,
    /// When the oldest initrd was generated, in seconds since 1970.
    pub(super) made: Option<i64>,
}

/// A read request for the thread: file, offset, length, and where to send the bytes.
struct Request {
    file: usize,
    offset: u64,
    len: usize,
    reply: mpsc::SyncSender<Result<Vec<u8>>>,
}

/// A block of a file: file number, block number.
type BlockId = (usize, u64);

/// The connection to the thread, and the cache.
struct Reader {
    requests: Mutex<mpsc::Sender<Request>>,
    blocks: Mutex<LruCache<BlockId, Arc<Vec<u8>>>>,
}

impl Reader {
    fn block(&self, file: usize, number: u64, file_len: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some(block) = self.blocks.lock().get(&(file, number)) {
            return Ok(Arc::clone(block));
        }
        let offset = number * BLOCK;
        let len = BLOCK.min(file_len - offset) as usize;
        let (reply, answer) = mpsc::sync_channel(1);
        let gone = || io::Error::other("the reader of the guest's files has ended");
        self.requests.lock().send(Request { file, offset, len, reply }).map_err(|_| gone())?;
        let block = Arc::new(answer.recv().map_err(|_| gone())?.map_err(io::Error::other)?);
        self.blocks.lock().put((file, number), Arc::clone(&block));
        Ok(block)
    }
}

/// A file inside the guest, as the source of a region.
struct ThroughFile {
    reader: Arc<Reader>,
    index: usize,
    len: u64,
}

impl ReadAt for ThroughFile {
    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            if offset >= self.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let block = self.reader.block(self.index, offset / BLOCK, self.len)?;
            let block = block.as_slice();
            let within = (offset % BLOCK) as usize;
            let n = block.len().saturating_sub(within).min(buf.len());
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf[..n].copy_from_slice(&block[within..within + n]);
            buf = &mut buf[n..];
            offset += n as u64;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// Determines what the guest in `reader` boots, and opens its files.
///
/// # Errors
/// Those of reading the filesystem and of choosing an entry.
pub(super) fn open(
    reader: impl ReadAt + Send + 'static,
    request: &GuestBootRequest,
) -> Result<Opened> {
    let request = request.clone();
    let (requests, queue) = mpsc::channel::<Request>();
    let (started, outcome) = mpsc::sync_channel(1);
    let thread = move || {
        let fs = match open_fs(reader) {
            Ok(fs) => fs,
            Err(e) => return drop(started.send(Err(e))),
        };
        let (found, mut files) = match find(&*fs, &request) {
            Ok(found) => found,
            Err(e) => return drop(started.send(Err(e))),
        };
        if started.send(Ok(found)).is_err() {
            return;
        }
        // Ends when the last sender is dropped, together with the last region that reads a file.
        while let Ok(request) = queue.recv() {
            let answer = match files.get_mut(request.file) {
                Some(file) => read_exact(file.as_mut(), request.offset, request.len),
                None => Err(Error::new(ErrorKind::NotFound, "no such file in this plan")),
            };
            let _ = request.reply.send(answer);
        }
    };
    std::thread::Builder::new()
        .name("guest-files".into())
        .spawn(thread)
        .map_err(|e| Error::io("cannot start a thread", e))?;
    let found = outcome
        .recv()
        .map_err(|_| Error::new(ErrorKind::Corrupt, "reading the guest's filesystem failed"))??;
    let reader = Arc::new(Reader {
        requests: Mutex::new(requests),
        blocks: Mutex::new(LruCache::new(CACHED_BLOCKS)),
    });
    let files = found
        .files
        .into_iter()
        .enumerate()
        .map(|(index, FoundFile { path, len, identity })| PayloadFile {
            origin: format!("{path} in the guest"),
            len,
            identity,
            source: Source::File(Arc::new(ThroughFile { reader: Arc::clone(&reader), index, len })),
        })
        .collect();
    let Found { boot, kernel_head, is_root, settings, drivers, made, .. } = found;
    Ok(Opened { boot, kernel_head, files, is_root, settings, drivers, made })
}

struct FoundFile {
    path: String,
    len: u64,
    identity: Vec<u8>,
}

struct Found {
    boot: Boot,
    kernel_head: Vec<u8>,
    files: Vec<FoundFile>,
    is_root: bool,
    settings: LegacySettings,
    drivers: Option<DriverSurvey>,
    made: Option<i64>,
}

type OpenFiles<'a> = Vec<Box<dyn GuestFile + 'a>>;

fn find<'a>(fs: &'a dyn GuestFs, request: &GuestBootRequest) -> Result<(Found, OpenFiles<'a>)> {
    let mut boot = boot_of(fs, request)?;
    boot.notes.extend(fs.caveat());
    let mut files = Vec::new();
    let mut open = Vec::new();
    let mut kernel_head = Vec::new();
    let mut made: Option<i64> = None;
    for path in std::iter::once(&boot.kernel).chain(&boot.initrds) {
        let mut file = fs.open(path)?;
        let len = file.len();
        if len == 0 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{path} in the guest is empty; install it again"),
            ));
        }
        let head_len = if open.is_empty() { HEAD_BYTES } else { 4096 } as u64;
        let head = read_exact(file.as_mut(), 0, head_len.min(len) as usize)?;
        let stat = fs.stat(path)?;
        let mut identity = stat.mtime_secs.to_le_bytes().to_vec();
        identity.extend(stat.mtime_nanos.to_le_bytes());
        identity.extend(stat.revision.to_le_bytes());
        identity.extend(&head);
        if open.is_empty() {
            kernel_head = head;
        } else {
            made = Some(made.map_or(stat.mtime_secs, |made| made.min(stat.mtime_secs)));
        }
        files.push(FoundFile { path: path.clone(), len, identity });
        open.push(file);
    }
    let is_root = fs.stat("/etc").is_ok();
    let settings = LegacySettings::of(fs);
    let drivers = extra_initrd::survey(fs, release_of(&kernel_head).as_deref(), made);
    Ok((Found { boot, kernel_head, files, is_root, settings, drivers, made }, open))
}

/// The release of the kernel that starts with `head`, as `uname -r` prints it.
fn release_of(head: &[u8]) -> Option<String> {
    let header = KernelKind::detect(head).and_then(KernelKind::bootable).ok()?;
    header.release().map(str::to_owned)
}

/// The entry that boots, with its files replaced by those that the domU config names.
fn boot_of(fs: &dyn GuestFs, request: &GuestBootRequest) -> Result<Boot> {
    let mut boot = match (&request.kernel, choose(fs, request.entry.as_ref())) {
        (_, Ok(boot)) => boot,
        (None, Err(e)) => return Err(e),
        // The config names a kernel inside the guest, so no boot menu is needed.
        (Some(kernel), Err(_)) => Boot {
            title: kernel.clone(),
            source: BootSource::NewestKernel,
            kernel: kernel.clone(),
            initrds: Vec::new(),
            cmdline: String::new(),
            entries: Vec::new(),
            notes: Vec::new(),
        },
    };
    if let Some(kernel) = &request.kernel {
        boot.kernel = fs.canonicalize(kernel)?;
        boot.initrds.clear();
    }
    if let Some(ramdisk) = &request.ramdisk {
        boot.initrds = vec![fs.canonicalize(ramdisk)?];
    }
    if let Some(append) = &request.append {
        boot.cmdline = format!("{} {append}", boot.cmdline).trim().to_owned();
    }
    Ok(boot)
}

/// The legacy settings of the guest whose root filesystem is in `reader`; empty if it cannot be
/// read.
pub(super) fn legacy_settings_of(reader: impl ReadAt + Send + 'static) -> LegacySettings {
    open_fs(reader).map(|fs| LegacySettings::of(&*fs)).unwrap_or_default()
}

/// Whether the root filesystem in `reader` has modules for the kernel `version`; `None` if it
/// cannot be read.
pub(super) fn has_modules(reader: impl ReadAt + Send + 'static, version: &str) -> Option<bool> {
    let fs = open_fs(reader).ok()?;
    let dirs = ["/lib/modules", "/usr/lib/modules"];
    Some(dirs.iter().any(|dir| fs.stat(&format!("{dir}/{version}")).is_ok()))
}

fn read_exact(file: &mut dyn GuestFile, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => return Err(Error::new(ErrorKind::Corrupt, "a file in the guest ends too early")),
            n => done += n,
        }
    }
    Ok(bytes)
}
