//! How often the boot gap is planned again.

use std::time::{Duration, Instant};

/// Planning time that may be spent without any pause. An honest guest changes its kernel a few
/// times a day, and planning takes a fraction of a second.
const CREDIT: Duration = Duration::from_secs(5);
/// One second of credit is earned in this many seconds.
const EARNED_IN: u32 = 10;
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Keeps a guest that writes to its files and reads the gap in turn from planning all the time: in
/// the long run, planning takes a tenth of the time.
#[derive(Debug)]
pub(super) struct Pace {
    credit: Duration,
    /// How much more than the credit was spent.
    debt: Duration,
    at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { credit: CREDIT, debt: Duration::ZERO, at: now }
    }

    /// How long to wait at `now` before planning.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        self.earn(now);
        self.debt.saturating_mul(EARNED_IN)
    }

    /// Planning took `cost` and ended at `now`.
    pub(super) fn spend(&mut self, cost: Duration, now: Instant) {
        self.earn(now);
        let over = cost.saturating_sub(self.credit);
        self.credit = self.credit.saturating_sub(cost);
        self.debt = (self.debt + over).min(PAUSE_MAX / EARNED_IN);
    }

    fn earn(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.at) / EARNED_IN;
        self.at = now;
        let rest = earned.saturating_sub(self.debt);
        self.debt = self.debt.saturating_sub(earned);
        self.credit = (self.credit + rest).min(CREDIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planning_takes_a_tenth_of_the_time_at_most() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(now);
        let (cost, mut spent) = (Duration::from_millis(400), Duration::ZERO);
        let mut paused = 0;
        while now < start + Duration::from_secs(1000) {
            let pause = pace.pause(now);
            assert!(pause <= PAUSE_MAX);
            paused += u32::from(!pause.is_zero());
            now += pause + cost;
            pace.spend(cost, now);
            spent += cost;
        }
        assert!(spent < CREDIT + Duration::from_secs(110), "{spent:?}");
        assert!(spent > CREDIT + Duration::from_secs(80), "{spent:?}");
        assert!(paused > 100);
    }

    #[test]
    fn now_and_then_is_free() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..1000 {
            for _ in 0..4 {
                assert_eq!(pace.pause(now), Duration::ZERO);
                now += Duration::from_secs(1);
                pace.spend(Duration::from_secs(1), now);
            }
            now += Duration::from_secs(60);
        }
        // One that took very long is not held against the guest for ever.
        pace.spend(Duration::from_secs(600), now);
        assert_eq!(pace.pause(now), PAUSE_MAX);
        assert_eq!(pace.pause(now + PAUSE_MAX), Duration::ZERO);
    }
}
