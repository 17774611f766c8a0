//! Which cached bytes a write makes stale.
//!
//! A client may cache what it reads; the kernel does so with pages of `disk.raw`, when that is opened
//! without O_DIRECT, and of every file that is mapped. It updates what it writes itself, but it does
//! not know that a write to `part1.raw` changes `disk.raw`, or that a new kernel inside the guest
//! changes the boot gap. Whoever serves must drop stale pages before the write is acknowledged.
//!
//! Dropping a page may wait until a request that holds it is answered, so it is done by two threads,
//! one for each [`Wait`], in an order that excludes a deadlock:
//!
//! * A write through the page cache may hold a page of `disk.raw` until it is answered. Its answer
//!   waits for pages of the gap and of mapped partition files ([`Wait::Derived`]). Only reads hold
//!   those, and writes that are answered before anything is dropped ([`answers_first`]).
//! * A write past the page cache holds no page. Its answer may wait for pages of `disk.raw`
//!   ([`Wait::Alias`]), and so for writes of the first kind.

use super::file::ExportedFile;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The kernel locks pages in groups of at most this many bytes.
const FOLIO_MAX: u64 = 2 << 20;

/// Why pages are stale, which decides what may wait until they are dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// They show the bytes that were written, by another file.
    Alias,
    /// They derive from the bytes that were written, or belong to a mapped partition file.
    Derived,
}

/// Pages of one file that must be dropped.
#[derive(Debug)]
pub struct StalePages {
    /// The file, by its index in the export set.
    pub file: usize,
    /// First byte, in the file.
    pub offset: u64,
    /// Length in bytes; 0 means up to the end.
    pub len: u64,
    /// What may wait for them.
    pub wait: Wait,
    /// Pages of the gap: whose they are, and how often it had been read when they became stale.
    gap: Option<(Arc<CacheState>, u64)>,
}

impl StalePages {
    /// All pages of `file`.
    pub fn all(file: usize) -> Self {
        Self { file, offset: 0, len: 0, wait: Wait::Alias, gap: None }
    }

    /// To be called once they are dropped.
    pub fn dropped(&self) {
        if let Some((cache, reads)) = &self.gap {
            cache.gap_dropped.fetch_max(*reads, Ordering::SeqCst);
        }
    }
}

/// What a client may have cached of a file.
#[derive(Debug, Default)]
pub struct CacheState {
    /// Open handles through which pages may be cached or mapped.
    users: AtomicUsize,
    /// Cached bytes became stale while nobody had the file open.
    stale: AtomicBool,
    /// Reads of the boot gap so far, and how many of them had happened when its pages were dropped.
    gap_reads: AtomicU64,
    gap_dropped: AtomicU64,
}

impl CacheState {
    /// Count an open; returns whether the pages kept from earlier opens are still valid. If not,
    /// they must be dropped before the open is answered, and then [`CacheState::renewed`] called.
    pub fn open(&self) -> bool {
        // Before looking at the mark: see `touch` for the other half.
        self.users.fetch_add(1, Ordering::SeqCst);
        !self.stale.load(Ordering::SeqCst)
    }

    /// All pages were dropped after an `open` that wanted it.
    pub fn renewed(&self) {
        // Whoever touched since then saw that open, and drops what it made stale.
        self.stale.store(false, Ordering::SeqCst);
    }

    /// Count a close.
    pub fn release(&self) {
        self.users.fetch_sub(1, Ordering::SeqCst);
    }

    /// Count a read of the boot gap, before it is done.
    pub fn reads_gap(&self) {
        self.gap_reads.fetch_add(1, Ordering::SeqCst);
    }

    /// Pages have become stale. Returns whether they must be dropped now, because somebody may be
    /// using them; else the next open drops them.
    fn touch(&self) -> bool {
        let used = || self.users.load(Ordering::SeqCst) > 0;
        if used() {
            return true;
        }
        self.stale.store(true, Ordering::SeqCst);
        used()
    }

    /// How many reads of the gap there were, if any since its pages were dropped.
    fn gap_pages(&self) -> Option<u64> {
        let reads = self.gap_reads.load(Ordering::SeqCst);
        (reads > self.gap_dropped.load(Ordering::SeqCst)).then_some(reads)
    }
}

/// How a write came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WritePath {
    /// Past the client's cache.
    Direct,
    /// Through it; the kernel has changed its pages already.
    Cached,
    /// From it, some time after a program wrote to mapped memory.
    WriteBack,
}

/// The pages that a write of `len` bytes at `offset` of the file `written` makes stale, given all
/// files of the export. To be called when the write is done.
pub fn stale_pages(
    files: &[(ExportedFile, Arc<CacheState>)],
    written: &ExportedFile,
    (offset, len): (u64, u64),
    path: WritePath,
) -> Vec<StalePages> {
    let mut out = Vec::new();
    let (start, end) = (written.start + offset, written.start + offset + len);
    let of_disk = files.iter().enumerate().filter(|(_, f)| Arc::ptr_eq(&f.0.disk, &written.disk));
    for (index, (file, cache)) in of_disk {
        let itself = file.start == written.start && file.len == written.len;
        let (from, to) = (start.max(file.start), end.min(file.start + file.len));
        // The kernel updates the pages of the file that is written, except those of a mapping that
        // was made through another handle of a whole disk, with O_DIRECT.
        let updated = itself && (path != WritePath::Direct || !file.is_whole());
        if from < to && !updated && cache.touch() {
            let wait = if file.is_whole() { Wait::Alias } else { Wait::Derived };
            let (offset, len) = (from - file.start, to - from);
            out.push(StalePages { file: index, offset, len, wait, gap: None });
        }
        let Some(gap_end) = file.disk.gap_end().filter(|g| file.is_whole() && end > *g) else {
            continue;
        };
        if let Some(reads) = cache.gap_pages() {
            if cache.touch() {
                let gap = Some((Arc::clone(cache), reads));
                let wait = Wait::Derived;
                out.push(StalePages { file: index, offset: 0, len: gap_end, wait, gap });
            }
        }
    }
    out
}

/// Whether a write must be answered before pages are dropped, because the kernel may hold some of
/// them until it is.
pub fn answers_first(written: &ExportedFile, offset: u64, path: WritePath) -> bool {
    let near_gap = |gap_end| written.start + offset < gap_end + FOLIO_MAX;
    match path {
        WritePath::Direct => false,
        WritePath::Cached => written.disk.gap_end().is_some_and(near_gap),
        WritePath::WriteBack => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Region, RegionKind, RegionTable, Source};

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
            let file = ExportedFile { name: name.into(), disk: Arc::clone(&disk), start, len };
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
        // Nobody has anything open: the next open is told.
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
