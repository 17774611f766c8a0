//! The interface between a loader and the rest of the program.

use super::firmware::FirmwareSet;
use super::payload::{Limits, Payload};
use crate::Result;
use crate::bytes::ReadAt;
use crate::disk::Region;
use crate::layout::{PartitionKind, Placed, TableKind};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A program that the firmware starts from the disk.
///
/// A loader writes to the *boot area*: from sector 0 to the first of the guest's partitions. The
/// loader's own partitions are part of it. On a disk whose partition table is the image's own, it
/// has the code area of the MBR and the *tail*, which is the space after the image's last sector.
pub trait Loader: fmt::Debug + Send + Sync {
    /// Name in options, reports and overlay metadata.
    fn name(&self) -> &'static str;

    /// A description for `--help`.
    fn about(&self) -> &'static str;

    /// What it can load; `None` for a loader that starts nothing.
    fn limits(&self) -> Option<Limits>;

    /// Who chooses the kernel when the disk boots.
    fn chooses(&self) -> Chooses {
        Chooses::Planner
    }

    /// Makes sure that this host has the files that the loader for `firmware` is made from.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) with the package to install.
    fn check_host(&self, firmware: FirmwareSet) -> Result<()> {
        let _ = firmware;
        Ok(())
    }

    /// Whether `code`, the first bytes of `disk`, is its boot code, perhaps of another version.
    /// `origin` is that of its space on this disk.
    fn recognizes(&self, code: &[u8], disk: &dyn ReadAt, origin: u64) -> bool {
        let _ = (code, disk, origin);
        false
    }

    /// Partitions that it needs for itself on a disk with a `table` of this type that boots under
    /// `firmware`.
    fn partitions(&self, table: TableKind, firmware: FirmwareSet) -> Vec<WantedPartition> {
        let _ = (table, firmware);
        Vec::new()
    }

    /// Bytes that it needs from its origin on to start `payload`: before the first partition, the
    /// partition table included, or in the tail.
    fn reserve(&self, payload: Option<&Payload>) -> u64;

    /// The loader for one disk, on which it may use `space`. Reads files of the host if it is made
    /// from any; nothing else in a loader does I/O.
    ///
    /// # Errors
    /// Errors from reading these files; [`TooLarge`](crate::ErrorKind::TooLarge) if the space is
    /// not sufficient.
    fn install(&self, space: &Space) -> Result<Arc<dyn InstalledLoader>>;
}

/// A loader for one disk.
pub trait InstalledLoader: fmt::Debug + Send + Sync {
    /// Machine code for the first bytes of sector 0, at most
    /// [`BOOTSTRAP_LEN`](crate::layout::BOOTSTRAP_LEN) bytes. It stays the same when another kernel
    /// is planned.
    fn boot_code(&self) -> &[u8];

    /// The regions that it puts into its space, in disk order; zeros may be left out.
    fn regions(&self, order: BootOrder<'_>) -> Vec<Region>;
}

/// Who chooses the kernel when the disk boots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chooses {
    /// The planner: the loader starts exactly the payload.
    Planner,
    /// The guest's own boot menu, which the loader reads.
    GuestMenu,
}

/// A partition that a loader needs for itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WantedPartition {
    /// A BIOS boot partition or an EFI system partition.
    pub kind: PartitionKind,
    /// Length in bytes.
    pub len: u64,
}

/// The space on a disk that a loader may use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Space {
    /// The byte of the disk from which a loader's positions count: 0, or the start of the tail.
    pub origin: u64,
    /// The boot gap, in bytes of the disk: from the end of the partition table to the first
    /// partition. On a disk whose partition table is the image's own: the tail.
    pub gap: Range<u64>,
    /// The partitions that it requested, in the same order.
    pub partitions: Vec<Placed>,
    /// The firmware that the disk boots under.
    pub firmware: FirmwareSet,
    /// Serial number for a filesystem of the loader's.
    pub volume_id: u32,
}

/// What a loader should do.
#[derive(Clone, Copy, Debug)]
pub enum BootOrder<'a> {
    /// Start this.
    Start(&'a Payload),
    /// Print this and stop, if possible: there is nothing to start.
    Print(&'a str),
    /// The kernel is not known yet, or the planner does not choose it.
    Undecided,
}
