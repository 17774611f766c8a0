//! What an export says of itself: one type for the process that serves and for all that ask it.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Name of the file in which a mount shows its [`Status`] as JSON; listings leave it out.
pub const STATUS_FILE: &str = ".synthdisk.json";

/// What is exported, and by whom.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that serves.
    pub version: String,
    /// The process that serves.
    pub pid: u32,
    /// The images, absolute.
    pub images: Vec<PathBuf>,
    /// The persistent overlays, absolute.
    pub overlays: Vec<PathBuf>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The disks, first the one that the firmware boots from.
    pub disks: Vec<StatusDisk>,
    /// The disk bus that the guest can boot from, as `run --bus` takes it.
    pub bus: Option<String>,
    /// The network card that the guest has a driver for, as QEMU calls it.
    pub nic: Option<String>,
}

/// A disk that is exported.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct StatusDisk {
    /// The name of its file.
    pub file: String,
    /// The guest's name for it under Xen.
    pub vdev: String,
    /// Whether it is a CD.
    pub cdrom: bool,
    /// Whether writes to it are refused.
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let status = Status {
            version: "1".into(),
            pid: 7,
            images: vec!["/a".into()],
            overlays: Vec::new(),
            read_only: true,
            disks: vec![StatusDisk {
                file: "disk.raw".into(),
                vdev: "xvda".into(),
                cdrom: false,
                read_only: true,
            }],
            bus: Some("virtio".into()),
            nic: None,
        };
        let text = serde_json::to_vec(&status).unwrap();
        assert_eq!(serde_json::from_slice::<Status>(&text).unwrap(), status);
    }
}
