//! What a serving process is asked for, and its reply.

use super::report::MountReport;
use crate::fuse::MountOptions;
use crate::nbd::{Encryption, NbdAddress};
use crate::plan::{OverlayChoice, SourceOptions};
use crate::sandbox::Mode;
use crate::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of a socket in a private directory.
pub const SOCKET: &str = "nbd";

/// All that a process needs to export a guest's disks. Relative paths are relative to the working
/// directory that it inherits. Files with identities (keys, hashes, scripts) are read already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountRequest {
    /// The guest.
    pub source: SourceOptions,
    /// Where writes go.
    pub overlay: OverlayChoice,
    /// The most that each disk's overlay may occupy, in bytes.
    pub overlay_limit: Option<u64>,
    /// How clients reach the disks.
    pub export: ExportRequest,
    /// What happens if the serving process cannot be confined completely.
    pub sandbox: Mode,
    /// Fail when the guest cannot be adapted, in place of a note.
    pub must_adapt: bool,
    /// File to which messages are appended; standard error without.
    pub log: Option<PathBuf>,
    /// Whether the process leaves its terminal and session once the disks can be used.
    pub background: Background,
}

/// How clients reach the disks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ExportRequest {
    /// Through a mount with these options.
    Mount(MountOptions),
    /// Through an NBD server.
    Nbd(NbdRequest),
}

/// An NBD server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NbdRequest {
    /// Where it listens.
    pub address: NbdAddress,
    /// Whether connections are encrypted.
    pub encryption: Encryption,
    /// The directory with certificates, if they are.
    pub certificates: Option<PathBuf>,
    /// Whether all writes are refused.
    pub read_only: bool,
}

impl MountRequest {
    /// The same request, with its socket, if it asks for one, in the directory `dir`.
    pub fn in_directory(&self, dir: &Path) -> Self {
        let mut request = self.clone();
        if let ExportRequest::Nbd(nbd) = &mut request.export {
            nbd.address = NbdAddress::Unix(dir.join(SOCKET));
        }
        request
    }
}

impl ExportRequest {
    /// Whether all writes are refused.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Mount(options) => options.read_only,
            Self::Nbd(nbd) => nbd.read_only,
        }
    }
}

/// Whether a serving process detaches itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Background {
    /// It stays with the process that started it, which ends it.
    Stay,
    /// It becomes a daemon.
    Detach,
}

/// What the processes of a mount answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MountReply {
    /// The disks can be used.
    Ready(Box<MountReport>),
    /// It ends with this error: instead of [`MountReply::Ready`], or after it.
    Failed {
        /// The error's kind, from which the exit code follows.
        kind: ErrorKind,
        /// The error's message.
        message: String,
    },
}

impl MountReply {
    /// The reply that tells of `e`.
    pub fn failed(e: &Error) -> Self {
        // The causes stay here, so what they say of the host goes into the kind.
        let kind = if e.is_of_host() { ErrorKind::Host } else { e.kind() };
        Self::Failed { kind, message: e.to_string() }
    }
}
