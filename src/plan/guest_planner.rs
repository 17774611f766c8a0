//! Planning the boot area again, from what the guest has installed by then.

use super::boot_area::BootArea;
use super::guest::GuestWish;
use super::payload::{BootSummary, Candidate, PlannedBoot, from_guest};
use super::roots::CmdlineRules;
use crate::disk::{BootPlanner, DiskBytes, Region};
use crate::fs::ReadAt;
use crate::loader::BootOrder;
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, Weak};

/// Plans the gap from what the guest has installed, as seen through the disk itself.
pub(super) struct GuestPlanner {
    /// Partitions that may hold the boot configuration, in the order in which they are tried, with
    /// their index among the rules' partitions.
    pub(super) candidates: Vec<Candidate<PartitionReader>>,
    /// Partitions of further disks, which may hold the root filesystem.
    pub(super) others: Vec<Candidate<PartitionReader>>,
    pub(super) area: BootArea,
    pub(super) wish: GuestWish,
    pub(super) rules: CmdlineRules,
    /// The outcome of the latest planning.
    pub(super) latest: Arc<Mutex<Result<BootSummary>>>,
}

impl GuestPlanner {
    fn boot(&self, candidates: &[Candidate<PartitionReader>]) -> Result<PlannedBoot> {
        from_guest(candidates, &self.others, &self.wish, &self.rules, self.area.loader())
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

    fn plan_frozen(&self, frozen: &Weak<dyn DiskBytes>) -> Vec<Region> {
        let frozen = |(index, reader): &Candidate<PartitionReader>| {
            (*index, PartitionReader { disk: Weak::clone(frozen), ..reader.clone() })
        };
        // Further disks have moments of their own.
        let candidates: Vec<_> = self.candidates.iter().map(frozen).collect();
        self.regions(&self.boot(&candidates))
    }
}

/// Summary slot before the first planning.
pub(super) fn not_planned() -> Arc<Mutex<Result<BootSummary>>> {
    Arc::new(Mutex::new(Err(Error::new(ErrorKind::NotFound, "nothing was planned yet"))))
}

/// A partition of the disk as the guest room wants to read it. Holds the disk weakly: the disk's
/// own regions hold this.
#[derive(Clone, Debug)]
pub struct PartitionReader {
    pub(super) disk: Weak<dyn DiskBytes>,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl ReadAt for PartitionReader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let gone = || io::Error::other("the disk is being closed");
        self.disk.upgrade().ok_or_else(gone)?.read_at(buf, self.start + offset)
    }

    fn size(&self) -> u64 {
        self.len
    }
}
