//! Writing contents to a file or a block device: sharing blocks where that can be, then copying
//! with several threads what is left. Holes stay holes, and blocks of zeros become some.

use super::contents::Contents;
use super::progress::Progress;
use super::room::no_room;
use super::share::{Reflink, share};
use super::writeback;
use crate::layout::format_size;
use crate::process::Stop;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A copy goes in pieces of at most this many bytes, each within a multiple of it. Small enough that
/// what was read is still in the processor's cache when it is written.
const PIECE: u64 = 256 << 10;
/// Zeros are found in units of this many bytes.
const GRAIN: usize = 4096;
/// Zeros written to a device that cannot make them itself, in bytes at a time.
const ZEROS: usize = 1 << 20;

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions<'a> {
    /// Whether blocks are shared.
    pub reflink: Reflink,
    /// Go on although there may be too little room.
    pub force: bool,
    /// Tell nothing on the way.
    pub quiet: bool,
    /// What the copy is called when telling.
    pub name: &'a str,
    /// Raised to end it.
    pub stop: &'a Stop,
}

/// What became of the bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Copied {
    /// Bytes that are the same blocks as those of an image or overlay, its holes among them.
    pub shared: u64,
    /// Bytes that were written.
    pub written: u64,
}

/// Write `contents` to `target`, a new and empty file. `room` is how many bytes it can take.
///
/// # Errors
/// [`ErrorKind::TooLarge`] when it will not fit, before anything is written;
/// [`ErrorKind::Unsupported`] when blocks must be shared and cannot be; the system calls'; that of
/// `stop`.
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
                "{} is {}, which is more than a file may have there",
                options.name,
                format_size(contents.len())
            ),
            e,
        ),
        _ => failed(e),
    })?;
    let plan = share(contents, target, options)?;
    let needed: u64 = plan.rest.iter().map(|r| r.end - r.start).sum();
    if let Some(room) = room.filter(|room| *room < needed && !options.force) {
        return Err(no_room(options.name, needed, room));
    }
    let written = copy(contents, target, &plan.rest, needed, false, options)?;
    Ok(Copied { shared: plan.shared, written })
}

/// Write `contents` over the beginning of the block device `target`, which is long enough.
///
/// # Errors
/// The system calls'; that of `stop`. What was written before stays.
pub fn to_device(
    contents: &dyn Contents,
    target: &File,
    options: &CopyOptions<'_>,
) -> Result<Copied> {
    let mut rest = Vec::new();
    let mut at = 0;
    while at < contents.len() {
        let found = contents.extent_at(at).map_err(cannot_read)?;
        // Devices zero whole blocks; the edges of a hole are written.
        let grain = GRAIN as u64;
        let start = at.next_multiple_of(grain).min(found.end);
        let stop = (found.end - found.end % grain).max(start);
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

/// What the threads of a copy share.
struct Shared<'a> {
    contents: &'a dyn Contents,
    target: &'a File,
    /// Which range comes next, and from where.
    next: Mutex<(usize, u64)>,
    rest: &'a [Range<u64>],
    /// Blocks of zeros are written too.
    with_zeros: bool,
    progress: Progress,
    written: AtomicU64,
    /// Set by an error.
    ended: AtomicBool,
    error: Mutex<Option<Error>>,
    options: &'a CopyOptions<'a>,
}

/// Copy the ranges of `rest`, `total` bytes in all; returns how many were written.
fn copy(
    contents: &dyn Contents,
    target: &File,
    rest: &[Range<u64>],
    total: u64,
    with_zeros: bool,
    options: &CopyOptions<'_>,
) -> Result<u64> {
    let shared = Shared {
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
    // One reads while another writes, which is one at a time on most filesystems.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| shared.work());
        }
    });
    match shared.error.into_inner() {
        Some(e) => Err(e),
        None => Ok(shared.written.into_inner()),
    }
}

impl Shared<'_> {
    /// The next piece that nobody has taken.
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
            let done = check(self.options.stop).and_then(|()| self.copy_piece(&piece, &mut buffer));
            if let Err(e) = done {
                self.fail(e);
            }
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            self.progress.add(piece.end - piece.start);
            // What other threads still write of this comes with the final sync.
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

/// The runs of blocks in `bytes`, which lie at `offset` of a file, that are not all zeros.
fn data_runs(bytes: &[u8], offset: u64) -> impl Iterator<Item = Range<usize>> + '_ {
    // Blocks are those of the file.
    let first = GRAIN - (offset % GRAIN as u64) as usize;
    let block_end = move |at: usize| if at < first { first } else { at + GRAIN };
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut start = None;
        while at < bytes.len() {
            let end = block_end(at).min(bytes.len());
            let zeros = is_zero(&bytes[at..end]);
            match start {
                Some(start) if zeros => return Some(start..std::mem::replace(&mut at, end)),
                None if !zeros => start = Some(at),
                _ => {}
            }
            at = end;
        }
        start.map(|start| start..bytes.len())
    })
}

/// Whether there are only zeros; compilers make vector instructions of it.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Most data says so at once.
    let (head, rest) = bytes.split_at(bytes.len().min(64));
    head.iter().all(|b| *b == 0)
        && rest.chunks(512).all(|chunk| chunk.iter().fold(0, |all, b| all | b) == 0)
}

/// Make a range of a device read as zeros, without writing them where the device can.
fn zero_device(target: &File, range: Range<u64>, options: &CopyOptions<'_>) -> Result<()> {
    // In steps, so that it can be ended: a device may write them after all.
    const STEP: u64 = 1 << 30;
    let mut at = range.start;
    while at < range.end {
        check(options.stop)?;
        let end = range.end.min((at / STEP + 1) * STEP);
        let zero = |mode| {
            let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(target, mode, at as i64, (end - at) as i64)
        };
        // The first discards and fails where that would not leave zeros; the second has the kernel
        // write them if need be. See blkdev_fallocate() in the kernel's block/fops.c.
        let zeroed = zero(FallocateFlags::FALLOC_FL_PUNCH_HOLE)
            .or_else(|_| zero(FallocateFlags::FALLOC_FL_ZERO_RANGE));
        if zeroed.is_err() {
            write_zeros(target, at..end).map_err(|e| cannot_write(options.name, e))?;
        }
        at = end;
    }
    Ok(())
}

fn write_zeros(target: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = range.start;
    while at < range.end {
        let n = (range.end - at).min(ZEROS as u64);
        target.write_all_at(&zeros[..n as usize], at)?;
        at += n;
    }
    Ok(())
}

/// The error of a raised `stop`.
pub(super) fn check(stop: &Stop) -> Result<()> {
    if stop.signal().is_some() { Err(stop.error()) } else { Ok(()) }
}

pub(super) fn cannot_read(e: io::Error) -> Error {
    Error::io("cannot read the disk", e)
}

pub(super) fn cannot_write(name: &str, e: io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOSPC) => {
            Error::new(ErrorKind::TooLarge, format!("there is no room left for {name}"))
        }
        Some(libc::EDQUOT) => {
            Error::new(ErrorKind::TooLarge, format!("your quota leaves no room for {name}"))
        }
        _ => Error::io(format!("cannot write {name}"), e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_in_blocks_of_the_file() {
        let mut bytes = vec![0; 5 * GRAIN];
        let runs = |bytes: &[u8], at| data_runs(bytes, at).collect::<Vec<_>>();
        assert!(runs(&bytes, 0).is_empty());
        assert!(runs(&[], 0).is_empty());
        bytes[GRAIN] = 1;
        bytes[2 * GRAIN + 5] = 1;
        bytes[5 * GRAIN - 1] = 1;
        assert_eq!(runs(&bytes, 0), [GRAIN..3 * GRAIN, 4 * GRAIN..5 * GRAIN]);
        // Shifted by a sector, the same bytes lie in other blocks.
        let first = GRAIN - 512;
        assert_eq!(runs(&bytes, 512), [first..first + 2 * GRAIN, first + 4 * GRAIN..5 * GRAIN]);
        assert_eq!(runs(&[1, 0], 4095).first(), Some(&(0..1)));
        assert!(runs(&[0; 100], 4095).is_empty());
    }

    #[test]
    fn zero_or_not() {
        for len in [0, 1, 63, 64, 65, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in [0, len / 2, len.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes), "{at} of {len}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
