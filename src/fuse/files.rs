//! The files that a mount shows.

use crate::disk::Disk;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// A file of the mount: a range of a disk. Offsets and lengths in bytes.
#[derive(Clone, Debug)]
pub struct FileSpec {
    /// Name in the mount point's directory.
    pub name: String,
    /// The disk that it shows.
    pub disk: Arc<Disk>,
    /// First byte of the disk that it shows.
    pub start: u64,
    /// Its length.
    pub len: u64,
}

impl FileSpec {
    /// Whether it is the disk as a whole, under which the others lie.
    pub fn is_whole(&self) -> bool {
        self.start == 0 && self.len == self.disk.len()
    }
}

/// What a mount says of itself, as JSON in a file that directory listings leave out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that serves the mount.
    pub version: String,
    /// Process that serves the mount.
    pub pid: u32,
    /// The images, absolute.
    pub images: Vec<PathBuf>,
    /// The persistent overlays, absolute.
    pub overlays: Vec<PathBuf>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The disks, first the one that the firmware boots from.
    #[serde(default)]
    pub disks: Vec<StatusDisk>,
}

/// A disk of a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusDisk {
    /// Its file in the mount.
    pub file: String,
    /// The guest's name for it under Xen.
    pub vdev: String,
    /// Whether it is a CD.
    pub cdrom: bool,
    /// Whether writes to it are refused.
    pub read_only: bool,
}
