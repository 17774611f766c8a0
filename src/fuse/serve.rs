//! Serving a mount from its first request to its last.

use super::coherence::Invalidator;
use super::files::{FileSpec, Status};
use super::mount::Mounted;
use super::options::MountOptions;
use super::view::View;
use crate::process::{
    MountEntry, Unmount, ending_signals, find_mount, hold_ending_signals, unmount,
};
use crate::{Error, Result};
use fuser::{Config, Session, SessionACL};
use nix::sys::signal::SigSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Name of the file in which a mount describes itself ([`Status`]); listings leave it out.
pub const STATUS_FILE: &str = ".synthdisk.json";

/// How long after a signal programs may go on with files that they have open.
const GRACE: Duration = Duration::from_secs(2);

/// Mount `files` on `target` and serve them until the mount is ended, from outside or by SIGTERM,
/// SIGINT or SIGHUP. `ready` is called once the files can be used. All disks are flushed at the
/// end.
///
/// Threads that the process has already must have been started after [`hold_ending_signals`].
///
/// # Errors
/// When mounting fails, when the connection to the kernel breaks, and when the last flush fails.
pub fn serve(
    files: Vec<FileSpec>,
    status: &Status,
    source: &str,
    target: &Path,
    options: &MountOptions,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    hold_ending_signals()?;
    serve_until(files, status, source, target, options, true, ready)
}

/// As [`serve`], for as long as `work` takes and no longer; signals are the caller's business.
///
/// # Errors
/// As [`serve`], and those of `work`.
pub fn serve_during(
    files: Vec<FileSpec>,
    status: &Status,
    source: &str,
    target: &Path,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    serve_until(files, status, source, target, &MountOptions::default(), false, || {
        work()?;
        // Lazily: what a child of `work` still has open must not keep the rest from ending.
        find_mount(target).map_or(Ok(()), |entry| unmount(&entry, Unmount::Lazy))
    })
}

fn serve_until(
    files: Vec<FileSpec>,
    status: &Status,
    source: &str,
    target: &Path,
    options: &MountOptions,
    by_signal: bool,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let disks: Vec<_> = files.iter().map(|f| Arc::clone(&f.disk)).collect();
    let flush = move || -> std::io::Result<()> { disks.iter().try_for_each(|disk| disk.flush()) };
    let thread_error = |e| Error::io("cannot start a thread", e);
    let status = serde_json::to_vec_pretty(status)
        .map_err(|e| Error::io("cannot describe the mount", e.into()))?;
    let invalidator = Invalidator::start().map_err(thread_error)?;
    let view = View::new(files, status, options.clone(), invalidator.handle());

    let mounted = Mounted::new(source, target, options)?;
    let entry = mounted.entry();
    let undo = |e: Error| {
        let _ = unmount(&entry, Unmount::Lazy);
        e
    };
    let mut config = Config::default();
    // One thread more than processors keeps them busy while one waits for storage.
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    config.n_threads = Some((processors + 1).clamp(3, 16));
    config.clone_fd = true;
    // Who may come in is the kernel's decision, by the mount's own options.
    let session = Session::from_fd(view, mounted.device, SessionACL::All, config)
        .map_err(|e| undo(Error::io("the kernel refused the FUSE session", e)))?;
    let session =
        session.spawn().map_err(|e| undo(Error::io("cannot serve the FUSE session", e)))?;
    invalidator.connect(session.notifier());
    raise_readahead(&entry);
    if by_signal {
        watch_signals(ending_signals(), entry.clone(), flush.clone())
            .map_err(|e| undo(thread_error(e)))?;
    }
    ready().map_err(undo)?;

    let served = session.join();
    let flushed = flush();
    invalidator.join();
    // A connection that broke leaves a dead mount behind; one that ended leaves none.
    let _ = unmount(&entry, Unmount::Lazy);
    served.map_err(|e| Error::io("the connection to the kernel broke", e))?;
    flushed.map_err(|e| Error::io("the last writes could not be brought to storage", e))
}

/// End the mount when a signal asks for it, and the process if programs do not let go.
fn watch_signals(
    signals: SigSet,
    entry: MountEntry,
    flush: impl Fn() -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<()> {
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.wait().is_err() {
            return;
        }
        if let Err(e) = unmount(&entry, Unmount::Lazy) {
            tracing::error!("{e}");
        }
        // The session ends by itself when the last file is closed; this thread then ends with it.
        std::thread::sleep(GRACE);
        let code = match flush() {
            Ok(()) => 0,
            Err(e) => {
                tracing::error!("the last writes could not be brought to storage: {e}");
                1
            }
        };
        std::process::exit(code);
    })?;
    Ok(())
}

/// Let the kernel read ahead in requests as large as they may be; only root can say so.
fn raise_readahead(entry: &MountEntry) {
    let _ = std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", entry.device), "1024");
}
