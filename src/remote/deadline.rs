//! How long fetching may take, and when it is tried again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

/// How long a read of an image may take. A guest's own driver gives up after 30 s (SCSI, in Linux)
/// and then remounts its filesystem read-only; it should get the error before.
pub(super) const READ_TIME: Duration = Duration::from_secs(20);
/// How long one attempt may take, so that a server that does not answer is asked again.
const ATTEMPT: Duration = Duration::from_secs(8);
/// The pauses between attempts begin with this one and double.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The time until which something must be done, and the attempts so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    end: Instant,
    attempts: u32,
}

impl Deadline {
    /// In `time` from now.
    pub(super) fn within(time: Duration) -> Self {
        Self { end: Instant::now() + time, attempts: 0 }
    }

    /// The time that is left, if any.
    pub(super) fn left(&self) -> Option<Duration> {
        self.end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// How long the next attempt may take; `None` if there is no time for one.
    pub(super) fn attempt(&self) -> Option<Duration> {
        self.left().map(|left| left.min(ATTEMPT))
    }

    /// Wait before the next attempt. `false` if there is no time for one.
    pub(super) fn pause(&mut self) -> bool {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.attempts.min(10)).min(LONGEST_PAUSE);
        self.attempts += 1;
        // Between half of it and all of it, so that many readers do not come back at once.
        let random = RandomState::new().hash_one(self.attempts);
        let pause = pause / 2 + pause.mul_f64((random % 1000) as f64 / 2000.0);
        if self.left().is_none_or(|left| left <= pause) {
            return false;
        }
        std::thread::sleep(pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_end() {
        let mut deadline = Deadline::within(Duration::from_millis(300));
        let mut pauses = 0;
        while deadline.pause() {
            pauses += 1;
        }
        assert!(pauses <= 3, "{pauses}");
        assert!(Deadline::within(Duration::ZERO).attempt().is_none());
        assert!(Deadline::within(Duration::from_secs(100)).attempt().unwrap() <= ATTEMPT);
    }
}
