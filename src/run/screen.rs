//! A picture of the guest's screen.

use crate::private_file::{self, Existing};
use crate::process::{Inherited, Stop};
use crate::qemu::Qmp;
use crate::{Error, Result};
use serde_json::json;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a QEMU may take to greet and to write the picture.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a QEMU that is about to be started, for pictures.
pub(super) struct Screen {
    ours: UnixStream,
    theirs: Inherited,
}

impl Screen {
    pub(super) fn new() -> Result<Self> {
        let failed = |e| Error::io("cannot make a connection to QEMU", e).of_host();
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        Ok(Self { ours, theirs: Inherited::new(&theirs).map_err(failed)? })
    }

    /// QEMU's arguments for it.
    pub(super) fn args(&self) -> Vec<OsString> {
        let socket = format!("socket,id=screen,fd={}", self.theirs.number());
        ["-chardev", &socket, "-mon", "chardev=screen,mode=control"].map(OsString::from).into()
    }

    /// Write what the screen shows as PNG to `path`. QEMU runs, and has the other end.
    ///
    /// # Errors
    /// Errors of QEMU (before 7.1 it knew no PNG) and of the file.
    pub(super) fn take(self, path: &Path, stop: &Stop) -> Result<()> {
        drop(self.theirs);
        let file = private_file::open(path, "the screenshot", Existing::Truncate)?;
        let mut qmp = Qmp::over_before(self.ours, Some(stop), Instant::now() + PATIENCE)?;
        let set = qmp.add_fd(file.as_fd(), "screenshot")?;
        let name = format!("/dev/fdset/{set}");
        qmp.execute("screendump", json!({ "filename": name, "format": "png" })).map(drop)
    }
}
