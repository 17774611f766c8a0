//! Planning the boot gap again: when it is due, and what makes it due.

use super::pace::Pace;
use super::read_set::ReadSet;
use super::region::Region;
use super::sync::{AtomicBool, Mutex, RwLock};
use crate::bytes::SharedBytes;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Plans the content of the boot gap.
///
/// The guest may install a kernel and reboot while the disk is mounted, so the gap is planned again
/// when it is read after something that the plan was made from was written.
pub trait BootPlanner: Send {
    /// Plans for the current state of the disk. Every read of the disk, during this call or later
    /// by the regions that it returns, must be noted in `reads`. If nothing bootable is found, the
    /// regions make the loader report that.
    fn plan(&mut self, reads: &Arc<ReadSet>) -> GapPlan;

    /// The regions for the disk's bytes at an earlier moment, which are in `frozen`. They must hold
    /// `frozen` weakly, and the call must change nothing else.
    fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Vec<Region>;
}

/// A plan of the boot gap.
#[derive(Debug)]
pub struct GapPlan {
    /// Regions without gaps, in order: at least those of the bytes that plans may change.
    pub regions: Vec<Region>,
    /// How long it is valid.
    pub validity: Validity,
}

/// How long a plan of the boot gap is valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validity {
    /// Until something that it was made from is written.
    UntilWritten,
    /// Until anything is written, and at most this long: the guest could not be examined, which may
    /// be different next time.
    AtMost(Duration),
}

/// The parts of the disk that plans were made from.
struct Reads {
    /// Of the plan that is shown. `None` for a plan that ends by itself: what it did not come to
    /// read counts too.
    shown: Option<Arc<ReadSet>>,
    /// Of the plan that is being made.
    next: Option<Arc<ReadSet>>,
}

/// State for planning the gap again.
pub(super) struct Replanning {
    planner: Mutex<Box<dyn BootPlanner>>,
    pace: Mutex<Pace>,
    /// The bytes of the disk that plans may change.
    planned: Range<u64>,
    /// Set by writes to what the plan was made from, cleared before the gap is planned again.
    stale: AtomicBool,
    /// Set while the gap is being planned: `stale` may already be cleared while the table is still
    /// the old one.
    planning: AtomicBool,
    /// When the plan ends by itself.
    expires: Mutex<Option<Instant>>,
    reads: RwLock<Reads>,
    len: u64,
}

impl Replanning {
    /// For a disk of `len` bytes, whose bytes in `planned` were planned from `reads`.
    pub(super) fn new(
        planner: Box<dyn BootPlanner>,
        planned: Range<u64>,
        reads: Arc<ReadSet>,
        len: u64,
    ) -> Self {
        Self {
            planner: Mutex::new(planner),
            pace: Mutex::new(Pace::new(Instant::now())),
            planned,
            stale: AtomicBool::new(false),
            planning: AtomicBool::new(false),
            expires: Mutex::new(None),
            reads: RwLock::new(Reads { shown: Some(reads), next: None }),
            len,
        }
    }

    /// The bytes of the disk that plans may change.
    pub(super) fn planned(&self) -> &Range<u64> {
        &self.planned
    }

    /// Whether the plan that is shown ends by itself.
    pub(super) fn is_provisional(&self) -> bool {
        self.expires.lock().is_some()
    }

    /// Records that `len` bytes at `offset` were written.
    pub(super) fn written(&self, offset: u64, len: u64) {
        if offset >= self.planned.start && offset.saturating_add(len) <= self.planned.end {
            return;
        }
        let reads = self.reads.read();
        let read = |set: &Arc<ReadSet>| set.contains(offset, len);
        if reads.shown.as_ref().is_none_or(read) || reads.next.as_ref().is_some_and(read) {
            // Pairs with the swap in `refresh`: the thread that clears the flag sees the write.
            // This store is also in one total order with the export's subsequent check whether it
            // holds copies.
            self.stale.store(true, Ordering::SeqCst);
        }
    }

    /// Whether bytes of `range` are planned, and may have to be planned again.
    fn is_due(&self, range: &Range<u64>) -> bool {
        if range.start >= self.planned.end || range.end <= self.planned.start {
            return false;
        }
        if self.expires.lock().take_if(|at| *at <= Instant::now()).is_some() {
            self.stale.store(true, Ordering::SeqCst);
        }
        // In this order: a thread that sees `stale` cleared sees `planning` set until the table is
        // new.
        self.stale.load(Ordering::SeqCst) || self.planning.load(Ordering::SeqCst)
    }

    /// Plans the gap again if a read of `range` has to see a new plan; `show` makes the disk show
    /// it. Waits first if the guest has caused too much planning lately.
    pub(super) fn refresh(&self, range: &Range<u64>, show: impl FnOnce(Vec<Region>)) {
        while self.is_due(range) {
            // The planner itself reads only partitions, so it never gets here.
            let mut planner = self.planner.lock();
            if !self.stale.load(Ordering::SeqCst) {
                return;
            }
            let pause = self.pace.lock().pause(Instant::now());
            if pause.is_zero() {
                let start = Instant::now();
                self.plan(&mut **planner, show);
                let now = Instant::now();
                self.pace.lock().spend(now - start, now);
                return;
            }
            // A snapshot may be taken meanwhile.
            drop(planner);
            std::thread::sleep(pause.min(Duration::from_millis(100)));
        }
    }

    /// Plans the gap whether or not something was written, without a pause.
    pub(super) fn plan_now(&self, show: impl FnOnce(Vec<Region>)) {
        self.plan(&mut **self.planner.lock(), show);
    }

    fn plan(&self, planner: &mut dyn BootPlanner, show: impl FnOnce(Vec<Region>)) {
        let next = Arc::new(ReadSet::new(self.len));
        self.planning.store(true, Ordering::SeqCst);
        self.reads.write().next = Some(Arc::clone(&next));
        // Cleared first: a write during planning makes the gap stale again.
        self.stale.store(false, Ordering::SeqCst);
        let plan = planner.plan(&next);
        show(plan.regions);
        let (shown, expires) = match plan.validity {
            Validity::UntilWritten => (Some(next), None),
            Validity::AtMost(time) => (None, Some(Instant::now() + time)),
        };
        *self.reads.write() = Reads { shown, next: None };
        *self.expires.lock() = expires;
        self.planning.store(false, Ordering::SeqCst);
    }

    /// The regions of the gap for what `frozen` shows.
    pub(super) fn plan_frozen(&self, frozen: &Weak<SharedBytes>) -> Vec<Region> {
        self.planner.lock().plan_frozen(frozen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one block in each plan, and gives up after that.
    struct GivesUp;

    impl BootPlanner for GivesUp {
        fn plan(&mut self, reads: &Arc<ReadSet>) -> GapPlan {
            reads.note(8192, 1);
            GapPlan { regions: vec![], validity: Validity::AtMost(Duration::from_secs(3600)) }
        }

        fn plan_frozen(&self, _: &Weak<SharedBytes>) -> Vec<Region> {
            vec![]
        }
    }

    /// What would have been read next is not known.
    #[test]
    fn any_write_may_help_a_plan_that_was_given_up() {
        let reads = Arc::new(ReadSet::new(1 << 20));
        let replanning = Replanning::new(Box::new(GivesUp), 0..4096, reads, 1 << 20);
        let planned = || {
            let mut planned = false;
            replanning.refresh(&(0..512), |_| planned = true);
            planned
        };
        replanning.written(65536, 1);
        assert!(!planned(), "nothing was read for the first plan");
        replanning.plan_now(|_| ());
        assert!(!planned());
        replanning.written(65536, 1);
        assert!(planned());
        replanning.written(512, 1);
        assert!(!planned(), "in the gap itself");
    }
}
