//! What the targets of one server share: whether serving has to end, how much may still be written, and
//! which write failed first.

use parking_lot::Mutex;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Overlays store whole blocks of this many bytes.
const BLOCK: u64 = 4096;

/// The state of one server.
#[derive(Debug, Default)]
pub(super) struct ServerState {
    ending: AtomicBool,
    room: Option<Room>,
    failure: Mutex<Option<io::Error>>,
}

/// Limits what is written.
#[derive(Debug)]
struct Room {
    /// Bytes that may be written in all.
    limit: u64,
    left: AtomicU64,
}

impl ServerState {
    /// Of a server that stores at most `limit` bytes, however often they are overwritten. Further writes
    /// fail with [`io::ErrorKind::StorageFull`].
    pub fn with_limit(limit: u64) -> Self {
        Self { room: Some(Room { limit, left: AtomicU64::new(limit) }), ..Self::default() }
    }

    /// Give up what takes long, because serving has to end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Count a write of `len` bytes at `offset`, before it is done.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] beyond the limit.
    pub fn count_write(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.room.is_none() || len == 0 {
            return Ok(());
        }
        let blocks = offset.saturating_add(len).div_ceil(BLOCK) - offset / BLOCK;
        self.count(blocks)
    }

    /// Count a range that becomes a hole: at most its first and its last block are stored.
    ///
    /// # Errors
    /// As [`ServerState::count_write`].
    pub fn count_hole(&self) -> io::Result<()> {
        self.count(2)
    }

    fn count(&self, blocks: u64) -> io::Result<()> {
        let Some(Room { limit, left }) = &self.room else { return Ok(()) };
        let len = blocks.saturating_mul(BLOCK);
        let take = |left: u64| left.checked_sub(len);
        match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => {
                let what = format!("they are more than {} MiB", limit >> 20);
                Err(io::Error::new(io::ErrorKind::StorageFull, what))
            }
        }
    }

    /// Remember the first error of a write; what fails because serving ends is none.
    pub fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(e) = &result {
            let mut failure = self.failure.lock();
            if failure.is_none() && !self.is_ending() {
                *failure = Some(io::Error::new(e.kind(), e.to_string()));
            }
        }
        result
    }

    /// The first error of a write, a zeroing or a flush.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_in_blocks_up_to_the_limit() {
        let state = ServerState::with_limit(5 * BLOCK);
        state.count_write(BLOCK - 1, 2).unwrap();
        state.count_write(7, 0).unwrap();
        state.count_hole().unwrap();
        let e = state.count_write(0, BLOCK + 1).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::StorageFull);
        assert_eq!(state.count_write(0, u64::MAX).unwrap_err().kind(), io::ErrorKind::StorageFull);
        // What is still left can be used.
        state.count_write(0, BLOCK).unwrap();
        state.count_write(0, 1).unwrap_err();
        ServerState::default().count_write(0, u64::MAX).unwrap();
    }

    #[test]
    fn the_first_error_is_remembered() {
        let state = ServerState::default();
        let failed = |errno| Err::<(), _>(io::Error::from_raw_os_error(errno));
        state.note(Ok(())).unwrap();
        assert!(state.take_failure().is_none());
        state.note(failed(libc::ENOSPC)).unwrap_err();
        state.note(failed(libc::EIO)).unwrap_err();
        assert_eq!(state.take_failure().unwrap().kind(), io::ErrorKind::StorageFull);
        state.end();
        state.note(failed(libc::ESHUTDOWN)).unwrap_err();
        assert!(state.take_failure().is_none());
    }
}
