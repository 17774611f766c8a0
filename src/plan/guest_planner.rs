//! Replans the boot area from what is now installed in the guest.

use super::boot_area::BootArea;
use super::payload::from_guest;
use super::planned_disk::PartitionReader;
use super::root_resolver::RootResolver;
use super::types::{BootSummary, Candidate, GuestBootRequest, PlannedBoot};
use crate::bytes::SharedBytes;
use crate::disk::{BootPlanner, Region};
use crate::loader::BootOrder;
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Plans the boot area from what is installed in the guest, read through the disk itself.
pub(super) struct GuestPlanner {
    /// Partitions that may hold the boot configuration, in the order in which they are tried, with
    /// their index among the resolver's partitions.
    pub(super) candidates: Vec<Candidate<PartitionReader>>,
    /// Partitions of further disks that may hold the root filesystem.
    pub(super) others: Vec<Candidate<PartitionReader>>,
    pub(super) area: BootArea,
    pub(super) request: GuestBootRequest,
    pub(super) resolver: RootResolver,
    /// The outcome of the latest planning.
    pub(super) latest: Arc<Mutex<Result<BootSummary>>>,
}

impl GuestPlanner {
    fn boot(&self, candidates: &[Candidate<PartitionReader>]) -> Result<PlannedBoot> {
        from_guest(candidates, &self.others, &self.request, &self.resolver, self.area.loader())
    }

    fn regions(&self, boot: &Result<PlannedBoot>) -> Vec<Region> {
        match boot {
            Ok(boot) => self.area.regions(BootOrder::Start(&boot.payload)),
            Err(e) => self.area.regions(BootOrder::Print(&e.to_string())),
        }
    }
}

impl BootPlanner for GuestPlanner {
    fn plan(&mut self) -> Vec<Region> {
        let boot = self.boot(&self.candidates);
        let regions = self.regions(&boot);
        *self.latest.lock() = boot.map(|boot| boot.summary);
        regions
    }

    fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Vec<Region> {
        let frozen = |(index, reader): &Candidate<PartitionReader>| {
            (*index, PartitionReader { disk: Weak::clone(frozen), ..reader.clone() })
        };
        // Only this disk is read from the snapshot: further disks have snapshots of other moments.
        let candidates: Vec<_> = self.candidates.iter().map(frozen).collect();
        self.regions(&self.boot(&candidates))
    }
}

/// Initial value of the summary, before the first planning.
pub(super) fn not_planned() -> Arc<Mutex<Result<BootSummary>>> {
    Arc::new(Mutex::new(Err(Error::new(ErrorKind::NotFound, "nothing was planned yet"))))
}
