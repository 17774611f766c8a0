//! No loader: the boot area holds the partition table only.

use super::api::{BootOrder, InstalledLoader, Loader, Space};
use super::payload::{Limits, Payload};
use crate::Result;
use crate::disk::Region;
use crate::layout::SECTOR;
use std::sync::Arc;

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

    fn install(&self, _: &Space) -> Result<Arc<dyn InstalledLoader>> {
        Ok(Arc::new(Self))
    }
}

impl InstalledLoader for NoLoader {
    fn boot_code(&self) -> &[u8] {
        &[]
    }

    fn regions(&self, _: BootOrder<'_>) -> Vec<Region> {
        Vec::new()
    }
}
