//! What a loader is to the rest of the program.

use super::payload::{Limits, Payload};
use crate::disk::Region;
use crate::layout::{PartitionKind, Placed, TableKind};
use std::fmt;
use std::ops::Range;

/// A program that the firmware starts from the disk.
///
/// What a loader writes lies in the *boot area*: from sector 0 up to the first of the guest's
/// partitions. The loader's own partitions are part of it.
pub trait Loader: fmt::Debug + Send + Sync {
    /// Name in options, reports and the metadata of overlays.
    fn name(&self) -> &'static str;

    /// What it is, for `--help`.
    fn about(&self) -> &'static str;

    /// What it can load; `None` for a loader that starts no kernel of the planner's choice.
    fn limits(&self) -> Option<Limits>;

    /// Partitions that it wants for itself on a disk with a `table` of this kind.
    fn partitions(&self, table: TableKind) -> Vec<WantedPartition> {
        let _ = table;
        Vec::new()
    }

    /// Bytes that it wants before the first partition, the partition table included, when it is
    /// to start `payload`.
    fn reserve(&self, payload: Option<&Payload>) -> u64;

    /// Machine code for the first bytes of sector 0, at most
    /// [`BOOTSTRAP_LEN`](crate::layout::BOOTSTRAP_LEN) bytes. It depends on `space` alone, so it
    /// stays the same when another kernel is planned.
    fn boot_code(&self, space: &Space) -> Vec<u8>;

    /// What it puts into `space`, in disk order; zeros may be left out.
    fn regions(&self, order: BootOrder<'_>, space: &Space) -> Vec<Region>;
}

/// A partition that a loader wants for itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WantedPartition {
    /// A BIOS boot partition or an EFI system partition.
    pub kind: PartitionKind,
    /// Length in bytes.
    pub len: u64,
}

/// Where on a disk a loader may put something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Space {
    /// The boot gap, in bytes of the disk: from the end of the partition table to the first
    /// partition.
    pub gap: Range<u64>,
    /// The partitions that it asked for, in the order in which it did.
    pub partitions: Vec<Placed>,
}

/// What a loader is to do.
#[derive(Clone, Copy, Debug)]
pub enum BootOrder<'a> {
    /// Start this.
    Start(&'a Payload),
    /// Print this and stop, if it can: there is nothing to start.
    Print(&'a str),
    /// The kernel is not known yet, or it is not the planner's to choose.
    Undecided,
}
