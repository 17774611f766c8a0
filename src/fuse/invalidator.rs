//! Dropping stale pages from the kernel's cache.
//!
//! The threads that serve requests never do this themselves, because it may have to wait for a page
//! that a request holds. Two threads do it, one for each [`Wait`]; [`crate::export`] explains why
//! two are enough.

use crate::export::{StalePages, Wait};
use std::io;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

/// Drops pages from the kernel's cache.
pub(super) type DropPages = Box<dyn Fn(&StalePages) -> io::Result<()> + Send + Sync>;

/// A reply to delay until pages are dropped.
struct Job {
    pages: Vec<StalePages>,
    then: Box<dyn FnOnce() + Send>,
}

/// The threads that drop pages.
pub(super) struct Invalidator {
    handle: InvalidatorHandle,
    kernel: Arc<OnceLock<DropPages>>,
    threads: Vec<JoinHandle<()>>,
}

impl Invalidator {
    /// How many threads it starts.
    pub(super) const THREADS: usize = 2;

    /// Start the threads; they begin to work when [`Invalidator::connect`] is called.
    ///
    /// # Errors
    /// Errors of starting a thread.
    pub(super) fn start() -> io::Result<Self> {
        let kernel = Arc::new(OnceLock::<DropPages>::new());
        let mut threads = Vec::new();
        let mut start = |wait: Wait, next: Option<mpsc::Sender<Job>>| {
            let (jobs, queue) = mpsc::channel::<Job>();
            let kernel = Arc::clone(&kernel);
            let work = move || {
                while let Ok(Job { pages, then }) = queue.recv() {
                    let (now, later): (Vec<_>, _) = pages.into_iter().partition(|p| p.wait == wait);
                    now.iter().for_each(|pages| drop_pages(kernel.get(), pages));
                    match &next {
                        Some(next) if !later.is_empty() => send(next, Job { pages: later, then }),
                        _ => then(),
                    }
                }
            };
            threads.push(std::thread::Builder::new().name("invalidate".into()).spawn(work)?);
            io::Result::Ok(jobs)
        };
        let derived = start(Wait::Derived, None)?;
        let alias = start(Wait::Alias, Some(derived.clone()))?;
        Ok(Self { handle: InvalidatorHandle { alias, derived }, kernel, threads })
    }

    /// A handle for the threads that serve requests.
    pub(super) fn handle(&self) -> InvalidatorHandle {
        self.handle.clone()
    }

    /// Set the connection to the kernel.
    pub(super) fn connect(&self, kernel: DropPages) {
        let _ = self.kernel.set(kernel);
    }

    /// Stop the threads; all handles must have been dropped.
    pub(super) fn join(self) {
        drop(self.handle);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn drop_pages(kernel: Option<&DropPages>, pages: &StalePages) {
    match kernel.map(|drop_pages| drop_pages(pages)) {
        Some(Err(e)) => tracing::warn!("cannot drop cached pages: {e}"),
        _ => pages.dropped(),
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
    alias: mpsc::Sender<Job>,
    derived: mpsc::Sender<Job>,
}

impl InvalidatorHandle {
    /// Drop `pages` from the kernel's cache, then call `then`; if there are no pages, call it
    /// immediately.
    pub(super) fn run(&self, pages: Vec<StalePages>, then: impl FnOnce() + Send + 'static) {
        if pages.is_empty() {
            return then();
        }
        let has_alias = pages.iter().any(|p| p.wait == Wait::Alias);
        let first = if has_alias { &self.alias } else { &self.derived };
        send(first, Job { pages, then: Box::new(then) });
    }
}
