//! Waiting for the clock, for tests whose results must not depend on it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Waits until the time in whole seconds has changed `n` times: what filesystems write into their
/// superblocks and inodes, and FAT in steps of two seconds, is different from then on.
pub fn next_second(n: u64) {
    let second = || now().as_secs();
    let until = second() + n;
    while second() < until {
        let rest = 1_000_000_000 - now().subsec_nanos();
        std::thread::sleep(Duration::from_nanos(rest.into()));
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970")
}
