//! The temporary overlay: an unlinked sparse file in which byte N of the disk is stored at offset
//! N, and a bitmap of the blocks that were written.
//!
//! It ends with the process, so it needs no metadata on disk, no allocation and, for whole blocks,
//! no copy-on-write; that makes it faster than any image format.

use super::overlay::{Base, Overlay, Run};
use super::quota::{Quota, Reservation};
use super::storage::Storage;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes per block, the unit in which writes are recorded.
const BLOCK: u64 = 4096;
/// Bytes per chunk, the unit in which bitmaps are allocated: 64 KiB of bitmap per GiB touched.
const CHUNK: u64 = 1 << 30;
const CHUNK_BLOCKS: usize = (CHUNK / BLOCK) as usize;
/// Writers of blocks that are not yet plain data exclude each other within each 1 MiB of the disk.
const STRIPE: u64 = 1 << 20;
const STRIPES: usize = 64;
/// `zero` holds its locks for no more than this many bytes at a time.
const ZERO_STEP: u64 = 32 << 20;

/// Directory for temporary files of a disk's size: `$TMPDIR`, else /var/tmp. Not /tmp, which is
/// often in memory.
pub fn temporary_dir() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// Two bits per block of a chunk.
#[derive(Debug)]
struct Bits {
    data: Vec<u64>,
    zero: Vec<u64>,
}

impl Bits {
    fn new(all: Run) -> Self {
        let words = CHUNK_BLOCKS / 64;
        let fill = |run| vec![if all == run { u64::MAX } else { 0 }; words];
        Self { data: fill(Run::Data), zero: fill(Run::Zero) }
    }

    fn get(&self, block: usize) -> Run {
        let (word, bit) = (block / 64, 1 << (block % 64));
        if self.data[word] & bit != 0 {
            Run::Data
        } else if self.zero[word] & bit != 0 {
            Run::Zero
        } else {
            Run::Base
        }
    }

    fn set(&mut self, block: usize, run: Run) {
        let (word, bit) = (block / 64, 1 << (block % 64));
        self.data[word] &= !bit;
        self.zero[word] &= !bit;
        match run {
            Run::Data => self.data[word] |= bit,
            Run::Zero => self.zero[word] |= bit,
            Run::Base => {}
        }
    }

    /// First block in `from..end` that differs from `run`; `end` if there is none.
    fn run_end(&self, from: usize, end: usize, run: Run) -> usize {
        let mut block = from;
        while block < end {
            if block % 64 == 0 && block + 64 <= end {
                let (data, zero) = (self.data[block / 64], self.zero[block / 64]);
                let whole = match run {
                    Run::Data => data == u64::MAX,
                    Run::Zero => zero == u64::MAX,
                    Run::Base => data | zero == 0,
                };
                if whole {
                    block += 64;
                    continue;
                }
            }
            if self.get(block) != run {
                return block;
            }
            block += 1;
        }
        end
    }
}

/// State of a chunk; most chunks consist of one kind only and need no memory.
#[derive(Debug)]
enum ChunkState {
    All(Run),
    Mixed(Box<Bits>),
}

/// The temporary overlay, in a file or, in tests, in other storage.
#[derive(Debug)]
pub struct Scratch<S: Storage = File> {
    storage: S,
    len: u64,
    chunks: Vec<RwLock<ChunkState>>,
    stripes: [Mutex<()>; STRIPES],
    quota: Quota,
}

impl Scratch {
    /// A new overlay for a disk of `len` bytes, stored in an unnamed file in `dir`.
    ///
    /// # Errors
    /// Errors of creating the file; `FileTooLarge` if `dir` cannot hold a sparse file of the disk's
    /// length.
    pub fn new(dir: &Path, len: u64) -> io::Result<Self> {
        Self::on(tempfile::tempfile_in(dir)?, len)
    }

    /// A new overlay for a disk of `len` bytes in `file`, whose content is discarded.
    ///
    /// # Errors
    /// `FileTooLarge` if the filesystem cannot hold a sparse file of the disk's length.
    pub fn on(file: File, len: u64) -> io::Result<Self> {
        file.set_len(0)?;
        Self::new_in(file, len)
    }
}

impl<S: Storage> Scratch<S> {
    /// A new overlay for a disk of `len` bytes in `storage`, which is empty.
    pub(super) fn new_in(storage: S, len: u64) -> io::Result<Self> {
        storage.set_len(len)?;
        let chunks =
            (0..len.div_ceil(CHUNK)).map(|_| RwLock::new(ChunkState::All(Run::Base))).collect();
        let stripes = std::array::from_fn(|_| Mutex::new(()));
        Ok(Self { storage, len, chunks, stripes, quota: Quota::unlimited() })
    }

    /// Free all space. What was stored can no longer be read.
    pub(super) fn clear(&self) {
        let _ = self.storage.set_len(0);
    }

    /// Mark the whole blocks of `[start, end)`; each bound is a multiple of the block size or the
    /// disk's end.
    fn mark(&self, start: u64, end: u64, run: Run) {
        let mut at = start;
        while at < end {
            let index = (at / CHUNK) as usize;
            let chunk_end = (at / CHUNK + 1) * CHUNK;
            let stop = end.min(chunk_end);
            let mut chunk = self.chunks[index].write();
            if at % CHUNK == 0 && (stop == chunk_end || stop == self.len) {
                *chunk = ChunkState::All(run);
            } else {
                if let ChunkState::All(all) = *chunk {
                    if all == run {
                        at = stop;
                        continue;
                    }
                    *chunk = ChunkState::Mixed(Box::new(Bits::new(all)));
                }
                if let ChunkState::Mixed(bits) = &mut *chunk {
                    for block in at / BLOCK..stop.div_ceil(BLOCK) {
                        bits.set((block % CHUNK_BLOCKS as u64) as usize, run);
                    }
                }
            }
            at = stop;
        }
    }

    /// Whether the whole range is already plain data.
    fn is_data(&self, offset: u64, len: u64) -> bool {
        matches!(self.run(offset, len), (Run::Data, n) if n == len)
    }

    fn run(&self, offset: u64, max: u64) -> (Run, u64) {
        let max = max.min(self.len.saturating_sub(offset)).max(1);
        let Some(chunk) = self.chunks.get((offset / CHUNK) as usize) else {
            return (Run::Base, max);
        };
        let left_in_chunk = CHUNK - offset % CHUNK;
        let span = max.min(left_in_chunk);
        match &*chunk.read() {
            ChunkState::All(run) => (*run, span),
            ChunkState::Mixed(bits) => {
                let first = (offset % CHUNK / BLOCK) as usize;
                let last = ((offset % CHUNK + span).div_ceil(BLOCK)) as usize;
                let run = bits.get(first);
                let end = bits.run_end(first, last, run) as u64 * BLOCK;
                (run, (end - offset % CHUNK).min(span))
            }
        }
    }

    /// Exclude other writers of blocks in the range that are not yet data. Locks are taken in
    /// ascending order to avoid deadlock.
    fn lock(&self, offset: u64, len: u64) -> Vec<MutexGuard<'_, ()>> {
        let first = offset / STRIPE;
        let last = (offset + len.max(1) - 1) / STRIPE;
        let mut wanted: Vec<usize> =
            (first..=last).take(STRIPES).map(|stripe| (stripe % STRIPES as u64) as usize).collect();
        wanted.sort_unstable();
        wanted.into_iter().map(|i| self.stripes[i].lock()).collect()
    }

    /// Reserve space for the blocks of `[start, end)` that are not data yet.
    fn reserve(&self, start: u64, end: u64) -> io::Result<Option<Reservation<'_>>> {
        self.quota.reserve(&self.storage, || {
            let (mut at, mut new) = (start, 0);
            while at < end {
                let (run, n) = self.run(at, end - at);
                new += if run == Run::Data { 0 } else { n.next_multiple_of(BLOCK) };
                at += n;
            }
            new
        })
    }

    /// Write part of one block, and fill in the rest if it was not written before. The caller holds
    /// the lock.
    fn write_partial(&self, base: &dyn Base, buf: &[u8], offset: u64) -> io::Result<()> {
        let start = offset - offset % BLOCK;
        let mut block = vec![0; BLOCK.min(self.len - start) as usize];
        match self.run(start, 1).0 {
            // Write only these bytes: writers of other sectors of a data block take no lock.
            Run::Data => return self.storage.write_all_at(buf, offset),
            Run::Base => base.read_at(&mut block, start)?,
            Run::Zero => {}
        }
        let _space = self.reserve(start, start + block.len() as u64)?;
        let from = (offset - start) as usize;
        block[from..from + buf.len()].copy_from_slice(buf);
        self.storage.write_all_at(&block, start)?;
        self.mark(start, start + block.len() as u64, Run::Data);
        Ok(())
    }
}

/// Split `[offset, end)` at block boundaries into a partial head, whole blocks and a partial tail.
/// The disk's end counts as a boundary.
fn split(offset: u64, end: u64, disk: u64) -> (u64, u64) {
    let whole_start = offset.next_multiple_of(BLOCK).min(end);
    let whole_end = if end == disk { end } else { (end - end % BLOCK).max(whole_start) };
    (whole_start, whole_end)
}

impl<S: Storage> Overlay for Scratch<S> {
    fn run_at(&self, offset: u64, max: u64) -> io::Result<(Run, u64)> {
        Ok(self.run(offset, max))
    }

    fn place_at(&self, offset: u64, max: u64) -> io::Result<Option<(&File, u64, u64)>> {
        let (run, n) = self.run(offset, max);
        let file = self.storage.file().filter(|_| run == Run::Data);
        Ok(file.map(|file| (file, offset, n)))
    }

    fn read_at(&self, base: &dyn Base, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let (run, n) = self.run(offset, buf.len() as u64);
            let (now, later) = buf.split_at_mut(n as usize);
            match run {
                Run::Base => base.read_at(now, offset)?,
                Run::Zero => now.fill(0),
                Run::Data => self.storage.read_exact_at(now, offset)?,
            }
            buf = later;
            offset += n;
        }
        Ok(())
    }

    fn write_at(&self, base: &dyn Base, buf: &[u8], offset: u64) -> io::Result<()> {
        let len = buf.len() as u64;
        if self.is_data(offset, len) {
            return self.storage.write_all_at(buf, offset);
        }
        let _locked = self.lock(offset, len);
        let end = offset + len;
        let (whole_start, whole_end) = split(offset, end, self.len);
        let cut = |from: u64, to: u64| &buf[(from - offset) as usize..(to - offset) as usize];
        if offset < whole_start {
            self.write_partial(base, cut(offset, whole_start), offset)?;
        }
        if whole_start < whole_end {
            let _space = self.reserve(whole_start, whole_end)?;
            self.storage.write_all_at(cut(whole_start, whole_end), whole_start)?;
            self.mark(whole_start, whole_end, Run::Data);
        }
        if whole_end < end {
            self.write_partial(base, cut(whole_end, end), whole_end)?;
        }
        Ok(())
    }

    fn zero(&self, base: &dyn Base, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let stop = end.min((at / ZERO_STEP + 1) * ZERO_STEP);
            let _locked = self.lock(at, stop - at);
            let (whole_start, whole_end) = split(at, stop, self.len);
            let partial = |from: u64, to: u64| -> io::Result<()> {
                let already = match self.run(from, 1).0 {
                    Run::Zero => true,
                    Run::Base => base.is_zero(from, to - from),
                    Run::Data => false,
                };
                if from < to && !already {
                    self.write_partial(base, &vec![0; (to - from) as usize], from)?;
                }
                Ok(())
            };
            partial(at, whole_start)?;
            if whole_start < whole_end {
                let nothing_to_hide = base.is_zero(whole_start, whole_end - whole_start);
                let run = if nothing_to_hide { Run::Base } else { Run::Zero };
                self.mark(whole_start, whole_end, run);
                self.storage.punch_hole(whole_start, whole_end - whole_start);
            }
            partial(whole_end, stop)?;
            at = stop;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // The file has no name, so its data cannot be found after a crash.
        Ok(())
    }

    fn set_limit(&self, limit: u64) {
        self.quota.set(limit);
    }

    fn limit(&self) -> Option<u64> {
        self.quota.limit()
    }

    fn allocated(&self) -> u64 {
        self.storage.allocated().unwrap_or(0)
    }

    fn cow_granularity(&self) -> u64 {
        BLOCK
    }
}
