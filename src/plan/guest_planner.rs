//! Replans the boot area from what is now installed in the guest.

use super::boot_area::BootArea;
use super::candidates::LivePartition;
use super::examine::{BootQuestion, Examiner};
use super::payload::from_guest;
use super::root_resolver::RootResolver;
use super::types::{GuestBootRequest, PlannedBoot};
use super::volumes::LiveVolumes;
use crate::bytes::SharedBytes;
use crate::disk::{BootPlanner, GapPlan, ReadSet, Region, Validity};
use crate::loader::BootOrder;
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a plan is shown that could not be made. The cause may be the host's: no memory, too
/// much load.
const RETRY: Duration = Duration::from_secs(10);

/// Plans the boot area from what is installed in the guest, read through the disk itself.
pub(super) struct GuestPlanner {
    /// Partitions that may hold the boot configuration, in the order in which they are tried.
    pub(super) candidates: Vec<LivePartition>,
    /// Partitions of further disks that may hold the root filesystem.
    pub(super) others: Vec<LivePartition>,
    /// Logical volumes, which are tried after the candidates.
    pub(super) volumes: LiveVolumes,
    pub(super) area: BootArea,
    pub(super) request: GuestBootRequest,
    pub(super) resolver: RootResolver,
    /// The outcome of the latest planning.
    pub(super) latest: Arc<Mutex<Result<PlannedBoot>>>,
    /// For the first plan, when it belongs to the planning of the whole guest. Each later one has a
    /// process and a budget of its own.
    pub(super) first: Option<Examiner>,
}

impl GuestPlanner {
    fn boot(
        &self,
        examiner: &Examiner,
        (candidates, volumes): (&[LivePartition], &LiveVolumes),
        reads: Option<&Arc<ReadSet>>,
    ) -> Result<PlannedBoot> {
        let place = |p: &LivePartition| p.place(examiner, reads);
        // A write to a further disk is not noticed.
        let other = |p: &LivePartition| p.place(examiner, None);
        let mut candidates = candidates.iter().map(place).collect::<Result<Vec<_>>>()?;
        candidates.extend(volumes.places(examiner, reads)?);
        let question = BootQuestion {
            candidates,
            others: self.others.iter().map(other).collect::<Result<_>>()?,
            request: self.request.clone(),
            resolver: self.resolver.clone(),
            loader: self.area.loader(),
            firmware: self.area.firmware(),
        };
        from_guest(examiner, question)
    }

    fn regions(&self, boot: &Result<PlannedBoot>) -> Vec<Region> {
        match boot {
            Ok(boot) => self.area.regions(BootOrder::Start(&boot.payload)),
            Err(e) => self.area.regions(BootOrder::Print(&e.to_string())),
        }
    }
}

impl BootPlanner for GuestPlanner {
    fn plan(&mut self, reads: &Arc<ReadSet>) -> GapPlan {
        let examiner = self.first.take().unwrap_or_else(Examiner::new);
        let boot = self.boot(&examiner, (&self.candidates, &self.volumes), Some(reads));
        let regions = self.regions(&boot);
        let unsure = |e: &Error| matches!(e.kind(), ErrorKind::Io | ErrorKind::TooLarge);
        let validity = match &boot {
            Err(e) if unsure(e) => Validity::AtMost(RETRY),
            _ => Validity::UntilWritten,
        };
        *self.latest.lock() = boot;
        GapPlan { regions, validity }
    }

    fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Vec<Region> {
        // Only this disk is read from the snapshot: further disks have snapshots of other moments.
        let candidates: Vec<_> = self.candidates.iter().map(|p| p.on(frozen)).collect();
        let volumes = self.volumes.on(frozen);
        self.regions(&self.boot(&Examiner::new(), (&candidates, &volumes), None))
    }
}

/// Initial value of the outcome, before the first planning.
pub(super) fn not_planned() -> Arc<Mutex<Result<PlannedBoot>>> {
    Arc::new(Mutex::new(Err(never_planned())))
}

/// The error before the first planning.
pub(super) fn never_planned() -> Error {
    Error::new(ErrorKind::NotFound, "nothing was planned yet")
}
