//! A disk that is to be settled.

use crate::finalize::{NewFile, OutputFormat};
use std::fs::File;
use std::ops::Range;

/// Where QEMU has a disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The name by which QEMU's commands know the disk: a node's, or a drive's.
    pub device: String,
    /// The nodes to remove once nothing uses them, in order.
    pub nodes: Vec<String>,
}

/// A disk of a mount, and the file that it will be in.
#[derive(Debug)]
pub struct SettleDisk {
    /// Its place in QEMU.
    pub place: Place,
    /// Its file in the mount.
    pub shown: File,
    /// Its length in bytes.
    pub len: u64,
    /// The bytes of the disk that are planned again when the guest's boot files change.
    pub boot_area: Range<u64>,
    /// The format of the new file: raw or qcow2.
    pub format: OutputFormat,
    /// The new file, empty.
    pub file: NewFile,
}
