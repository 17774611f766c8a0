//! No loader: the boot area holds the partition table only.

use super::api::{BootOrder, Loader, Space};
use super::payload::{Limits, Payload};
use crate::disk::Region;
use crate::layout::SECTOR;

/// For a disk that is booted by something else.
#[derive(Debug)]
pub(super) struct NoLoader;

impl Loader for NoLoader {
    fn name(&self) -> &'static str {
        "none"
    }

    fn about(&self) -> &'static str {
        "No boot loader: the boot gap stays empty, and something else must boot the disk"
    }

    fn limits(&self) -> Option<Limits> {
        None
    }

    fn reserve(&self, _: Option<&Payload>) -> u64 {
        SECTOR
    }

    fn boot_code(&self, _: &Space) -> Vec<u8> {
        Vec::new()
    }

    fn regions(&self, _: BootOrder<'_>, _: &Space) -> Vec<Region> {
        Vec::new()
    }
}
