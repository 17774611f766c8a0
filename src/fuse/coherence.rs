//! Keeping the kernel's page cache of `disk.raw` true.
//!
//! The kernel caches pages of files that were opened without O_DIRECT. It drops what it writes
//! itself, but it cannot know that a write to `part1.raw` changes `disk.raw`, or that a new kernel
//! inside the guest changes what the boot gap shows. We tell it, before the write is acknowledged.
//!
//! Telling it may have to wait for a page that is being read, and that read may wait for one of
//! our threads; so the threads that serve never wait here, a thread of its own does.

use super::files::FileSpec;
use fuser::{INodeNo, Notifier};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

/// Pages of one inode that must go. Offset and length in bytes.
type Range = (INodeNo, i64, i64);

/// An answer to hold back until pages are gone.
struct Job {
    ranges: Vec<Range>,
    then: Box<dyn FnOnce() + Send>,
}

/// Who has pages of a whole-disk file cached.
#[derive(Debug, Default)]
pub(super) struct CacheState {
    /// Open handles that use the page cache.
    cached_opens: AtomicUsize,
    /// Something changed behind the cache's back while nobody had the file open.
    outdated: AtomicBool,
}

impl CacheState {
    /// Count a cached open; returns whether the pages kept from earlier opens are still true.
    pub(super) fn open(&self) -> bool {
        // Before looking at the mark: see `touch` for the other half.
        self.cached_opens.fetch_add(1, Ordering::SeqCst);
        !self.outdated.swap(false, Ordering::SeqCst)
    }

    /// Count a close of a cached handle.
    pub(super) fn release(&self) {
        self.cached_opens.fetch_sub(1, Ordering::SeqCst);
    }

    /// Pages have become untrue. Returns whether somebody may be looking at them right now.
    pub(super) fn touch(&self) -> bool {
        self.outdated.store(true, Ordering::SeqCst);
        self.cached_opens.load(Ordering::SeqCst) > 0
    }
}

/// The thread that tells the kernel.
pub(super) struct Invalidator {
    jobs: mpsc::Sender<Job>,
    notifier: Arc<OnceLock<Notifier>>,
    thread: JoinHandle<()>,
}

impl Invalidator {
    /// Start the thread; it works from [`Invalidator::connect`] on.
    ///
    /// # Errors
    /// That of starting a thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let notifier = Arc::new(OnceLock::<Notifier>::new());
        let known = Arc::clone(&notifier);
        let thread = std::thread::Builder::new().name("invalidate".into()).spawn(move || {
            while let Ok(job) = queue.recv() {
                for (ino, offset, len) in job.ranges {
                    // ENOENT (nothing cached) is no error; others leave pages that the next open
                    // drops.
                    if let Some(Err(e)) = known.get().map(|n| n.inval_inode(ino, offset, len)) {
                        tracing::warn!("cannot drop cached pages: {e}");
                    }
                }
                (job.then)();
            }
        })?;
        Ok(Self { jobs, notifier, thread })
    }

    /// A handle for the threads that serve.
    pub(super) fn handle(&self) -> InvalidatorHandle {
        InvalidatorHandle { jobs: self.jobs.clone() }
    }

    /// Give it the connection to the kernel.
    pub(super) fn connect(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// End the thread; all handles must be gone.
    pub(super) fn join(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

/// Sends work to the [`Invalidator`].
#[derive(Clone)]
pub(super) struct InvalidatorHandle {
    jobs: mpsc::Sender<Job>,
}

impl InvalidatorHandle {
    /// Drop `ranges` from the kernel's cache, then call `then`; at once when there are none.
    pub(super) fn run(&self, ranges: Vec<Range>, then: impl FnOnce() + Send + 'static) {
        if ranges.is_empty() {
            return then();
        }
        if let Err(mpsc::SendError(job)) = self.jobs.send(Job { ranges, then: Box::new(then) }) {
            (job.then)();
        }
    }
}

/// The pages that a write to `written` at `offset` (in that file) makes untrue, given all files of
/// the mount. `direct` says that the write itself went past the page cache.
///
/// Only whole-disk files are ever cached: the partition files are opened past the cache.
pub(super) fn outdated_pages<'a>(
    files: impl Iterator<Item = (INodeNo, &'a FileSpec, &'a CacheState)>,
    written: &FileSpec,
    offset: u64,
    len: u64,
    direct: bool,
    outdates_gap: Option<u64>,
) -> Vec<Range> {
    let mut ranges = Vec::new();
    for (ino, file, cache) in files {
        if !file.is_whole() || !Arc::ptr_eq(&file.disk, &written.disk) {
            continue;
        }
        if direct && cache.touch() {
            ranges.push((ino, (written.start + offset) as i64, len as i64));
        }
        if let Some(gap_end) = outdates_gap {
            if cache.touch() {
                ranges.push((ino, 0, gap_end as i64));
            }
        }
    }
    ranges
}
