//! Where clients reach the disks: what the keeper makes for the server, shows, and removes.

use super::request::{ExportRequest, MountRequest};
use crate::fuse::{KernelMount, MountPoint};
use crate::nbd::{Encryption, NbdListener};
use crate::process::{MountEntry, Sweeper, Unmount, unmount};
use crate::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long programs may continue to use open files of a mount after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// What clients see of an export.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub(super) enum Front {
    /// A mount.
    Mount {
        target: MountPoint,
        /// What the host's mount table shows as the source.
        source: String,
        /// The mount, until it is announced.
        made: Option<KernelMount>,
        /// The mount, once it is announced.
        entry: Option<MountEntry>,
    },
    /// A socket.
    Socket { listener: NbdListener, encryption: Encryption, state: SocketState },
}

/// How far a socket is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SocketState {
    Bound,
    Listening,
    Announced,
}

/// What cleans up if the keeper is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cleanup {
    /// A process that is started for that.
    Sweeper,
    /// The process that started the keeper.
    Caller,
}

impl Front {
    /// Open the place that `request` names; `dir` is where a mount goes. Nobody sees anything yet.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub fn open(request: &MountRequest, dir: &Path) -> Result<Self> {
        Ok(match &request.export {
            ExportRequest::Mount(_) => Self::Mount {
                target: MountPoint::open(dir)?,
                source: shown_source(request),
                made: None,
                entry: None,
            },
            ExportRequest::Nbd(nbd) => {
                let listener = NbdListener::bind(&nbd.address)?;
                let encryption = nbd.encryption;
                Self::Socket { listener, encryption, state: SocketState::Bound }
            }
        })
    }

    /// Make what the server gets requests from, once.
    ///
    /// # Errors
    /// When mounting fails, and when it was made already.
    pub fn make(&mut self, request: &MountRequest) -> Result<OwnedFd> {
        match (self, &request.export) {
            (
                Self::Mount { target, source, made: made @ None, entry: None },
                ExportRequest::Mount(options),
            ) => {
                let (mount, device) = KernelMount::new(target, source, options)?;
                *made = Some(mount);
                Ok(device)
            }
            (Self::Socket { listener, state: state @ SocketState::Bound, .. }, _) => {
                // Clients can connect, and wait until the server is ready.
                listener.listen()?;
                *state = SocketState::Listening;
                let copy = listener.as_fd().try_clone_to_owned();
                copy.map_err(|e| Error::io("cannot use the socket", e))
            }
            _ => Err(nonsense()),
        }
    }

    /// Show it, now that requests are answered.
    ///
    /// # Errors
    /// Errors of the kernel; when nothing was made.
    pub fn announce(&mut self) -> Result<()> {
        match self {
            Self::Mount { target, made, entry, .. } => {
                let mount = made.take().ok_or_else(nonsense)?;
                *entry = Some(mount.announce(target)?);
            }
            Self::Socket { state: state @ SocketState::Listening, .. } => {
                *state = SocketState::Announced;
            }
            Self::Socket { .. } => return Err(nonsense()),
        }
        Ok(())
    }

    /// The path that users see: that of a mount or of a socket.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Mount { target, .. } => target.path().to_path_buf(),
            Self::Socket { listener, .. } => {
                listener.name().map(|name| name.path.clone()).unwrap_or_default()
            }
        }
    }

    /// The URI of the first disk, if there is one.
    pub fn uri(&self) -> Option<String> {
        match self {
            Self::Mount { .. } => None,
            Self::Socket { listener, encryption, .. } => {
                Some(listener.address().uri("", *encryption))
            }
        }
    }

    /// A process that removes it if this one is killed.
    ///
    /// # Errors
    /// Errors of starting a process.
    pub fn sweeper(&self) -> Result<Option<Sweeper>> {
        match self {
            Self::Mount { entry, .. } => entry.as_ref().map(Sweeper::of_attached).transpose(),
            Self::Socket { listener, .. } => listener.name().map(Sweeper::of_name).transpose(),
        }
    }

    /// Hide it, and return how long its users may go on. `None` if it was not announced.
    pub fn hide(&mut self) -> Option<Duration> {
        match self {
            Self::Mount { entry, .. } => {
                unmount_lazily(entry.as_ref()?);
                Some(GRACE)
            }
            Self::Socket { listener, state, .. } => {
                listener.remove();
                // The server itself lets clients have their replies.
                (*state == SocketState::Announced).then_some(Duration::ZERO)
            }
        }
    }

    /// Remove what was made and not announced.
    pub fn discard(&mut self) {
        if let Self::Mount { made, .. } = self {
            if let Some(Err(e)) = made.take().map(KernelMount::discard) {
                tracing::error!("{e}");
            }
        }
    }
}

fn unmount_lazily(entry: &MountEntry) {
    if let Err(e) = unmount(entry, Unmount::Lazy) {
        tracing::error!("{e}");
    }
}

/// The error for a server that does not follow the protocol.
pub(super) fn nonsense() -> Error {
    Error::new(ErrorKind::Corrupt, "the process that serves the disks does not follow the protocol")
}

/// What the host's mount table shows as the source: the config or the first image.
fn shown_source(request: &MountRequest) -> String {
    let source = &request.source;
    let path = source.config.as_ref().or(source.images.first()).cloned().unwrap_or_default();
    path.canonicalize().unwrap_or(path).display().to_string()
}
