//! A grow-only set of fixed-size units of a disk, read and extended without locks.

use super::sync::AtomicU64;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// Words per chunk. A chunk is allocated (32 KiB) when the first of its 262,144 units is added.
const WORDS: u64 = 4096;
const CHUNK: u64 = WORDS * 64;

/// The set. Offsets in bytes; the set contains whole units.
#[derive(Debug)]
pub(super) struct AtomicBitmap {
    unit: u64,
    chunks: Vec<OnceLock<Box<[AtomicU64]>>>,
}

impl AtomicBitmap {
    /// An empty set of units of `unit` bytes on a disk of `len` bytes.
    pub(super) fn new(unit: u64, len: u64) -> Self {
        let chunks = len.div_ceil(unit).div_ceil(CHUNK);
        Self { unit, chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    fn chunk(&self, unit: u64) -> Option<&[AtomicU64]> {
        self.chunks.get((unit / CHUNK) as usize)?.get().map(|words| &words[..])
    }

    /// Whether the set contains the unit of byte `at`.
    pub(super) fn has(&self, at: u64) -> bool {
        let unit = at / self.unit;
        self.chunk(unit).is_some_and(|words| {
            let word = words[(unit % CHUNK / 64) as usize].load(Ordering::SeqCst);
            word & (1 << (unit % 64)) != 0
        })
    }

    /// The first byte of `[at, end)` that is in the set, or not in it if `value` is false; `end` if
    /// there is none.
    pub(super) fn first(&self, value: bool, at: u64, end: u64) -> u64 {
        let mut unit = at / self.unit;
        let stop = end.div_ceil(self.unit);
        while unit < stop {
            let Some(words) = self.chunk(unit) else {
                if !value {
                    break;
                }
                unit = (unit / CHUNK + 1) * CHUNK;
                continue;
            };
            let word = words[(unit % CHUNK / 64) as usize].load(Ordering::SeqCst);
            let wanted = if value { word } else { !word } >> (unit % 64);
            if wanted != 0 {
                unit += u64::from(wanted.trailing_zeros());
                break;
            }
            unit = (unit / 64 + 1) * 64;
        }
        (unit * self.unit).clamp(at, end.max(at))
    }

    /// Add all units that overlap `[at, end)`.
    pub(super) fn add(&self, at: u64, end: u64) {
        let mut unit = at / self.unit;
        let stop = end.div_ceil(self.unit);
        while unit < stop {
            let Some(chunk) = self.chunks.get((unit / CHUNK) as usize) else { return };
            let words = chunk.get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect());
            let n = (64 - unit % 64).min(stop - unit);
            let bits = (u64::MAX >> (64 - n)) << (unit % 64);
            words[(unit % CHUNK / 64) as usize].fetch_or(bits, Ordering::SeqCst);
            unit += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_added_and_found() {
        let unit = 4096;
        let len = 3 * CHUNK * unit + 5;
        let marks = AtomicBitmap::new(unit, len);
        assert_eq!((marks.first(true, 7, len), marks.first(false, 7, len)), (len, 7));
        // Across a word, across a chunk, and the partial unit at the end.
        for (at, end) in [
            (70 * unit + 1, 130 * unit),
            (CHUNK * unit - 1, CHUNK * unit + 1),
            (3 * CHUNK * unit, len),
        ] {
            assert!(!marks.has(at) && !marks.has(end - 1));
            marks.add(at, end);
            assert!(marks.has(at) && marks.has(end - 1));
            let (start, stop) = (at / unit * unit, end.next_multiple_of(unit).min(len));
            assert_eq!(marks.first(false, at, len), stop);
            assert_eq!(marks.first(true, start - unit, len), start);
            assert!(!marks.has(start - 1) && (stop == len || !marks.has(stop)));
        }
        assert_eq!(marks.first(true, 130 * unit, 140 * unit), 140 * unit);
    }
}
