//! Determines which cached bytes a write makes stale.
//!
//! A client may cache what it reads. The kernel caches pages of `disk.raw`, when it is opened
//! without O_DIRECT, and of every mapped file. It updates its pages when it writes to a file, but
//! it does not know that a write to `part1.raw` changes `disk.raw`, or that a new kernel inside the
//! guest changes the boot gap. The server must drop stale pages before it acknowledges the write.
//!
//! Dropping a page may have to wait until a request that holds it is answered, so two threads do
//! it, one for each [`Wait`], in an order that excludes a deadlock:
//!
//! * A write through the page cache may hold a page of `disk.raw` until it is answered. Its answer
//!   waits for pages of the gap and of mapped partition files ([`Wait::Derived`]). Only reads hold
//!   those, and writes that are answered before anything is dropped ([`answers_first`]).
//! * A write past the page cache holds no page. Its answer may wait for pages of `disk.raw`
//!   ([`Wait::Alias`]), and so for writes of the first kind.

use super::file::ExportedFile;
use crate::disk::Disk;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bytes of a page of the kernel.
const PAGE: u64 = 4096;
/// The kernel locks pages in groups of at most this many bytes.
const FOLIO_MAX: u64 = 2 << 20;

/// Why pages are stale; this determines what may wait until they are dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// They show the bytes that were written, through another file.
    Alias,
    /// They are derived from the bytes that were written, or belong to a mapped partition file.
    Derived,
}

/// Pages of one file that must be dropped.
#[derive(Debug)]
pub struct StalePages {
    /// The file, by its index in the export set.
    pub file: usize,
    /// Offset of the first byte in the file.
    pub offset: u64,
    /// Length in bytes; 0 means up to the end.
    pub len: u64,
    /// What may wait for them.
    pub wait: Wait,
    /// For pages of the gap: the cache that holds them, and how often the gap had been read when
    /// they became stale.
    gap: Option<(Arc<CacheState>, u64)>,
}

impl StalePages {
    /// All pages of `file`.
    pub fn all(file: usize) -> Self {
        Self { file, offset: 0, len: 0, wait: Wait::Alias, gap: None }
    }

    /// Must be called after they have been dropped.
    pub fn dropped(&self) {
        if let Some((cache, reads)) = &self.gap {
            cache.gap_dropped.fetch_max(*reads, Ordering::SeqCst);
        }
    }
}

/// What a client may have cached of a file.
#[derive(Debug, Default)]
pub struct CacheState {
    /// Number of open handles through which pages may be cached or mapped.
    users: AtomicUsize,
    /// Whether cached bytes became stale while the file was not open.
    stale: AtomicBool,
    /// Number of reads of the boot gap so far, and how many there had been when its pages were
    /// dropped.
    gap_reads: AtomicU64,
    gap_dropped: AtomicU64,
}

impl CacheState {
    /// Count an open; returns whether the pages kept from earlier opens are still valid. If not,
    /// they must be dropped before the open is answered, and then [`CacheState::renewed`] called.
    pub fn open(&self) -> bool {
        // Before reading `stale`; `touch` does the two in the opposite order.
        self.users.fetch_add(1, Ordering::SeqCst);
        !self.stale.load(Ordering::SeqCst)
    }

    /// All pages have been dropped after an `open` that required it.
    pub fn renewed(&self) {
        // A thread that called `touch` since then saw that open, and drops the pages that it made
        // stale.
        self.stale.store(false, Ordering::SeqCst);
    }

    /// Cached pages will be stale before anything is written: drop them with the next open.
    pub fn outdate(&self) {
        self.stale.store(true, Ordering::SeqCst);
    }

    /// Count a close.
    pub fn release(&self) {
        self.users.fetch_sub(1, Ordering::SeqCst);
    }

    /// Count a read of the boot gap, before the read.
    pub fn reads_gap(&self) {
        self.gap_reads.fetch_add(1, Ordering::SeqCst);
    }

    /// Pages have become stale. Returns whether they must be dropped now, because the file may be
    /// in use; otherwise the next open drops them.
    fn touch(&self) -> bool {
        let used = || self.users.load(Ordering::SeqCst) > 0;
        if used() {
            return true;
        }
        self.stale.store(true, Ordering::SeqCst);
        used()
    }

    /// The number of reads of the gap; `None` if there were none since its pages were dropped.
    fn gap_pages(&self) -> Option<u64> {
        let reads = self.gap_reads.load(Ordering::SeqCst);
        (reads > self.gap_dropped.load(Ordering::SeqCst)).then_some(reads)
    }
}

/// The path by which a write arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WritePath {
    /// Bypassing the client's cache.
    Direct,
    /// Through the cache; the kernel has already changed its pages.
    Cached,
    /// From the cache, some time after a program wrote to mapped memory.
    WriteBack,
}

/// The pages that a write of `len` bytes at `offset` of the file `written` makes stale, among all
/// files of the export. Must be called after the write.
pub fn stale_pages(
    files: &[(ExportedFile, Arc<CacheState>)],
    written: &ExportedFile,
    (offset, len): (u64, u64),
    path: WritePath,
) -> Vec<StalePages> {
    let mut out = Vec::new();
    let places = written.places(offset, len);
    for (index, (file, cache)) in files.iter().enumerate() {
        // The kernel updates the pages of the file being written, except mapped pages of a whole
        // disk that is written through another handle, opened with O_DIRECT.
        let updated = file.is_same(written) && (path != WritePath::Direct || !file.is_whole());
        let shown = places.iter().flat_map(|(disk, start, end)| file.shown(disk, *start, *end));
        let shown: Vec<_> = shown.filter(|_| !updated).collect();
        if !shown.is_empty() && cache.touch() {
            let wait = if file.is_whole() { Wait::Alias } else { Wait::Derived };
            let pages = |(offset, len)| StalePages { file: index, offset, len, wait, gap: None };
            out.extend(shown.into_iter().map(pages));
        }
        let Some(disk) = file.whole() else { continue };
        let outside = |gap: &Range<u64>| {
            let of_disk = places.iter().filter(|(written, ..)| Arc::ptr_eq(written, disk));
            of_disk.into_iter().any(|(_, start, end)| *start < gap.start || *end > gap.end)
        };
        let Some(gap) = disk.planned().filter(outside) else { continue };
        let offset = gap.start - gap.start % PAGE;
        let len = gap.end - offset;
        if let Some(reads) = cache.gap_pages() {
            if cache.touch() {
                let gap = Some((Arc::clone(cache), reads));
                let wait = Wait::Derived;
                out.push(StalePages { file: index, offset, len, wait, gap });
            }
        }
    }
    out
}

/// Whether a write must be answered before pages are dropped, because the kernel may hold some of
/// these pages until then.
pub fn answers_first(written: &ExportedFile, offset: u64, path: WritePath) -> bool {
    // Only whole disks are written through the cache.
    let near_gap = |(disk, start): (&Arc<Disk>, u64)| {
        let at = start + offset;
        disk.planned().is_some_and(|gap| {
            at < gap.end.saturating_add(FOLIO_MAX) && gap.start < at.saturating_add(2 * FOLIO_MAX)
        })
    };
    match path {
        WritePath::Direct => false,
        WritePath::Cached => written.range().is_some_and(near_gap),
        WritePath::WriteBack => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Region, RegionKind, RegionTable, Source};

    /// `disk.raw` of 64 KiB, and `part1.raw` in its second half.
    fn files() -> Vec<(ExportedFile, Arc<CacheState>)> {
        let len = 64 << 10;
        let table = RegionTable::new(vec![Region {
            start: 0,
            len,
            kind: RegionKind::Gap,
            origin: String::new(),
            source: Source::Zeros,
        }]);
        let disk = Arc::new(Disk::new(table.unwrap(), None));
        let file = |name: &str, start, len| {
            let file = ExportedFile::of_disk(name.into(), Arc::clone(&disk), start, len);
            (file, Arc::default())
        };
        vec![file("disk.raw", 0, len), file("part1.raw", len / 2, len / 2)]
    }

    fn found(pages: &[StalePages]) -> Vec<(usize, u64, u64, Wait)> {
        pages.iter().map(|p| (p.file, p.offset, p.len, p.wait)).collect()
    }

    #[test]
    fn a_write_makes_the_other_files_pages_stale() {
        let files = files();
        let (disk, part) = (&files[0].0, &files[1].0);
        // No file is open: the next open reports that the pages are stale.
        assert!(stale_pages(&files, part, (0, 4096), WritePath::Direct).is_empty());
        assert!(!files[0].1.open(), "what was cached is stale");
        files[0].1.renewed();
        assert!(files[1].1.open());
        assert_eq!(
            found(&stale_pages(&files, part, (4096, 512), WritePath::Direct)),
            [(0, (32 << 10) + 4096, 512, Wait::Alias)]
        );
        assert_eq!(
            found(&stale_pages(&files, disk, (30 << 10, 4096), WritePath::Cached)),
            [(1, 0, 2048, Wait::Derived)]
        );
        assert_eq!(
            found(&stale_pages(&files, disk, (0, 512), WritePath::Direct)),
            [(0, 0, 512, Wait::Alias)],
            "a mapping of the disk may be open beside"
        );
    }
}
