//! What is exported: a guest's disks and their partitions, as named files with a status.
//!
//! This room defines which files there are, what a client may do with them, and which copies of
//! their bytes a write makes stale. It is independent of the protocol: each folder that implements
//! [`Export`] (today `fuse`) serves an [`ExportSet`] in its own way.

mod coherence;
mod file;
mod set;
mod status;
mod volume;

pub use coherence::{CacheState, StalePages, Wait, WritePath, answers_first, stale_pages};
pub use file::{ExportedFile, Range};
pub use set::{Export, ExportSet, ImageAccess, Latency, status_disks};
pub use status::{STATUS_FILE, Status, StatusDisk};
pub use volume::{ExportedVolume, Writes};

/// Prefix of the names of snapshot files: opening `.snapshot-disk.raw` takes a snapshot of
/// `disk.raw`. Directory listings omit these names. A disk can have one snapshot at a time.
pub const SNAPSHOT_PREFIX: &str = ".snapshot-";
