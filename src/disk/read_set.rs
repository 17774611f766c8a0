//! The parts of a disk that a plan of its boot gap was made from.

use super::atomic_bitmap::AtomicBitmap;
use std::sync::atomic::{Ordering, fence};

/// Precision in bytes: a block of nearly every filesystem.
const UNIT: u64 = 4096;

/// The parts of a disk that planning has read. Only a write to one of them can change the plan.
///
/// A reader notes what it reads *before* it reads, and a writer looks *after* its write. So a
/// writer that finds nothing noted has finished its write before the reader reads.
#[derive(Debug)]
pub struct ReadSet {
    marks: AtomicBitmap,
    len: u64,
}

impl ReadSet {
    /// An empty set for a disk of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self { marks: AtomicBitmap::new(UNIT, len), len }
    }

    /// Must be called before `len` bytes at `offset` are read.
    pub fn note(&self, offset: u64, len: u64) {
        if len > 0 {
            self.marks.add(offset, self.end(offset, len));
        }
        // Orders the note before the read; the counterpart is in `contains`.
        fence(Ordering::SeqCst);
    }

    /// Whether any of `len` bytes at `offset` was noted; must be called after they were written.
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        // Orders the write before the look; the counterpart is in `note`.
        fence(Ordering::SeqCst);
        let end = self.end(offset, len);
        self.marks.first(true, offset, end) < end
    }

    fn end(&self, offset: u64, len: u64) -> u64 {
        offset.saturating_add(len).min(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_noted_whole() {
        let set = ReadSet::new(1 << 40);
        set.note(5 * UNIT + 7, 1);
        set.note(1 << 39, 3 * UNIT);
        set.note(9 * UNIT, 0);
        for (offset, len, expected) in [
            (0, 5 * UNIT, false),
            (0, 5 * UNIT + 1, true),
            (5 * UNIT, 1, true),
            (6 * UNIT, 10 * UNIT, false),
            ((1 << 39) + UNIT, 1, true),
            ((1 << 39) + 3 * UNIT, u64::MAX, false),
            (6 * UNIT, 0, false),
        ] {
            assert_eq!(set.contains(offset, len), expected, "{offset} {len}");
        }
    }
}
