//! Writing contents to a file or a block device: blocks are shared if possible, and several threads
//! copy the rest. Holes stay holes, and blocks of zeros become holes.

use super::contents::Contents;
use super::device::zero_device;
use super::errors::{cannot_read, cannot_write, check_stop, no_room};
use super::options::CopyOptions;
use super::progress::Progress;
use super::share::share;
use super::writeback;
use super::zeros::{BLOCK, data_runs};
use crate::layout::format_size;
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Data is copied in pieces of at most this many bytes, none of which crosses a multiple of this
/// size: small enough that the bytes are still in the processor's cache when they are written.
const PIECE: u64 = 256 << 10;

/// How the bytes were stored in a result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Copied {
    /// Bytes in blocks shared with an image or overlay, including its holes.
    pub shared: u64,
    /// Bytes that were copied.
    pub written: u64,
}

/// Write `contents` to `target`, a new, empty file. `room` is the number of bytes that it can hold.
///
/// # Errors
/// [`ErrorKind::TooLarge`] when the data will not fit, before anything is written;
/// [`ErrorKind::Unsupported`] when blocks must be shared but cannot be; errors of the system calls;
/// the error of `stop`.
pub fn to_file(
    contents: &dyn Contents,
    target: &File,
    room: Option<u64>,
    options: &CopyOptions<'_>,
) -> Result<Copied> {
    let failed = |e| cannot_write(options.name, e);
    target.set_len(contents.len()).map_err(|e| match e.raw_os_error() {
        Some(libc::EFBIG) => Error::with_source(
            ErrorKind::TooLarge,
            format!(
                "{} would have {}, which is more than its filesystem allows for a file",
                options.name,
                format_size(contents.len())
            ),
            e,
        ),
        _ => failed(e),
    })?;
    let sharing = share(contents, target, options)?;
    let needed: u64 = sharing.rest.iter().map(|r| r.end - r.start).sum();
    if let Some(room) = room.filter(|room| *room < needed && !options.force) {
        return Err(no_room(options.name, needed, room));
    }
    let written = copy(contents, target, &sharing.rest, needed, false, options)?;
    Ok(Copied { shared: sharing.shared, written })
}

/// Write `contents` to the beginning of the block device `target`, which must be large enough.
///
/// # Errors
/// Errors of the system calls; the error of `stop`. Bytes that were already written stay.
pub fn to_device(
    contents: &dyn Contents,
    target: &File,
    options: &CopyOptions<'_>,
) -> Result<Copied> {
    let mut rest = Vec::new();
    let mut at = 0;
    while at < contents.len() {
        let found = contents.extent_at(at).map_err(cannot_read)?;
        // Devices zero whole blocks; the partial blocks at both ends of a hole are written.
        let block = BLOCK as u64;
        let start = at.next_multiple_of(block).min(found.end);
        let stop = (found.end - found.end % block).max(start);
        if found.data || start == stop {
            rest.push(at..found.end);
        } else {
            rest.extend([at..start, stop..found.end].into_iter().filter(|r| !r.is_empty()));
            zero_device(target, start..stop, options)?;
        }
        at = found.end;
    }
    let needed: u64 = rest.iter().map(|r| r.end - r.start).sum();
    let written = copy(contents, target, &rest, needed, true, options)?;
    Ok(Copied { shared: 0, written })
}

/// State shared by the threads of a copy.
struct CopyJob<'a> {
    contents: &'a dyn Contents,
    target: &'a File,
    /// Index of the next range, and the next offset in it.
    next: Mutex<(usize, u64)>,
    rest: &'a [Range<u64>],
    /// Whether blocks of zeros are also written.
    with_zeros: bool,
    progress: Progress,
    written: AtomicU64,
    /// Set when an error occurs.
    ended: AtomicBool,
    error: Mutex<Option<Error>>,
    options: &'a CopyOptions<'a>,
}

/// Copy the ranges of `rest`, `total` bytes in all; returns the number of bytes written.
fn copy(
    contents: &dyn Contents,
    target: &File,
    rest: &[Range<u64>],
    total: u64,
    with_zeros: bool,
    options: &CopyOptions<'_>,
) -> Result<u64> {
    let job = CopyJob {
        contents,
        target,
        next: Mutex::new((0, rest.first().map_or(0, |r| r.start))),
        rest,
        with_zeros,
        progress: Progress::new(format!("writing {}", options.name), total, options.quiet),
        written: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        error: Mutex::new(None),
        options,
    };
    // One thread reads while another writes; most filesystems serialise writes to a file.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| job.work());
        }
    });
    match job.error.into_inner() {
        Some(e) => Err(e),
        None => Ok(job.written.into_inner()),
    }
}

impl CopyJob<'_> {
    /// The next piece that no thread has taken.
    fn take(&self) -> Option<Range<u64>> {
        let mut next = self.next.lock();
        let (index, at) = *next;
        let range = self.rest.get(index)?;
        let end = range.end.min((at / PIECE + 1) * PIECE);
        *next = match self.rest.get(index + 1) {
            Some(following) if end == range.end => (index + 1, following.start),
            _ if end == range.end => (index + 1, 0),
            _ => (index, end),
        };
        Some(at..end)
    }

    fn work(&self) {
        let mut buffer = vec![0; PIECE as usize];
        while let Some(piece) = self.take() {
            let done =
                check_stop(self.options.stop).and_then(|()| self.copy_piece(&piece, &mut buffer));
            if let Err(e) = done {
                self.fail(e);
            }
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            self.progress.add(piece.end - piece.start);
            // Pieces that other threads are still writing are left to the final sync.
            if piece.end % writeback::STEP == 0 {
                writeback::begin(self.target, piece.end - writeback::STEP..piece.end);
            }
        }
    }

    fn fail(&self, e: Error) {
        self.error.lock().get_or_insert(e);
        self.ended.store(true, Ordering::SeqCst);
    }

    fn copy_piece(&self, piece: &Range<u64>, buffer: &mut [u8]) -> Result<()> {
        let bytes = &mut buffer[..(piece.end - piece.start) as usize];
        self.contents.read_at(bytes, piece.start).map_err(cannot_read)?;
        let mut wrote = 0;
        let mut write = |run: Range<usize>| {
            wrote += run.len() as u64;
            self.target.write_all_at(&bytes[run.clone()], piece.start + run.start as u64)
        };
        let result = if self.with_zeros {
            write(0..bytes.len())
        } else {
            data_runs(bytes, piece.start).try_for_each(&mut write)
        };
        result.map_err(|e| cannot_write(self.options.name, e))?;
        self.written.fetch_add(wrote, Ordering::Relaxed);
        Ok(())
    }
}
