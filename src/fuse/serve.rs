//! Serving a mount from start to end.

use super::adapter::Serving;
use super::disk_fs::{DiskFs, set_status};
use super::options::MountOptions;
use super::threads::ThreadCounter;
use crate::disk::temporary_dir;
use crate::export::{Export, ExportSet};
use crate::sandbox::{Confined, Confinement, Mode, Profile};
use crate::{Error, Result};
use std::os::fd::OwnedFd;

/// An export as files in a directory, through FUSE.
#[derive(Debug)]
pub struct FuseExport {
    /// `/dev/fuse`, connected to a mount that nobody uses yet.
    pub device: OwnedFd,
    /// Owners and modes of the files.
    pub options: MountOptions,
    /// What happens if this process cannot be confined completely.
    pub sandbox: Mode,
}

impl Export for FuseExport {
    /// Serve until the mount is removed. This process must have a single thread.
    fn serve(self, set: ExportSet, ready: impl FnOnce(&Confined) -> Result<()>) -> Result<()> {
        let Self { device, options, sandbox } = self;
        let described = |e: serde_json::Error| Error::io("cannot describe the mount", e.into());
        let disks = set.clone();
        // The status says how this process is confined, which is not known yet.
        let status = set.status.clone();
        let fs = DiskFs::new(ExportSet { status: None, ..set }, &options).map_err(described)?;
        let fs = fs.with_snapshots(&temporary_dir());
        let handle = fs.status_handle();

        let counted = |e| Error::io("cannot start the threads that serve", e);
        let counter = ThreadCounter::open().map_err(counted)?;
        let others = counter.settled().map_err(counted)?;
        let confinement = Confinement::begin(Profile::Serve, sandbox)?;
        let serving = Serving::start(fs, device, disks.latency)?;
        serving.wait_for_threads(&counter, others).map_err(counted)?;
        drop(counter);
        let confined = confinement.finish()?;
        tracing::info!("confined by: {confined}");
        if let Some(mut status) = status {
            status.sandbox = confined.clone();
            set_status(&handle, &status).map_err(described)?;
        }
        ready(&confined)?;

        let served = serving.join();
        let flushed = disks.close();
        served.map_err(|e| Error::io("the connection to the kernel broke", e))?;
        flushed.map_err(|e| Error::io("the last writes could not be stored", e))
    }
}
