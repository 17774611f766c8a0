//! What is exported: the disks of a guest and their partitions, as named files with a status.
//!
//! This room says which files there are, what a client may do to them, and which copies of their
//! bytes a write makes stale. It knows no protocol: each folder that implements [`Export`] (today
//! `fuse`) serves an [`ExportSet`] in its own way.

mod coherence;
mod file;
mod set;
mod status;

pub use coherence::{CacheState, StalePages, Wait, WritePath, answers_first, stale_pages};
pub use file::{ExportedFile, Range};
pub use set::{Export, ExportSet, ImageAccess, status_disks};
pub use status::{STATUS_FILE, Status, StatusDisk};

/// What the names of snapshot files begin with: opening `.snapshot-disk.raw` takes a snapshot of
/// `disk.raw`. Listings leave these names out. One at a time per disk.
pub const SNAPSHOT_PREFIX: &str = ".snapshot-";
