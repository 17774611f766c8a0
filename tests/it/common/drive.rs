//! A guest's disks.

use std::path::PathBuf;

/// What a disk is plugged into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bus {
    /// virtio-blk: `/dev/vda`.
    Virtio,
    /// The IDE controller of the `pc` machine: `/dev/sda`.
    Ide,
    /// NVMe: `/dev/nvme0n1`.
    Nvme,
    /// virtio-scsi: `/dev/sda`.
    Scsi,
}

/// A disk of a guest.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(super) path: PathBuf,
    pub(super) bus: Bus,
    pub(super) cache: &'static str,
    pub(super) snapshot: bool,
    pub(super) format: &'static str,
}

impl Disk {
    /// A raw virtio disk with `cache=none,aio=threads`, as synthdisk advises.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), bus: Bus::Virtio, cache: "none", snapshot: false, format: "raw" }
    }

    /// The file is of another format than raw, as QEMU calls it.
    pub fn format(mut self, format: &'static str) -> Self {
        self.format = format;
        self
    }

    /// Plugs it into another bus.
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// QEMU's cache mode, `none` or `writeback`.
    pub fn cache(mut self, cache: &'static str) -> Self {
        self.cache = cache;
        self
    }

    /// QEMU keeps the guest's writes to itself and forgets them; the file is opened read-only.
    pub fn snapshot(mut self) -> Self {
        self.snapshot = true;
        // The temporary file may lie on a tmpfs, where O_DIRECT can fail.
        self.cache = "unsafe";
        self
    }
}
