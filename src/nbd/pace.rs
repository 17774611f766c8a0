//! How long requests take: whether it pays to hand them to other threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Requests that wait for storage take longer than this; those that find everything in memory do
/// not. Handing one to another thread and back costs a tenth of it.
const SLOW: Duration = Duration::from_micros(200);

/// Requests that take about equally long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    Read,
    Write,
    /// What waits until bytes are on stable storage.
    Flush,
}

/// The recent average duration of each class, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Paces([AtomicU64; 3]);

impl Paces {
    /// Count a request.
    pub fn took(&self, class: Class, time: Duration) {
        let pace = &self.0[class as usize];
        let average = pace.load(Ordering::Relaxed);
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // An update by another thread that is lost does not matter.
        pace.store(average - average / 4 + time / 4, Ordering::Relaxed);
    }

    /// Whether requests of this class wait for storage.
    pub fn is_slow(&self, class: Class) -> bool {
        u128::from(self.0[class as usize].load(Ordering::Relaxed)) > SLOW.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_slow_as_long_as_its_requests_are() {
        let paces = Paces::default();
        assert!(!paces.is_slow(Class::Read));
        paces.took(Class::Read, Duration::from_millis(5));
        assert!(paces.is_slow(Class::Read) && !paces.is_slow(Class::Write));
        let fast = (0..100).take_while(|_| {
            paces.took(Class::Read, Duration::from_micros(5));
            paces.is_slow(Class::Read)
        });
        assert!(fast.count() < 20);
        paces.took(Class::Flush, Duration::MAX);
        paces.took(Class::Flush, Duration::MAX);
        assert!(paces.is_slow(Class::Flush));
    }
}
