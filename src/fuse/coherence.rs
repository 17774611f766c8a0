//! Keeping the kernel's pages of our files true.
//!
//! The kernel caches pages of `disk.raw` when it was opened without O_DIRECT, and pages of any file
//! that is mapped into memory. It drops what it writes itself, but it cannot know that a write to
//! `part1.raw` changes `disk.raw`, or that a new kernel inside the guest changes what the boot gap
//! shows. We tell it, before the write is acknowledged.
//!
//! Telling it may have to wait for a page that is being read or written, so the threads that serve
//! never do it. Two threads do, so that nothing waits in a circle:
//!
//! * A write through the page cache may hold a page of `disk.raw` until it is answered. Its answer
//!   waits for pages of the gap and of mapped partition files ([`Step::Follow`]). Those are held
//!   only by reads and by writes that are answered before anything is dropped ([`answers_first`]).
//! * A write past the page cache holds no page. Its answer may wait for pages of `disk.raw`
//!   ([`Step::Twin`]), and so for writes of the first kind.

use super::files::FileSpec;
use fuser::{INodeNo, Notifier};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

/// The kernel locks pages in groups of at most this many bytes.
const FOLIO_MAX: u64 = 2 << 20;

/// Why pages must go, which decides who may wait for them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// They show the same bytes of the disk, and were read through another open file.
    Twin,
    /// They follow from the bytes that were written, or belong to a mapped partition file.
    Follow,
}

/// Pages of one inode that must go. Offset and length in bytes; a length of 0 means all behind.
#[derive(Debug)]
pub(super) struct Pages {
    ino: INodeNo,
    offset: u64,
    len: u64,
    step: Step,
    /// To be told once they are gone.
    dropped: Option<(Arc<CacheState>, u64)>,
}

/// What the kernel may hold of a file.
#[derive(Debug, Default)]
pub(super) struct CacheState {
    /// Open handles through which pages may be cached or mapped.
    users: AtomicUsize,
    /// Something changed behind the cache's back while nobody had the file open.
    outdated: AtomicBool,
    /// Reads of the boot gap so far, and how many of them had happened when its pages were dropped.
    gap_reads: AtomicU64,
    gap_dropped: AtomicU64,
}

impl CacheState {
    /// Count an open; returns whether the pages kept from earlier opens are still true. If not,
    /// they must be dropped before the open is answered, and then [`CacheState::renewed`] called.
    pub(super) fn open(&self) -> bool {
        // Before looking at the mark: see `touch` for the other half.
        self.users.fetch_add(1, Ordering::SeqCst);
        !self.outdated.load(Ordering::SeqCst)
    }

    /// All pages were dropped after an `open` that wanted it.
    pub(super) fn renewed(&self) {
        // Whoever touched since then saw that open, and drops what it made untrue.
        self.outdated.store(false, Ordering::SeqCst);
    }

    /// Count a close.
    pub(super) fn release(&self) {
        self.users.fetch_sub(1, Ordering::SeqCst);
    }

    /// Note a read of the boot gap, before it is done.
    pub(super) fn reads_gap(&self) {
        self.gap_reads.fetch_add(1, Ordering::SeqCst);
    }

    /// Pages have become untrue. Returns whether somebody may be looking at them right now.
    fn touch(&self) -> bool {
        let used = || self.users.load(Ordering::SeqCst) > 0;
        if used() {
            return true;
        }
        self.outdated.store(true, Ordering::SeqCst);
        used()
    }

    /// How many reads of the gap there were, if any since its pages were dropped.
    fn gap_pages(&self) -> Option<u64> {
        let reads = self.gap_reads.load(Ordering::SeqCst);
        (reads > self.gap_dropped.load(Ordering::SeqCst)).then_some(reads)
    }
}

/// How a write came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// Past the page cache.
    Direct,
    /// Through it; the kernel has changed its pages already.
    Cached,
    /// From it, some time after a program wrote to mapped memory.
    WriteBack,
}

/// The pages that a write to `written` at `offset` (in that file) makes untrue, given all files of
/// the mount. To be called when the write is done.
pub(super) fn outdated_pages<'a>(
    files: impl Iterator<Item = (INodeNo, &'a FileSpec, &'a Arc<CacheState>)>,
    written: &FileSpec,
    (offset, len): (u64, u64),
    way: Way,
) -> Vec<Pages> {
    let mut out = Vec::new();
    let (start, end) = (written.start + offset, written.start + offset + len);
    for (ino, file, cache) in files.filter(|f| Arc::ptr_eq(&f.1.disk, &written.disk)) {
        let itself = file.start == written.start && file.len == written.len;
        let (from, to) = (start.max(file.start), end.min(file.start + file.len));
        // The kernel sees to the pages of the very file, but for those of a mapping that it made
        // of a whole disk opened with O_DIRECT elsewhere.
        let sees_to_it = itself && (way != Way::Direct || !file.is_whole());
        if from < to && !sees_to_it && cache.touch() {
            let step = if file.is_whole() { Step::Twin } else { Step::Follow };
            let (offset, len) = (from - file.start, to - from);
            out.push(Pages { ino, offset, len, step, dropped: None });
        }
        let Some(gap_end) = file.disk.gap_end().filter(|g| file.is_whole() && end > *g) else {
            continue;
        };
        if let Some(reads) = cache.gap_pages() {
            if cache.touch() {
                let dropped = Some((Arc::clone(cache), reads));
                out.push(Pages { ino, offset: 0, len: gap_end, step: Step::Follow, dropped });
            }
        }
    }
    out
}

/// Whether a write must be answered before pages are dropped, because the kernel may hold some of
/// them until it is.
pub(super) fn answers_first(written: &FileSpec, offset: u64, way: Way) -> bool {
    let near_gap = |gap_end| written.start + offset < gap_end + FOLIO_MAX;
    match way {
        Way::Direct => false,
        Way::Cached => written.disk.gap_end().is_some_and(near_gap),
        Way::WriteBack => true,
    }
}

/// All pages of a file.
pub(super) fn all_pages(ino: INodeNo) -> Vec<Pages> {
    vec![Pages { ino, offset: 0, len: 0, step: Step::Twin, dropped: None }]
}

/// An answer to hold back until pages are gone.
struct Job {
    pages: Vec<Pages>,
    then: Box<dyn FnOnce() + Send>,
}

/// The threads that tell the kernel.
pub(super) struct Invalidator {
    handle: InvalidatorHandle,
    notifier: Arc<OnceLock<Notifier>>,
    threads: Vec<JoinHandle<()>>,
}

impl Invalidator {
    /// Start the threads; they work from [`Invalidator::connect`] on.
    ///
    /// # Errors
    /// That of starting a thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let notifier = Arc::new(OnceLock::<Notifier>::new());
        let mut threads = Vec::new();
        let mut start = |step: Step, next: Option<mpsc::Sender<Job>>| {
            let (jobs, queue) = mpsc::channel::<Job>();
            let known = Arc::clone(&notifier);
            let work = move || {
                while let Ok(Job { pages, then }) = queue.recv() {
                    let (now, pages): (Vec<_>, _) = pages.into_iter().partition(|p| p.step == step);
                    now.iter().for_each(|pages| drop_pages(known.get(), pages));
                    match &next {
                        Some(next) if !pages.is_empty() => send(next, Job { pages, then }),
                        _ => then(),
                    }
                }
            };
            threads.push(std::thread::Builder::new().name("invalidate".into()).spawn(work)?);
            std::io::Result::Ok(jobs)
        };
        let follow = start(Step::Follow, None)?;
        let twin = start(Step::Twin, Some(follow.clone()))?;
        Ok(Self { handle: InvalidatorHandle { twin, follow }, notifier, threads })
    }

    /// A handle for the threads that serve.
    pub(super) fn handle(&self) -> InvalidatorHandle {
        self.handle.clone()
    }

    /// Give it the connection to the kernel.
    pub(super) fn connect(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// End the threads; all handles must be gone.
    pub(super) fn join(self) {
        drop(self.handle);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn drop_pages(notifier: Option<&Notifier>, pages: &Pages) {
    let (offset, len) = (pages.offset as i64, pages.len as i64);
    // ENOENT (nothing cached) is no error for the library.
    match notifier.map(|n| n.inval_inode(pages.ino, offset, len)) {
        Some(Err(e)) => tracing::warn!("cannot drop cached pages: {e}"),
        _ => {
            if let Some((cache, reads)) = &pages.dropped {
                cache.gap_dropped.fetch_max(*reads, Ordering::SeqCst);
            }
        }
    }
}

fn send(to: &mpsc::Sender<Job>, job: Job) {
    if let Err(mpsc::SendError(job)) = to.send(job) {
        (job.then)();
    }
}

/// Sends work to the [`Invalidator`].
#[derive(Clone)]
pub(super) struct InvalidatorHandle {
    twin: mpsc::Sender<Job>,
    follow: mpsc::Sender<Job>,
}

impl InvalidatorHandle {
    /// Drop `pages` from the kernel's cache, then call `then`; at once when there are none.
    pub(super) fn run(&self, pages: Vec<Pages>, then: impl FnOnce() + Send + 'static) {
        if pages.is_empty() {
            return then();
        }
        let has_twins = pages.iter().any(|p| p.step == Step::Twin);
        let first = if has_twins { &self.twin } else { &self.follow };
        send(first, Job { pages, then: Box::new(then) });
    }
}
