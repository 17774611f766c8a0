//! `run --settle`: the guest's disks move from the mount to files while it runs.

use super::machine::DiskPlace;
use crate::finalize::{OutputFormat, Wanted};
use crate::fuse::LiveMount;
use crate::process::Inherited;
use crate::qemu::Qmp;
use crate::settle::{Options, Place, Settled, Settling, prepare_files, settle};
use crate::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;

/// Where the guest's disks move to.
#[derive(Clone, Debug)]
pub struct SettleRequest {
    /// A file, or a directory for all disks.
    pub output: PathBuf,
    /// The format of the files.
    pub format: OutputFormat,
    /// How the disks are copied.
    pub options: Options,
    /// Replace existing files, and try even without enough space.
    pub force: bool,
}

/// A connection to a QEMU that is about to be started.
pub(super) struct Monitor {
    ours: UnixStream,
    /// Closed once QEMU has it.
    theirs: Inherited,
}

impl Monitor {
    pub(super) fn new() -> Result<Self> {
        let failed = |e| Error::io("cannot make a connection to QEMU", e);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        Ok(Self { ours, theirs: Inherited::new(&theirs).map_err(failed)? })
    }

    /// QEMU's arguments for it. A guest that shuts down is kept until its disks have settled.
    pub(super) fn args(&self) -> Vec<OsString> {
        let socket = format!("socket,id=settle,fd={}", self.theirs.number());
        let words = ["-chardev", &socket, "-mon", "chardev=settle,mode=control"];
        words.into_iter().chain(["-action", "shutdown=pause"]).map(OsString::from).collect()
    }

    /// Start to settle the disks, in a thread. QEMU has been started.
    pub(super) fn start(self, settling: Settling, options: Options) -> Result<SettlingGuest> {
        drop(self.theirs);
        let failed = |e| Error::io("cannot settle the guest", e);
        let (done, theirs) = UnixStream::pair().map_err(failed)?;
        let ours = self.ours;
        let work = move || {
            // Closed when the thread ends, however it ends.
            let _done = theirs;
            move_disks(settling, options, ours)
        };
        let thread = std::thread::Builder::new().name("settle".into()).spawn(work);
        Ok(SettlingGuest { done: done.into(), thread: Some(thread.map_err(failed)?) })
    }
}

/// What became of the guest's disks.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) settled: Settled,
    /// The guest's names of the disks that stay in the mount.
    pub(super) left: Vec<String>,
}

/// The thread that settles a guest.
pub(super) struct SettlingGuest {
    done: OwnedFd,
    thread: Option<JoinHandle<Result<Outcome>>>,
}

impl SettlingGuest {
    /// Readable when the thread has ended; `None` once its result was taken.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.thread.as_ref().map(|_| self.done.as_fd())
    }

    /// The result, for which this waits; `None` if it was taken before.
    pub(super) fn result(&mut self) -> Option<Result<Outcome>> {
        let broken = |_| Err(Error::new(ErrorKind::Io, "the thread that settles the guest failed"));
        self.thread.take().map(|thread| thread.join().unwrap_or_else(broken))
    }
}

/// The new files of the disks in `place`. QEMU gets the disks as [`describe`] says.
///
/// [`describe`]: super::machine::describe
///
/// # Errors
/// [`ErrorKind::Unsupported`] for disks without a mount; as [`prepare_files`].
pub(super) fn prepare(place: DiskPlace<'_>, request: &SettleRequest) -> Result<Settling> {
    let DiskPlace::Directory(dir) = place else {
        let what = "a guest can only settle from a mount, not from an NBD server; use --export fuse \
                    on a host with FUSE, or `synthdisk finalize` when the guest is off";
        return Err(Error::new(ErrorKind::Unsupported, what));
    };
    let no_mount = || Error::new(ErrorKind::NotFound, "the mount has ended");
    let live = LiveMount::at(dir)?.ok_or_else(no_mount)?;
    let (output, format) = (request.output.as_path(), request.format);
    let wanted = Wanted { output, format, disk: None, partition: None };
    prepare_files(&live, &wanted, request.force, |index, _| {
        let node = format!("disk{index}");
        Ok(Place { device: node.clone(), nodes: vec![node] })
    })
}

fn move_disks(settling: Settling, options: Options, stream: UnixStream) -> Result<Outcome> {
    // Its end is QEMU's end: `run` ends QEMU when it is stopped.
    let mut qmp = Qmp::over(stream, None)?;
    let settled = settle(&mut qmp, settling.disks, options, &mut |_, _| {});
    // What fails here, fails because QEMU has ended.
    let _ = let_it_end(&mut qmp);
    Ok(Outcome { settled: settled?, left: settling.left })
}

/// From now on, a guest that shuts down ends QEMU, and one that did before is not waited for.
fn let_it_end(qmp: &mut Qmp<'_>) -> Result<()> {
    qmp.execute("set-action", json!({ "shutdown": "poweroff" }))?;
    let status = qmp.execute("query-status", json!({}))?;
    if status.get("status").and_then(Value::as_str) == Some("shutdown") {
        qmp.execute("quit", json!({}))?;
    }
    Ok(())
}
