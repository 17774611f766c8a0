//! The status of an export: one type for the process that serves it and for all programs that read
//! it.

use super::file::ExportedFile;
use crate::qemu::FirmwareKind;
use crate::sandbox::Confined;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Name of the file in which a mount shows its [`Status`] as JSON; directory listings omit it.
pub const STATUS_FILE: &str = ".synthdisk.json";

/// What is exported, and by which process.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the serving program.
    pub version: String,
    /// The process that keeps the mount: it lives as long as anything of the mount does.
    pub pid: u32,
    /// The images, as absolute paths.
    pub images: Vec<PathBuf>,
    /// The persistent overlays, as absolute paths.
    pub overlays: Vec<PathBuf>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The disks, starting with the one that the firmware boots from.
    pub disks: Vec<StatusDisk>,
    /// The boot loader on the first disk, by its name in options.
    pub bootloader: Option<String>,
    /// The disk bus that the guest can boot from, as a value for `run --bus`.
    pub bus: Option<String>,
    /// The network card that the guest has a driver for; QEMU's name.
    pub nic: Option<String>,
    /// The firmware of a machine for the guest.
    #[serde(default)]
    pub firmware: FirmwareKind,
    /// How the serving process is confined.
    #[serde(default)]
    pub sandbox: Confined,
}

impl Status {
    /// The status as of now, as JSON; `files` are what is exported. Empty if a path is not UTF-8.
    pub fn text<'a>(&self, files: impl Iterator<Item = &'a ExportedFile> + Clone) -> Vec<u8> {
        let mut status = self.clone();
        for disk in &mut status.disks {
            let shown = files.clone().find(|file| file.name == disk.file);
            let shown = shown.and_then(ExportedFile::whole);
            disk.overlay_bytes = shown.map_or(0, |disk| disk.overlay_allocated());
        }
        serde_json::to_vec_pretty(&status).unwrap_or_default()
    }
}

/// An exported disk.
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
    /// Bytes of storage that its overlay occupies, when the status was read.
    pub overlay_bytes: u64,
    /// The limit of that, if one was given.
    pub overlay_limit: Option<u64>,
    /// The bytes, from and up to, that are planned again when the guest's boot files change.
    #[serde(default)]
    pub boot_area: Option<(u64, u64)>,
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
                overlay_bytes: 4096,
                overlay_limit: Some(1 << 20),
                boot_area: Some((0, 1 << 20)),
            }],
            bootloader: Some("direct".into()),
            bus: Some("virtio".into()),
            nic: None,
            firmware: FirmwareKind::Uefi,
            sandbox: Confined::default(),
        };
        let text = serde_json::to_vec(&status).unwrap();
        assert_eq!(serde_json::from_slice::<Status>(&text).unwrap(), status);
    }
}
