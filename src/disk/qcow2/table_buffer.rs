//! Keeps what `imago` writes to a qcow2 file's tables in memory, and brings it to the file in an
//! order in which a crash at any moment leaves a consistent file.
//!
//! `imago` writes its tables in a safe order, but does not wait until one is on stable storage
//! before it writes the next, and between two flushes the kernel stores pages in any order. So an
//! L2 entry could become durable before the data that it points to, or before its cluster is
//! counted as used. Here, tables reach the file only in [`TableBuffer::write_out`]: data first, then
//! refcounts, then what points to the clusters, with a barrier between each and the next.
//!
//! This is sufficient because no cluster that a table points to is ever freed (see
//! `Qcow2Overlay`): refcounts of such clusters never decrease.

use crate::disk::seal::{self, AUTOCLEAR};
use crate::disk::storage::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bits 9 to 55 of a table entry: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// More buffered bytes than this are written out without waiting for a flush.
const BUFFER_MAX: u64 = 32 << 20;

/// The clusters of tables, by their offset in the file.
type Clusters = BTreeMap<u64, Vec<u8>>;

/// The storage as `imago` sees it: what it writes is table content, and is buffered here. Offsets
/// and lengths in bytes.
pub(super) struct TableBuffer<S> {
    storage: Arc<S>,
    cluster: u64,
    sealed: AtomicBool,
    state: Mutex<State>,
    /// Something that was written may never become durable, so nothing is called durable any more.
    failed: AtomicBool,
    helper: CommonStorageHelper,
}

#[derive(Default)]
struct State {
    /// Written since the last [`TableBuffer::freeze`].
    changed: Clusters,
    /// To be written by [`TableBuffer::write_out`].
    frozen: Clusters,
}

impl State {
    fn get(&self, start: u64) -> Option<&Vec<u8>> {
        self.changed.get(&start).or_else(|| self.frozen.get(&start))
    }
}

/// Where the tables are whose entries matter for the order.
struct Layout {
    l1: Range<u64>,
    refcount_table: Range<u64>,
    refcount_blocks: Vec<u64>,
}

/// Kinds of clusters, in the order in which they must become durable.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    RefcountBlock,
    RefcountTable,
    Header,
    L2,
    L1,
}

impl<S: Storage> TableBuffer<S> {
    /// A buffer over `storage`, a qcow2 file with clusters of `cluster` bytes. If it is `sealed`,
    /// the seal is broken before the first table is written.
    pub(super) fn new(storage: Arc<S>, cluster: u64, sealed: bool) -> Self {
        Self {
            storage,
            cluster,
            sealed: AtomicBool::new(sealed),
            state: Mutex::default(),
            failed: AtomicBool::new(false),
            helper: CommonStorageHelper::default(),
        }
    }

    pub(super) fn storage(&self) -> &Arc<S> {
        &self.storage
    }

    /// Bytes per cluster.
    pub(super) fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Whether the tables in the file are still those that were sealed.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::SeqCst)
    }

    /// Whether the buffer should be written out before more is allocated: because it is large, or
    /// because the refcount table has moved. Its old clusters are freed and must not be reused
    /// before the file's header shows the new one.
    pub(super) fn is_due(&self) -> bool {
        self.header_changed() || self.state.lock().changed.len() as u64 * self.cluster > BUFFER_MAX
    }

    /// Whether a change of the header is not yet on stable storage.
    pub(super) fn header_changed(&self) -> bool {
        self.state.lock().get(0).is_some()
    }

    /// Select everything buffered so far for the next [`write_out`](Self::write_out). The caller
    /// excludes writes of tables: what is selected must be consistent.
    pub(super) fn freeze(&self) {
        let mut state = self.state.lock();
        let changed = std::mem::take(&mut state.changed);
        state.frozen.extend(changed);
    }

    /// Forget buffered clusters in the range, which is about to be used for data.
    pub(super) fn forget(&self, range: Range<u64>) {
        let mut state = self.state.lock();
        let State { changed, frozen } = &mut *state;
        for clusters in [changed, frozen] {
            let keys: Vec<u64> = clusters.range(range.clone()).map(|(start, _)| *start).collect();
            for start in keys {
                clusters.remove(&start);
            }
        }
    }

    /// Bring all data in the file and the frozen tables to stable storage. One call at a time.
    ///
    /// # Errors
    /// Errors of the file. After a write error the tables stay frozen, and the next call tries
    /// again. After an error of a barrier every call fails, because the kernel forgets what it
    /// could not write.
    pub(super) fn write_out(&self) -> io::Result<()> {
        let kinds = self.frozen_by_kind()?;
        if self.is_sealed() && !kinds.is_empty() {
            seal::break_seal(&*self.storage)?;
            self.barrier()?;
            self.sealed.store(false, Ordering::SeqCst);
        }
        let mut durable = false;
        for (kind, starts) in kinds {
            // Refcounts may be durable before anything else: at worst, clusters are leaked.
            if kind > Kind::RefcountBlock && !durable {
                self.barrier()?;
            }
            for start in starts {
                let state = self.state.lock();
                // It may have been forgotten. The lock is held so that it cannot be while it is
                // written.
                if let Some(bytes) = state.frozen.get(&start) {
                    self.storage.write_all_at(bytes, start)?;
                }
            }
            durable = false;
        }
        self.barrier()?;
        self.state.lock().frozen.clear();
        Ok(())
    }

    fn barrier(&self) -> io::Result<()> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        // Linux forgets which pages it could not write: the next call may succeed without them.
        self.storage.sync().inspect_err(|e| self.give_up(e))
    }

    fn give_up(&self, e: &io::Error) {
        self.failed.store(true, Ordering::SeqCst);
        tracing::error!(
            "the overlay cannot be brought to stable storage, and every flush fails from now on: \
             {e}"
        );
    }

    /// The offsets of the frozen clusters, in the order in which they must be written.
    fn frozen_by_kind(&self) -> io::Result<BTreeMap<Kind, Vec<u64>>> {
        let starts: Vec<u64> = self.state.lock().frozen.keys().copied().collect();
        let mut kinds: BTreeMap<Kind, Vec<u64>> = BTreeMap::new();
        if starts.is_empty() {
            return Ok(kinds);
        }
        let layout = self.layout()?;
        for start in starts {
            let kind = if start == 0 {
                Kind::Header
            } else if layout.l1.contains(&start) {
                Kind::L1
            } else if layout.refcount_table.contains(&start) {
                Kind::RefcountTable
            } else if layout.refcount_blocks.binary_search(&start).is_ok() {
                Kind::RefcountBlock
            } else {
                Kind::L2
            };
            kinds.entry(kind).or_default().push(start);
        }
        Ok(kinds)
    }

    /// Source: QEMU docs/interop/qcow2.rst, "Header".
    fn layout(&self) -> io::Result<Layout> {
        let mut head = [0; 72];
        self.read(&mut head, 0)?;
        let number = |range: Range<usize>| {
            head[range].iter().fold(0u64, |n, byte| (n << 8) | u64::from(*byte))
        };
        let (l1, l1_len) = (number(40..48), number(36..40) * 8);
        let (table, table_len) = (number(48..56), number(56..60) * self.cluster);
        let mut entries = vec![0; table_len as usize];
        self.read(&mut entries, table)?;
        let offset = |b: &[u8]| b.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
        let blocks = entries.chunks_exact(8).map(|entry| offset(entry) & OFFSET_MASK);
        let mut refcount_blocks: Vec<u64> = blocks.filter(|block| *block != 0).collect();
        refcount_blocks.sort_unstable();
        Ok(Layout {
            l1: l1..l1 + l1_len,
            refcount_table: table..table + table_len,
            refcount_blocks,
        })
    }

    /// Fill `buf` from `offset`: buffered clusters, else the file; zeros past its end.
    fn read(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let start = offset - offset % self.cluster;
            let within = (offset - start) as usize;
            let n = buf.len().min(self.cluster as usize - within);
            let (now, later) = buf.split_at_mut(n);
            let state = self.state.lock();
            if let Some(bytes) = state.get(start) {
                now.copy_from_slice(&bytes[within..within + n]);
            } else {
                drop(state);
                let stored = self.storage.len()?.saturating_sub(offset).min(n as u64) as usize;
                self.storage.read_exact_at(&mut now[..stored], offset)?;
                now[stored..].fill(0);
                // `imago` would write the header at once to clear features that it does not know.
                for at in AUTOCLEAR.start.max(offset)..AUTOCLEAR.end.min(offset + n as u64) {
                    now[(at - offset) as usize] = 0;
                }
            }
            buf = later;
            offset += n as u64;
        }
        Ok(())
    }

    fn write(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let start = offset - offset % self.cluster;
            let within = (offset - start) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(self.cluster as usize - within));
            let mut cluster = vec![0; self.cluster as usize];
            if now.len() < cluster.len() {
                // `imago` has already changed its copy of the table, and does not write this entry
                // again.
                self.read(&mut cluster, start).inspect_err(|e| self.give_up(e))?;
            }
            cluster[within..within + now.len()].copy_from_slice(now);
            self.reserve(start)?;
            self.state.lock().changed.insert(start, cluster);
            bytes = later;
            offset += now.len() as u64;
        }
        Ok(())
    }

    /// Store zeros in a cluster past the end of the file, so that a lack of space is an error of
    /// the write that needs the cluster, not of a later flush. Nothing points to it yet.
    fn reserve(&self, start: u64) -> io::Result<()> {
        if start < self.storage.len()? {
            return Ok(());
        }
        self.storage.write_all_at(&vec![0; self.cluster as usize], start)
    }

    /// Zero a range of data clusters.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.write_all_at(&vec![0; len as usize], offset)
    }
}

/// `imago` declares some of these methods unsafe because callers must respect alignments, which are
/// 1 here, and may have to exclude each other, which they need not here.
#[allow(unsafe_code)]
impl<S: Storage> imago::Storage for TableBuffer<S> {
    fn size(&self) -> io::Result<u64> {
        let state = self.state.lock();
        let ends = [&state.changed, &state.frozen]
            .map(|clusters| clusters.last_key_value().map_or(0, |(start, _)| start + self.cluster));
        Ok(self.storage.len()?.max(ends[0]).max(ends[1]))
    }

    unsafe fn pure_readv(&self, mut bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut bytes = vec![0; bufv.len() as usize];
        self.read(&mut bytes, offset)?;
        bufv.copy_from_slice(&bytes);
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut bytes = vec![0; bufv.len() as usize];
        bufv.copy_into_slice(&mut bytes);
        self.write(&bytes, offset)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length)
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }
}

impl<S: Storage> fmt::Debug for TableBuffer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableBuffer").field("storage", &self.storage).finish_non_exhaustive()
    }
}

impl<S: Storage> fmt::Display for TableBuffer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the overlay's file")
    }
}
