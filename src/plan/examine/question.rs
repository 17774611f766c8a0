//! What a planner asks about a guest, and what it is told. Plain data.

use crate::adapt::{Devices, Selection};
use crate::edit::Change;
use crate::loader::{FirmwareSet, LoaderKind, MenuRules};
use crate::plan::root_resolver::RootResolver;
use crate::plan::types::{BootSummary, GuestBootRequest};
use serde::{Deserialize, Serialize};

/// A partition, or a file of this host, by the order in which the planner named them.
pub(in crate::plan) type SourceId = u32;

/// Most partitions and files of this host in one plan.
pub(super) const MAX_SOURCES: usize = 1024;
/// Most files of a guest that are open for the planner at a time.
pub(super) const MAX_OPEN: usize = 256;

/// A partition that may hold the boot configuration or the root filesystem: its index among the
/// resolver's partitions, and its source.
pub(in crate::plan) type Place = (usize, SourceId);

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) enum Question {
    /// What boots from the first of the candidates that has something: a [`FoundBoot`].
    Boot(BootQuestion),
    /// How a kernel of this host boots: a [`FoundBoot`].
    HostBoot(HostBootQuestion),
    /// Whether the root filesystem has modules for a kernel: `Option<bool>`.
    HasModules { root: SourceId, version: String },
    /// The logical volumes in these physical volumes, with names for messages: a
    /// [`Survey`](crate::lvm::Survey).
    Volumes(Vec<(SourceId, String)>),
    /// Whether what was found so far is complete: `()`, or why it is not.
    Budget,
    /// The edits that adapt the guest with this root filesystem: [`FoundEdits`].
    Edits(EditsQuestion),
    /// The initrd with which a kernel edits this guest: a [`FoundEditor`].
    Editor(EditorQuestion),
    /// About one filesystem.
    Fs(SourceId, FsQuestion),
    /// Bytes of an open file.
    Read { file: u32, offset: u64, len: u32 },
}

/// Which edits adapt a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct EditsQuestion {
    /// Its root filesystem.
    pub(in crate::plan) root: Place,
    /// Partitions that may be mounted on it.
    pub(in crate::plan) others: Vec<Place>,
    pub(in crate::plan) resolver: RootResolver,
    pub(in crate::plan) devices: Devices,
    pub(in crate::plan) selection: Selection,
}

/// With which initrd the guest's kernel edits its root filesystem.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct EditorQuestion {
    /// Its root filesystem.
    pub(in crate::plan) root: Place,
    /// Partitions that may be mounted on it.
    pub(in crate::plan) others: Vec<Place>,
    pub(in crate::plan) resolver: RootResolver,
    /// The kernel's version, as `uname -r` prints it.
    pub(in crate::plan) version: String,
}

/// An initrd with which the guest's kernel edits its root filesystem.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct FoundEditor {
    /// The initrd, as an open file.
    pub(in crate::plan) file: u32,
    /// Its length in bytes.
    pub(in crate::plan) len: u64,
    /// The filesystem's type, as in mount(2).
    pub(in crate::plan) fs_type: String,
}

/// A question about one filesystem; paths are in the guest.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) enum FsQuestion {
    /// [`FsFacts`].
    Facts,
    /// A [`Node`](crate::fs::Node).
    Node { path: String, searched: u64 },
    /// A [`Stat`](crate::fs::Stat).
    Stat(String),
    /// A [`Stat`](crate::fs::Stat).
    Lstat(String),
    /// Names.
    ReadDir(String),
    /// A path.
    Canonicalize(String),
    /// A path.
    ReadLink(String),
    /// The file's bytes.
    ReadWhole { path: String, limit: usize },
    /// [`OpenedFile`].
    Open(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct BootQuestion {
    /// In the order in which they are tried.
    pub(in crate::plan) candidates: Vec<Place>,
    /// Partitions of further disks that may hold the root filesystem.
    pub(in crate::plan) others: Vec<Place>,
    pub(in crate::plan) request: GuestBootRequest,
    pub(in crate::plan) resolver: RootResolver,
    pub(in crate::plan) loader: LoaderKind,
    /// The firmware that must be able to start the kernel.
    pub(in crate::plan) firmware: FirmwareSet,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct HostBootQuestion {
    pub(in crate::plan) kernel: HostFile,
    pub(in crate::plan) initrds: Vec<HostFile>,
    pub(in crate::plan) cmdline: String,
    pub(in crate::plan) candidates: Vec<Place>,
    pub(in crate::plan) resolver: RootResolver,
    pub(in crate::plan) loader: LoaderKind,
    /// The firmware that must be able to start the kernel.
    pub(in crate::plan) firmware: FirmwareSet,
}

/// A file of this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::plan) struct HostFile {
    pub(in crate::plan) name: String,
    pub(in crate::plan) source: SourceId,
}

/// What boots.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct FoundBoot {
    pub(in crate::plan) summary: BootSummary,
    /// The kernel, then the initrds.
    pub(in crate::plan) files: Vec<FoundFile>,
    /// How to start other entries of the guest's boot menu.
    pub(in crate::plan) menu: MenuRules,
}

/// A file of a boot entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::plan) struct FoundFile {
    /// Its location, for display.
    pub(in crate::plan) origin: String,
    /// Length in bytes.
    pub(in crate::plan) len: u64,
    /// Changes whenever the file does.
    pub(in crate::plan) identity: [u8; 16],
    pub(in crate::plan) from: FileOrigin,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(in crate::plan) enum FileOrigin {
    /// A file of this host.
    Host(SourceId),
    /// A file of the guest.
    Guest { source: SourceId, path: String },
    /// Made from the guest's modules, and open as this file.
    Made(u32),
}

/// An open file.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::plan) struct OpenedFile {
    pub(in crate::plan) file: u32,
    pub(in crate::plan) len: u64,
    /// As in [`FoundFile`].
    pub(in crate::plan) identity: [u8; 16],
}

/// What a guest's adaptation edits.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct FoundEdits {
    pub(in crate::plan) edits: Vec<FoundEdit>,
    /// Files that another filesystem of the guest has, which are not edited.
    pub(in crate::plan) elsewhere: Vec<String>,
    pub(in crate::plan) facts: FsFacts,
}

/// An [`Edit`](crate::edit::Edit).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::plan) struct FoundEdit {
    pub(in crate::plan) path: String,
    pub(in crate::plan) change: Change,
    pub(in crate::plan) why: String,
    pub(in crate::plan) step: String,
}

/// A filesystem as a whole.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::plan) struct FsFacts {
    /// Type and options for the kernel's driver, if only that can write to it.
    pub(in crate::plan) kernel_mount: Option<(String, String)>,
    pub(in crate::plan) caveat: Option<String>,
}
