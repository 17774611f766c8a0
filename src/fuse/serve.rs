//! Serving a mount from start to end.

use super::adapter::Serving;
use super::disk_fs::DiskFs;
use super::mount::{Detached, MountPoint, Mounted, mount_attached};
use super::options::MountOptions;
use crate::export::{Export, ExportSet};
use crate::process::{MountEntry, Unmount, ending_signals, hold_ending_signals, unmount};
use crate::{Error, Result};
use std::time::Duration;

/// How long programs may continue to use open files after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// An export as files in a directory, through FUSE.
#[derive(Debug)]
pub struct FuseMount {
    /// The directory to mount on.
    pub target: MountPoint,
    /// What `mount` lists as the source.
    pub source: String,
    /// Owners, modes, and kernel mount options.
    pub options: MountOptions,
}

impl Export for FuseMount {
    /// Mount, and serve until the mount is removed from outside or a signal ends it.
    ///
    /// Existing threads of the process must have been started after [`hold_ending_signals`].
    fn serve(self, set: ExportSet, ready: impl FnOnce() -> Result<()>) -> Result<()> {
        hold_ending_signals()?;
        let Self { target, source, options } = self;
        let disks = set.clone();
        let fs = DiskFs::new(set, &options)
            .map_err(|e| Error::io("cannot describe the mount", e.into()))?;
        let (serving, entry) = match Detached::new(&source, &options)? {
            // It serves requests before any program can see the mount.
            Some(Mounted { device, mount }) => {
                (Serving::start(fs, device)?, mount.attach(&target)?)
            }
            None => {
                let Mounted { device, mount: entry } = mount_attached(&source, &target, &options)?;
                let serving = Serving::start(fs, device).inspect_err(|_| end(&entry))?;
                (serving, entry)
            }
        };
        drop(target);
        raise_readahead(&entry);
        end_on_signal(entry.clone(), disks.clone()).inspect_err(|_| end(&entry))?;
        ready().inspect_err(|_| end(&entry))?;

        let served = serving.join();
        let flushed = disks.flush();
        // A broken connection leaves a dead mount; an ended session leaves none.
        end(&entry);
        served.map_err(|e| Error::io("the connection to the kernel broke", e))?;
        flushed.map_err(|e| Error::io("the last writes could not be stored", e))
    }
}

/// Unmount, even while files are open.
fn end(entry: &MountEntry) {
    if let Err(e) = unmount(entry, Unmount::Lazy) {
        tracing::error!("{e}");
    }
}

/// On a signal, end the mount, and also the process if programs do not close their files.
fn end_on_signal(entry: MountEntry, disks: ExportSet) -> Result<()> {
    let wait = move || {
        if ending_signals().wait().is_err() {
            return;
        }
        end(&entry);
        // The session ends when the last file is closed; the process then exits, and this thread
        // with it.
        std::thread::sleep(GRACE);
        let code = match disks.flush() {
            Ok(()) => 0,
            Err(e) => {
                tracing::error!("the last writes could not be stored: {e}");
                1
            }
        };
        std::process::exit(code);
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map(drop).map_err(|e| Error::io("cannot start a thread", e))
}

/// Let the kernel read ahead in requests of the maximum size; only root can set this.
fn raise_readahead(entry: &MountEntry) {
    let _ = std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", entry.device), "1024");
}
