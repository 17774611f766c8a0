//! Limits on the total cost of reading a guest.
//!
//! A guest decides how much there is to read: directories with a million names, menus that expand
//! to gigabytes, paths through many symlinks. Whoever opens a filesystem gives it a budget, and
//! everything that reads from that filesystem charges it. All looks of one plan share one budget.
//! An honest guest uses a small part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{Error, ErrorKind, Result};

/// A resource that is charged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cost {
    /// Path components that were looked up.
    Lookups,
    /// Bytes of directories, trees and journals that were searched.
    SearchedBytes,
    /// Names returned by directory listings.
    Names,
    /// Bytes of files that were read whole.
    FileBytes,
    /// Words of boot menus, both as written and as expanded.
    MenuWords,
    /// Bytes of boot menus: of their files, and of expanded variables.
    MenuBytes,
    /// Bytes of initrds and modules, both as stored and as unpacked.
    UnpackedBytes,
    /// Entries of initrds.
    Entries,
}

/// Limit of each cost, in the order of [`Cost`], and what it counts.
const LIMITS: [(u64, &str); 8] = [
    (200_000, "lookups"),
    (2 << 30, "bytes of directories to search"),
    (600_000, "names in directories"),
    (256 << 20, "bytes of files"),
    (400_000, "words"),
    (16 << 20, "bytes of text"),
    (1 << 30, "bytes in unpacked initrds"),
    (400_000, "entries in initrds"),
];

/// Longest time from the creation of a budget to its last charge. On an idle machine, the limits
/// above stop a hostile guest long before.
const TIME: Duration = Duration::from_secs(45);

/// The budget of a look into a guest: of one plan, or of one report. Clones share it, so several
/// filesystems of one guest are read within one budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    left: [AtomicU64; LIMITS.len()],
    deadline: Mutex<Instant>,
    /// Why something was refused first, initrds apart.
    refused: Mutex<Option<String>>,
}

impl Default for Budget {
    fn default() -> Self {
        let left = LIMITS.map(|(limit, _)| AtomicU64::new(limit));
        let deadline = Mutex::new(Instant::now() + TIME);
        Self(Arc::new(Inner { left, deadline, refused: Mutex::new(None) }))
    }
}

impl Budget {
    /// A full budget, whose time starts now.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills the budget again, and starts its time again. What is asked of a guest after it was
    /// planned, such as bytes of its kernel, gets a budget of its own this way.
    pub fn renew(&self) {
        for (left, (limit, _)) in self.0.left.iter().zip(LIMITS) {
            left.store(limit, Relaxed);
        }
        *self.0.deadline.lock() = Instant::now() + TIME;
        *self.0.refused.lock() = None;
    }

    /// Subtracts `amount` from what is left for `cost`.
    ///
    /// # Errors
    /// `TooLarge` if less than `amount` is left (all later charges for `cost` then fail too), or if
    /// the time is up.
    pub fn charge(&self, cost: Cost, amount: u64) -> Result<()> {
        let (limit, what) = LIMITS[cost as usize];
        let left = &self.0.left[cost as usize];
        // Threads may share a budget, so the subtraction must be atomic.
        let taken = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(amount));
        if taken.is_err() {
            left.store(0, Relaxed);
            return Err(self.refuse(cost, format!("more than {limit} {what}")));
        }
        if Instant::now() > *self.0.deadline.lock() {
            let why = format!("looking into the guest takes longer than {} s", TIME.as_secs());
            return Err(self.refuse(cost, why));
        }
        Ok(())
    }

    fn refuse(&self, cost: Cost, why: String) -> Error {
        if !matches!(cost, Cost::UnpackedBytes | Cost::Entries) {
            self.0.refused.lock().get_or_insert_with(|| why.clone());
        }
        Error::new(ErrorKind::TooLarge, why)
    }

    /// Why the budget is used up, if it is. What was found in the guest is then incomplete, because
    /// many looks treat what they cannot read as missing. Initrds do not count: when one cannot be
    /// read to its end, the guest boots with a warning.
    pub fn refused(&self) -> Option<String> {
        self.0.refused.lock().clone()
    }

    /// Like [`charge`](Self::charge), for an access to `path`, which the error names.
    ///
    /// # Errors
    /// As [`charge`](Self::charge).
    pub(super) fn charge_for(&self, path: &str, cost: Cost, amount: u64) -> Result<()> {
        self.charge(cost, amount).map_err(|e| {
            let message = format!("looking for {path} in the guest takes too much reading");
            Error::with_source(ErrorKind::TooLarge, message, e)
        })
    }

    /// Gives back a charge for reading that turned out not to be a search.
    pub(crate) fn refund(&self, cost: Cost, amount: u64) {
        let limit = LIMITS[cost as usize].0;
        let back = |left: u64| Some(left.saturating_add(amount).min(limit));
        // The closure always returns a value.
        let _ = self.0.left[cost as usize].fetch_update(Relaxed, Relaxed, back);
    }

    /// How much of `cost` is left.
    #[cfg(test)]
    pub(crate) fn left(&self, cost: Cost) -> u64 {
        self.0.left[cost as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_and_refusals_stay() {
        let budget = Budget::new();
        let other = budget.clone();
        budget.charge(Cost::MenuWords, 399_999).unwrap();
        other.charge(Cost::MenuWords, 1).unwrap();
        let e = budget.charge(Cost::MenuWords, 1).unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (ErrorKind::TooLarge, "more than 400000 words")
        );
        other.charge(Cost::Names, 1).unwrap();
        budget.charge(Cost::Names, 600_000).unwrap_err();
        other.charge(Cost::Names, 1).unwrap_err();
        other.refund(Cost::Names, u64::MAX);
        assert_eq!(other.left(Cost::Names), 600_000);
        assert_eq!(budget.refused().as_deref(), Some("more than 400000 words"));
        budget.renew();
        assert_eq!((other.left(Cost::MenuWords), other.refused()), (400_000, None));
        other.charge(Cost::MenuWords, 1).unwrap();
    }

    #[test]
    fn an_initrd_that_is_too_large_does_not_count() {
        let budget = Budget::new();
        budget.charge(Cost::UnpackedBytes, u64::MAX).unwrap_err();
        assert_eq!(budget.refused(), None);
    }

    #[test]
    fn time_ends() {
        let budget = Budget::new();
        *budget.0.deadline.lock() = Instant::now() - TIME;
        let e = budget.charge(Cost::Lookups, 0).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge);
        assert_eq!(budget.refused(), Some(e.to_string()));
        budget.renew();
        budget.charge(Cost::Lookups, 0).unwrap();
    }
}
