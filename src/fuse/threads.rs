//! Counting the threads of this process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long starting threads may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long threads that have done their work may take to disappear.
const SETTLING: Duration = Duration::from_secs(2);

/// `/proc/self/status`, opened while this process could open files.
#[derive(Debug)]
pub(super) struct ThreadCounter(File);

impl ThreadCounter {
    /// # Errors
    /// Errors of opening the file.
    pub(super) fn open() -> io::Result<Self> {
        File::open("/proc/self/status").map(Self)
    }

    /// Number of threads that this process has now.
    ///
    /// # Errors
    /// Errors of reading; `InvalidData` when the file has no such line.
    pub(super) fn now(&self) -> io::Result<usize> {
        let mut text = [0; 4096];
        let len = self.0.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..len]);
        let number = text.lines().find_map(|line| line.strip_prefix("Threads:"));
        number.and_then(|n| n.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Number of threads of a process that should have one: threads that were joined are counted
    /// until the kernel has removed them.
    ///
    /// # Errors
    /// As [`ThreadCounter::now`].
    pub(super) fn settled(&self) -> io::Result<usize> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let now = self.now()?;
            if now <= 1 || Instant::now() > deadline {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Wait until this process has `wanted` threads, or until `failed`.
    ///
    /// # Errors
    /// As [`ThreadCounter::now`]; `TimedOut` when that takes unreasonably long.
    pub(super) fn wait_for(&self, wanted: usize, failed: impl Fn() -> bool) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.now()? < wanted && !failed() {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted() {
        let counter = ThreadCounter::open().unwrap();
        // Other tests of this program start and end threads, too.
        assert!(counter.now().unwrap() >= 2, "the main thread and this one");
        counter.wait_for(2, || false).unwrap();
        counter.wait_for(usize::MAX, || true).unwrap();
    }
}
