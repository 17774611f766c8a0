//! The chunks of one image that are kept in files: the data at its place, and a checksum for each
//! chunk.
//!
//! A chunk counts only if the checksum that is stored for it is that of its bytes. The checksum is
//! stored after the bytes, and nothing is flushed: after a crash, what is torn or missing has another
//! checksum, and is fetched again. The files may be shared with other processes, which store the same
//! bytes at the same places.

use super::chunk::{CHUNK, MOST_AT_ONCE, Sum, range, sum_of};
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where the checksums begin in their file, after a description of the image.
pub(super) const SUMS_START: u64 = 4096;
const SUM_LEN: u64 = size_of::<Sum>() as u64;

/// The length of the file with the checksums of `chunks` chunks.
pub(super) fn sums_len(chunks: u64) -> u64 {
    SUMS_START + chunks.saturating_mul(SUM_LEN)
}

/// The files of a cache entry.
#[derive(Debug)]
pub(super) struct EntryFiles {
    pub(super) data: File,
    pub(super) sums: File,
}

/// The chunks that are kept of an image.
#[derive(Debug)]
pub(super) struct Store {
    files: EntryFiles,
    len: u64,
    /// How many bytes may still be added.
    room: AtomicU64,
    full: AtomicBool,
}

impl Store {
    /// The chunks of an image of `len` bytes in `files`, which have their full lengths. At most `room`
    /// bytes are added.
    pub(super) fn new(files: EntryFiles, len: u64, room: u64) -> Self {
        Self { files, len, room: AtomicU64::new(room), full: AtomicBool::new(false) }
    }

    /// The checksum that is stored for chunk `number`, if there is one.
    fn sum(&self, number: u64) -> Option<Sum> {
        let mut sum = [0; SUM_LEN as usize];
        self.files.sums.read_exact_at(&mut sum, sums_len(number)).ok()?;
        (sum != [0; SUM_LEN as usize]).then_some(sum)
    }

    /// Whether chunk `number` may be there; it was not checked.
    pub(super) fn may_have(&self, number: u64) -> bool {
        self.sum(number).is_some()
    }

    /// Whether chunk `number` is there, and is the `expected` one. Its bytes are compared with its
    /// checksum, in `buf`.
    pub(super) fn has(&self, number: u64, expected: Option<Sum>, buf: &mut Vec<u8>) -> bool {
        let sum = self.sum(number).filter(|sum| expected.is_none_or(|expected| expected == *sum));
        let Some(sum) = sum else { return false };
        let (start, len) = range(number, 1, self.len);
        buf.resize(len as usize, 0);
        self.files.data.read_exact_at(buf, start).is_ok() && sum_of(buf) == sum
    }

    /// Keep `bytes`, chunk `number`. If that fails, what was written stays: others may have kept the
    /// same chunk meanwhile, and without a checksum it does not count.
    ///
    /// # Errors
    /// When there is no room; from then on, nothing more is kept.
    pub(super) fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let kept = self.try_put(number, bytes);
        if let Err(e) = &kept {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!("the cache keeps no more: {e}");
            }
        }
        kept
    }

    fn try_put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        // Zeros are there already, as a hole, unless the file contains something else.
        let is_zero = bytes.iter().all(|b| *b == 0);
        let start = number * CHUNK;
        if is_zero {
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let punched = fallocate(&self.files.data, punch, start as i64, CHUNK as i64);
            if punched.is_err() {
                self.files.data.write_all_at(bytes, start)?;
            }
        } else {
            self.make_room(bytes.len() as u64)?;
            self.files.data.write_all_at(bytes, start)?;
        }
        self.files.sums.write_all_at(&sum_of(bytes), sums_len(number))
    }

    /// Take `len` bytes of what may be stored.
    fn make_room(&self, len: u64) -> io::Result<()> {
        let left = |room: u64| room.checked_sub(len);
        match self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) {
            Ok(_) => Ok(()),
            Err(_) => {
                let what = "it has reached its size (--cache-size)";
                Err(io::Error::new(io::ErrorKind::StorageFull, what))
            }
        }
    }
}

/// Empty an entry that nobody uses; returns how many bytes that frees.
pub(super) fn empty(entry: EntryFiles) -> u64 {
    let Ok(data) = Flock::lock(entry.data, FlockArg::LockExclusiveNonblock) else { return 0 };
    let freed = data.metadata().map_or(0, |meta| meta.blocks() * 512);
    // Checksums first: what has none does not count.
    let emptied = entry.sums.set_len(0).and_then(|()| data.set_len(0));
    emptied.map_or(0, |()| freed)
}

/// The number of chunks from `first` on, at most `most`, that `is_wanted`.
pub(super) fn run_of(first: u64, most: u32, is_wanted: impl Fn(u64) -> bool) -> u32 {
    let most = most.min(MOST_AT_ONCE);
    (0..most).take_while(|n| is_wanted(first + u64::from(*n))).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 4 * CHUNK + 100;

    fn entry() -> EntryFiles {
        let files =
            EntryFiles { data: tempfile::tempfile().unwrap(), sums: tempfile::tempfile().unwrap() };
        files.data.set_len(LEN).unwrap();
        files.sums.set_len(sums_len(5)).unwrap();
        files
    }

    fn copy(files: &EntryFiles) -> EntryFiles {
        let copy = |file: &File| file.try_clone().unwrap();
        EntryFiles { data: copy(&files.data), sums: copy(&files.sums) }
    }

    fn chunk(seed: u8) -> Vec<u8> {
        (0..CHUNK).map(|i| (i / 7) as u8 ^ seed).collect()
    }

    #[test]
    fn what_is_damaged_does_not_count() {
        let files = entry();
        let store = Store::new(copy(&files), LEN, u64::MAX);
        let mut buf = Vec::new();
        assert!(!store.has(1, None, &mut buf));
        store.put(1, &chunk(1)).unwrap();
        store.put(4, &chunk(4)[..100]).unwrap();
        store.put(2, &[0; CHUNK as usize]).unwrap();
        assert!(store.has(1, None, &mut buf) && buf == chunk(1));
        assert!(store.has(4, None, &mut buf) && buf.len() == 100);
        assert!(store.has(2, None, &mut buf));
        // A bit of the data, then one of a checksum, then a torn chunk.
        files.data.write_all_at(&[buf[0] ^ 1], 4 * CHUNK + 99).unwrap();
        assert!(!store.has(4, None, &mut buf));
        store.put(4, &chunk(4)[..100]).unwrap();
        files.sums.write_all_at(&[0xff], sums_len(4) + 31).unwrap();
        assert!(!store.has(4, None, &mut buf) && store.may_have(4));
        files.data.write_all_at(&[0; 4096], CHUNK + 8192).unwrap();
        assert!(!store.has(1, None, &mut buf));
        // A file that was cut short.
        store.put(1, &chunk(1)).unwrap();
        files.data.set_len(CHUNK + 5).unwrap();
        assert!(!store.has(1, None, &mut buf));
    }

    #[test]
    fn a_limit_is_kept_and_costs_others_nothing() {
        let files = entry();
        // Two mounts that share the files.
        let (first, full) =
            (Store::new(copy(&files), LEN, u64::MAX), Store::new(copy(&files), LEN, CHUNK + 10));
        first.put(1, &chunk(1)).unwrap();
        first.put(2, &chunk(2)).unwrap();
        full.put(0, &chunk(0)).unwrap();
        for number in [1, 2, 3] {
            let e = full.put(number, &chunk(number as u8)).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::StorageFull);
        }
        let mut buf = Vec::new();
        for number in [0, 1, 2] {
            assert!(first.has(number, None, &mut buf) && buf == chunk(number as u8), "{number}");
        }
        assert!(!first.has(3, None, &mut buf));
    }

    #[test]
    fn runs_of_chunks() {
        assert_eq!(run_of(3, 9, |n| n < 5), 2);
        assert_eq!(run_of(3, 9, |_| true), MOST_AT_ONCE);
        assert_eq!(run_of(3, 9, |_| false), 0);
    }
}
