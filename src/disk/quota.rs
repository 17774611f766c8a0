//! A limit on the storage that an overlay occupies.

use super::storage::Storage;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

/// The error of a write for which the overlay would have to grow past its limit. Its kind is
/// `StorageFull`, as if the filesystem were full.
#[derive(Clone, Copy, Debug)]
pub(super) struct LimitReached {
    limit: u64,
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the overlay has reached its limit of {} bytes (--overlay-limit)", self.limit)
    }
}

impl std::error::Error for LimitReached {}

/// Whether `e` is of a limit, not of a lack of space.
pub(super) fn is_limit(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<LimitReached>())
}

/// The limit of an overlay; without one it costs a write nothing.
#[derive(Debug)]
pub(super) struct Quota {
    /// In bytes.
    limit: AtomicU64,
    /// Bytes that writes in progress may yet add.
    reserved: Mutex<u64>,
}

/// Space for a write in progress.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    quota: &'a Quota,
    len: u64,
}

impl Quota {
    pub(super) fn unlimited() -> Self {
        Self { limit: AtomicU64::new(u64::MAX), reserved: Mutex::new(0) }
    }

    /// Set the limit, in bytes.
    pub(super) fn set(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The limit in bytes, if there is one.
    pub(super) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != u64::MAX)
    }

    /// Reserve the bytes that `len` returns, before writing them to `storage`.
    ///
    /// # Errors
    /// [`LimitReached`]; errors of the storage.
    pub(super) fn reserve(
        &self,
        storage: &dyn Storage,
        len: impl FnOnce() -> u64,
    ) -> io::Result<Option<Reservation<'_>>> {
        let Some(limit) = self.limit() else { return Ok(None) };
        let len = len();
        let mut reserved = self.reserved.lock();
        // Writes in progress may be counted twice, which is on the safe side.
        if storage.allocated()?.saturating_add(*reserved).saturating_add(len) > limit && len > 0 {
            return Err(io::Error::new(io::ErrorKind::StorageFull, LimitReached { limit }));
        }
        *reserved += len;
        Ok(Some(Reservation { quota: self, len }))
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        *self.quota.reserved.lock() -= self.len;
    }
}
